"""The state of one environment as primitives, how well it can be saved, and how to put it back.

Three levels, found by a probe on scratch instances and not by trust:

- `exact`: a typed walk over all attributes (`state_walk`), or the class's own `snapshot()` and
  `restore(state)`. The environment goes on as if nothing had happened.
- `replay`: reset with the episode's seed and repeat its actions. Exact for any environment whose
  reset leaves nothing behind.
- `boundary`: neither works. Open episodes are dropped, and training goes on with new ones.

`deepcopy` and pickle are not used: copies of MuJoCo and Atari environments made by them run on
silently different.
"""

from __future__ import annotations

import copy
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import gymnasium
import numpy as np
import torch

from lightning_rl.envs.masks import random_action
from lightning_rl.envs.state_walk import decode_state, encode_state
from lightning_rl.errors import CheckpointError, ConfigError
from lightning_rl.types import SnapshotLevel

EXACT_SECONDS = 1.0  # caps of the probe's two parts: beyond them comparisons get shorter
REPLAY_SECONDS = 2.0
MIN_STEPS = 5
USED_STEPS = 20  # before a snapshot is taken, and of a life that must leave no trace
REPLAY_EPISODES = 8  # a BipedalWalker differs in about a third of its episodes

Event = tuple[Any, ...]


def env_name(env: gymnasium.Env) -> str:
    """Return the registered id of an environment, or the name of its class."""
    return env.spec.id if env.spec is not None else type(env.unwrapped).__name__


def snapshot_env(env: gymnasium.Env, level: SnapshotLevel = "exact") -> dict[str, Any]:
    """Return the state of `env` (the outermost wrapper) as text.

    Args:
        env: The environment, which must not be stepping.
        level: `exact`; the caller holds what `replay` needs, see `replay_snapshot`.

    Raises:
        ConfigError: For another level.
        UnsupportedState: When it holds a value of an unknown kind; names the attribute.
    """
    if level != "exact":
        raise ConfigError(f"expected level 'exact' for a snapshot, received {level!r}")
    return {"level": level, "env": env_name(env), "state": encode_state(_without_verbs(env))}


def replay_snapshot(
    env: gymnasium.Env, seed: int, actions: Sequence[Any], observation: Any
) -> dict[str, Any]:
    """Return the state of an open episode at level `replay`.

    Args:
        env: The environment.
        seed: Seed of the episode's reset.
        actions: What was passed to `step` since.
        observation: The last one returned; `restore_env` compares it bit for bit.
    """
    content = {"seed": int(seed), "actions": list(actions), "observation": observation}
    return {"level": "replay", "env": env_name(env), "state": encode_state(_Record(content))}


def restore_env(env: gymnasium.Env, state: dict[str, Any]) -> None:
    """Put `env`, which was constructed in the same way, into a saved state.

    When it raises, `env` may be half written and must be thrown away.

    Raises:
        CheckpointError: When the state belongs to another environment, or a replayed episode does
            not lead to the saved observation.
    """
    if state["env"] != env_name(env):
        raise CheckpointError(f"expected a state of {env_name(env)}, received {state['env']}")
    if state["level"] == "exact":
        decode_state(state["state"], _without_verbs(env))
        return
    record = _Record({})
    decode_state(state["state"], record)
    saved = record.content
    observation = replay_env(env, saved["seed"], saved["actions"])
    if not same_bits(observation, saved["observation"]):
        raise CheckpointError(
            f"environment {env_name(env)} did not return to its saved observation when its open "
            "episode was replayed; it is not deterministic here"
        )


def replay_env(env: gymnasium.Env, seed: int, actions: Sequence[Any]) -> Any:
    """Reset `env` with `seed`, repeat `actions` and return the last observation."""
    observation, _ = env.reset(seed=seed)
    for action in actions:
        observation = env.step(action)[0]
    return observation


def same_bits(left: Any, right: Any) -> bool:
    """Whether two observations agree in structure, dtype, shape and every bit (NaN included)."""
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same_bits(left[k], right[k]) for k in left)
    if isinstance(left, tuple | list) and isinstance(right, tuple | list):
        return len(left) == len(right) and all(map(same_bits, left, right))
    left, right = np.asarray(left), np.asarray(right)
    if left.dtype.hasobject or right.dtype.hasobject:
        return bool(np.array_equal(left, right))
    same_kind = left.dtype == right.dtype and left.shape == right.shape
    return same_kind and left.tobytes() == right.tobytes()


def probe_snapshot_level(
    make_env: Callable[[], gymnasium.Env], seed: int = 0, num_steps: int = 50
) -> SnapshotLevel:
    """Find out on scratch instances how well an environment's state can be saved.

    `exact` needs two restored instances, one used and one new, to go on bit for bit like the
    original for `num_steps` steps, two seeded resets among them. `replay` needs a used instance to
    play episodes bit for bit like new ones. It takes milliseconds; where steps are slow, the
    comparisons get shorter after `EXACT_SECONDS` and `REPLAY_SECONDS`. No global random stream
    moves, and what the environment raises is not caught.

    Args:
        make_env: Builds one instance.
        seed: Seed of the probe's episodes and actions.
        num_steps: Env steps of each comparison.

    Returns:
        The best level that held.
    """
    probe = _Probe(make_env, seed, num_steps)
    with untouched_global_streams():
        if probe.exact():
            return "exact"
        return "replay" if probe.replay() else "boundary"


