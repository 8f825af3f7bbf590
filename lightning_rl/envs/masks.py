"""Environments that tell which actions are valid: their masks become part of the observation.

A mask says for each action of a Discrete space, counted from its `start`, whether it is valid; for
MultiDiscrete the masks of its integers stand one after the other, `(sum(nvec),)`, as in
sb3-contrib. It comes, in this order, from an `action_mask` entry of the observation itself, from
`info["action_mask"]`, or from the environment's method `action_masks()`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space

from lightning_rl.errors import ConfigError
from lightning_rl.functional.masks import ACTION_MASK, OBSERVATION, join_mask
from lightning_rl.types import Array

METHOD = "action_masks"
SOURCES = f'info["{ACTION_MASK}"] of reset and step, or a method {METHOD}()'


class Masks:
    """Checks masks for one action space.

    Attributes:
        size: Numbers of a mask.

    Args:
        action_space: Discrete or MultiDiscrete.

    Raises:
        ConfigError: For another one.
    """

    def __init__(self, action_space: Any) -> None:
        if isinstance(action_space, spaces.Discrete):
            self._sizes = [int(action_space.n)]
        elif isinstance(action_space, spaces.MultiDiscrete):
            self._sizes = action_space.nvec.ravel().tolist()
        else:
            raise ConfigError(
                "mask_actions: expected a Discrete or MultiDiscrete action space, received "
                f"{action_space}"
            )
        self.size = sum(self._sizes)
        self._starts = np.cumsum([0, *self._sizes[:-1]])

    def space(self, observation_space: spaces.Space) -> spaces.Dict:
        """Return the space of observations with their masks."""
        is_dict = isinstance(observation_space, spaces.Dict)
        parts: Any = observation_space.spaces if is_dict else observation_space  # type: ignore[attr-defined]
        return spaces.Dict(join_mask(parts, spaces.MultiBinary(self.size)))

    def check(self, mask: Any, leading: tuple[int, ...] = ()) -> Array:
        """Return a mask `(*leading, size)` as int8.

        Raises:
            ConfigError: For another shape.
        """
        array = np.asarray(mask)
        if array.shape != (*leading, self.size):
            raise ConfigError(
                f"mask_actions: expected a mask of shape {(*leading, self.size)}, one entry for "
                f"each action, received {array.shape}"
            )
        return array.astype(bool).astype(np.int8)

    def check_choice(self, mask: Array, row: int | None = None) -> None:
        """Refuse a mask `(size,)` that leaves nothing to choose from.

        Raises:
            ConfigError: Some integer of the action has no valid value.
        """
        valid = np.logical_or.reduceat(mask, self._starts)
        if not valid.all():
            part = "" if len(valid) == 1 else f" for integer {int(valid.argmin())} of the action"
            where = "" if row is None else f" in row {row}"
            raise ConfigError(
                f"mask_actions: expected at least one valid action{part}{where}, received a mask "
                "of zeros; end the episode where nothing can be done"
            )

    def sample(self, mask: Array, space: Any) -> Any:
        """Draw a valid action from `space`."""
        scores = np.where(mask, space.np_random.random(self.size), -1.0)
        picks = [int(part.argmax()) for part in np.split(scores, self._starts[1:])]
        if isinstance(space, spaces.Discrete):
            return space.start + picks[0]
        return (space.start + np.reshape(picks, space.shape)).astype(space.dtype)


class ActionMaskObservation(gymnasium.Wrapper):
    """Shows the mask of valid actions as the observation's `action_mask` entry.

    An observation that is no dictionary becomes the entry `observation`.

    Attributes:
        mask: `(n,)` int8, of the last observation.

    Args:
        env: The environment, with the wrappers that it has.

    Raises:
        ConfigError: For an action space that has no masks; from `reset` and `step`, for an
            environment that gives none, or one of another shape or without a valid action.
    """

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        self._masks = Masks(env.action_space)
        self.observation_space = self._masks.space(env.observation_space)
        self.mask: Array = np.zeros(self._masks.size, dtype=np.int8)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """Reset; arguments and result as in Gymnasium."""
        observation, info = self.env.reset(seed=seed, options=options)
        return self._show(observation, info), info

    def step(self, action: Any) -> Any:
        """Step; arguments and result as in Gymnasium."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        shown = self._show(observation, info, bool(terminated or truncated))
        return shown, reward, terminated, truncated, info

    def sample(self, space: spaces.Space) -> Any:
        """Draw a valid action from `space`, a copy of the action space."""
        return self._masks.sample(self.mask, space)

    def _show(self, observation: Any, info: Mapping[str, Any], ended: bool = False) -> Any:
        mask = _mask_of(self.env, observation, info)
        self.mask = self._masks.check(mask)
        if not ended:  # nobody acts upon an episode's last observation
            self._masks.check_choice(self.mask)
        return join_mask(observation, self.mask)


def random_action(env: gymnasium.Env, space: spaces.Space) -> Any:
    """Draw from `space`, a copy of the action space: a valid action where `env` shows masks."""
    return env.sample(space) if isinstance(env, ActionMaskObservation) else space.sample()


class BatchedActionMask(VectorWrapper):
    """`ActionMaskObservation` of an environment's own batched implementation; masks are `(N, n)`.

    Args:
        env: The batched implementation.

    Raises:
        ConfigError: As `ActionMaskObservation`.
    """

    def __init__(self, env: VectorEnv) -> None:
        super().__init__(env)
        self._masks = Masks(env.single_action_space)
        self.single_observation_space = self._masks.space(env.single_observation_space)
        self.observation_space = batch_space(self.single_observation_space, env.num_envs)
        self._last: Array = np.zeros((env.num_envs, self._masks.size), dtype=np.int8)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> Any:
        """Reset; arguments and result as in Gymnasium."""
        observation, info = self.env.reset(seed=seed, options=options)
        return self._show(observation, info, np.zeros(self.num_envs, dtype=bool)), info

    def step(self, actions: Any) -> Any:
        """Step; arguments and result as in Gymnasium."""
        observation, reward, terminated, truncated, info = self.env.step(actions)
        ended = np.asarray(terminated) | np.asarray(truncated)
        shown = self._show(observation, info, ended)
        if "final_obs" in info:  # each a row's observation, or a batch of its entries
            nothing = np.zeros_like(self._last)
            finals = info["final_obs"]
            if not isinstance(finals, Mapping):
                finals = {OBSERVATION: finals, f"_{OBSERVATION}": info.get("_final_obs", ended)}
            info = {**info, "final_obs": join_mask(finals, nothing)}
        return shown, reward, terminated, truncated, info

    def _show(self, observation: Any, info: Mapping[str, Any], ended: Array) -> Any:
        mask = self._masks.check(_mask_of(self.env, observation, info), self._last.shape[:1])
        given = info.get(f"_{ACTION_MASK}")
        self._last = mask if given is None else np.where(given[:, None], mask, self._last)
        for row in np.flatnonzero(~ended):
            self._masks.check_choice(self._last[row], int(row))
        return join_mask(observation, self._last)


def with_mask(observation: Any, mask: Any, action_space: spaces.Space) -> dict[str, Any]:
    """Return an observation, or a batch of them, with the mask that the caller of a policy gives.

    Args:
        observation: As the environment returns it.
        mask: `(n,)` or `(N, n)`; None where the observation holds it already.
        action_space: What the mask is for.

    Raises:
        ConfigError: When there is no mask, one of another shape, or one without a valid action.
    """
    if mask is None and not (isinstance(observation, Mapping) and ACTION_MASK in observation):
        raise ConfigError(
            "expected the mask of valid actions, as in predict(observation, "
            f'action_mask=info["{ACTION_MASK}"]), received none'
        )
    masks = Masks(action_space)
    mask = np.asarray(observation[ACTION_MASK] if mask is None else mask)
    mask = masks.check(mask, mask.shape[:-1][:1])
    for row in mask.reshape(-1, masks.size):
        masks.check_choice(row)
    return join_mask(observation, mask)


def _mask_of(env: Any, observation: Any, info: Mapping[str, Any]) -> Any:
    """Return the mask that an environment, single or batched, gives for its last observation."""
    if isinstance(observation, Mapping) and ACTION_MASK in observation:
        return observation[ACTION_MASK]
    if ACTION_MASK in info:
        return info[ACTION_MASK]
    method = _method_of(env)
    if method is None:
        raise ConfigError(
            f"mask_actions: expected the environment to give masks by {SOURCES}, received neither"
        )
    return method()


def _method_of(env: Any) -> Callable[[], Any] | None:
    if isinstance(env, gymnasium.Env):
        return env.get_wrapper_attr(METHOD) if env.has_wrapper_attr(METHOD) else None
    method: Callable[[], Any] | None = getattr(env.unwrapped, METHOD, None)
    return method