class SnapshotWrapper(gymnasium.Wrapper):
    """Outermost wrapper whose methods a worker process of `AsyncVectorEnv` can be told to call."""

    def snapshot_state(self, level: SnapshotLevel = "exact") -> dict[str, Any]:
        """Return `snapshot_env` of what is wrapped."""
        return snapshot_env(self.env, level)

    def restore_state(self, state: dict[str, Any]) -> None:
        """Apply `restore_env` to what is wrapped."""
        restore_env(self.env, state)

    def replay_state(self, seed: int, actions: Sequence[Any]) -> Any:
        """Return `replay_env` of what is wrapped: the last observation."""
        return replay_env(self.env, seed, actions)


class _Record:
    """Carries values that are no environment through the walk."""

    def __init__(self, content: dict[str, Any]) -> None:
        self.content = content


class _Probe:
    """Comparisons of scratch instances."""

    def __init__(self, make_env: Callable[[], gymnasium.Env], seed: int, num_steps: int) -> None:
        self.make_env = make_env
        self.seed = seed
        self.num_steps = num_steps
        self.deadline = 0.0

    def exact(self) -> bool:
        self.deadline = time.monotonic() + EXACT_SECONDS
        with ExitStack() as closing:
            original, used, new = (self._make(closing) for _ in range(3))
            # Two steps first: where the walk fails, as on Box2D, no more are lost; and Gymnasium's
            # checker holds an observation, often a view that cannot be saved, until then.
            self._play(original, 2, self.seed, reset=True)
            try:
                snapshot_env(original)
            except CheckpointError:
                return False
            self._play(original, USED_STEPS, self.seed)
            self._play(used, USED_STEPS // 2, self.seed + 1, reset=True)
            try:
                state = snapshot_env(original)
                for env in (used, new):
                    restore_env(env, state)
            except CheckpointError:
                return False
            # In lockstep, so that one that draws from a shared or global stream is found out.
            lives = [
                self._life(env, self.num_steps, self.seed + 2) for env in (original, used, new)
            ]
            return all(
                same_bits(original_event, used_event) and same_bits(original_event, new_event)
                for original_event, used_event, new_event in zip(*lives, strict=False)
            )

    def replay(self) -> bool:
        self.deadline = time.monotonic() + REPLAY_SECONDS
        with ExitStack() as closing:
            used = self._make(closing)
            self._play(used, USED_STEPS, self.seed, reset=True)
            for episode in range(1, REPLAY_EPISODES + 1):
                begun = time.monotonic()
                seed = self.seed + episode
                with ExitStack() as closing_new:
                    new = self._make(closing_new)
                    lives = [self._life(env, self.num_steps, seed, True) for env in (used, new)]
                    if not all(same_bits(*events) for events in zip(*lives, strict=False)):
                        return False
                now = time.monotonic()
                if now + (now - begun) > self.deadline:
                    break
        return True

    def _make(self, closing: ExitStack) -> gymnasium.Env:
        env = self.make_env()
        closing.callback(env.close)
        return env

    def _play(self, env: gymnasium.Env, num_steps: int, seed: int, reset: bool = False) -> None:
        """Step and leave `env` in the middle of an episode."""
        for event in self._life(env, num_steps, seed, reset):
            ended = len(event) > 1 and (event[2] or event[3])
        if ended:
            env.reset(seed=seed)

    def _life(
        self, env: gymnasium.Env, num_steps: int, seed: int, reset: bool = False
    ) -> Iterator[Event]:
        """Step with actions drawn from `seed`; reset first if asked, half way and at every end."""
        space = _seeded_copy(env.action_space, seed)
        for step in range(num_steps):
            if reset:
                yield (env.reset(seed=seed + step)[0],)
            action = random_action(env, space)
            observation, reward, terminated, truncated, _ = env.step(action)
            yield observation, reward, bool(terminated), bool(truncated)
            reset = bool(terminated or truncated or step == num_steps // 2)
            if step + 1 >= MIN_STEPS and time.monotonic() > self.deadline:
                return


def _seeded_copy(space: gymnasium.Space, seed: int) -> gymnasium.Space:
    """Return a space to draw from: drawing from the environment's own would change its state."""
    twin = copy.deepcopy(space)
    twin.seed(seed)
    return twin


def _without_verbs(env: gymnasium.Env) -> gymnasium.Env:
    """Return what lies under a `SnapshotWrapper`: states of sync and async rows are the same."""
    return env.env if isinstance(env, SnapshotWrapper) else env


@contextmanager
def untouched_global_streams() -> Iterator[None]:
    """Put the global streams of Python, NumPy and torch back on leaving."""
    python, numpy, torch_state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(torch_state)
