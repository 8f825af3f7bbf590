"""A two-second look at an environment before any training, so that none fails after an hour.

Checked: the shapes of what `reset` and `step` return, structure, shape and dtype of observations
against their space, rewards, flags, infos, and whether the spaces are supported. Not checked, since
working environments do it: values slightly outside the bounds, a dtype that converts safely, and
observations that share one buffer, which every collector here copies before the next step.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from lightning_rl.envs.masks import random_action
from lightning_rl.envs.snapshot import env_name, untouched_global_streams
from lightning_rl.envs.spaces import SUPPORTED_ACTIONS, flatten_space
from lightning_rl.errors import ConfigError

PREFLIGHT_SECONDS = 2.0
PREFLIGHT_STEPS = 20
"""Env steps that are tried, resets aside."""

_ACTIONS = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)


def check_env(env: gymnasium.Env, seed: int = 0) -> None:
    """Reset and step a scratch instance with random actions and check all it returns.

    Stops after `PREFLIGHT_STEPS` steps or `PREFLIGHT_SECONDS`, but cannot interrupt a call that
    hangs. No global random stream moves.

    Args:
        env: The environment; its state is not put back.
        seed: Seed of its resets and of the actions.

    Raises:
        ConfigError: In one line, with the environment, the step and the field.
    """
    _check_spaces(env)
    with untouched_global_streams():
        _check_calls(env, seed)


def _check_calls(env: gymnasium.Env, seed: int) -> None:
    deadline = time.monotonic() + PREFLIGHT_SECONDS
    action_space = copy.deepcopy(env.action_space)
    action_space.seed(seed)
    ended = True
    for step in range(PREFLIGHT_STEPS):
        if ended:
            _check_reset(env, seed + step, step)
        ended = _check_step(env, random_action(env, action_space), step + 1)
        if time.monotonic() > deadline:
            return


def _check_spaces(env: gymnasium.Env) -> None:
    for field in ("observation_space", "action_space"):
        try:
            space = getattr(env, field)
        except AttributeError:
            space = None
        if not isinstance(space, spaces.Space):
            raise _mistake(env, "construction", field, "a gymnasium space", repr(space))
    if not isinstance(env.action_space, _ACTIONS):
        received = _one_line(env.action_space)
        raise _mistake(env, "construction", "action_space", SUPPORTED_ACTIONS, received)
    try:
        flatten_space(env.observation_space)
    except ConfigError as error:
        raise ConfigError(f"environment {env_name(env)}: observation_space: {error}") from error


def _check_reset(env: gymnasium.Env, seed: int, step: int) -> None:
    where = f"reset before step {step + 1}"
    try:
        result = env.reset(seed=seed)
    except Exception as error:
        raise _raised(env, where, error) from error
    if not isinstance(result, tuple) or len(result) != 2:
        raise _mistake(env, where, "result", "a pair (observation, info)", _kind(result))
    _check_observation(env, result[0], where)
    _check_info(env, result[1], where)


def _check_step(env: gymnasium.Env, action: Any, step: int) -> bool:
    where = f"step {step}"
    try:
        result = env.step(action)
    except Exception as error:
        raise _raised(env, where, error) from error
    if not isinstance(result, tuple) or len(result) != 5:
        expected = "(observation, reward, terminated, truncated, info)"
        raise _mistake(env, where, "result", expected, _kind(result))
    observation, reward, terminated, truncated, info = result
    _check_observation(env, observation, where)
    _check_reward(env, reward, where)
    for field, flag in (("terminated", terminated), ("truncated", truncated)):
        if not _is_flag(flag):
            raise _mistake(env, where, field, "a bool", _kind(flag))
    _check_info(env, info, where)
    return bool(terminated or truncated)


def _check_observation(env: gymnasium.Env, observation: Any, where: str) -> None:
    for field, leaf, space in _leaves(
        env, observation, env.observation_space, "observation", where
    ):
        try:
            array = np.asarray(leaf)
        except ValueError as error:
            raise _mistake(env, where, field, "an array", _kind(leaf)) from error
        if array.shape != space.shape:
            shape = "" if isinstance(leaf, np.ndarray) else f" of shape {array.shape}"
            raise _mistake(env, where, field, f"shape {space.shape}", f"{_kind(leaf)}{shape}")
        dtype = np.dtype(space.dtype)
        if not np.can_cast(array.dtype, dtype, "same_kind"):
            raise _mistake(env, where, field, f"dtype {dtype}", f"{array.dtype}")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise _mistake(env, where, field, "finite numbers", _one_line(array))
        if not isinstance(space, spaces.Box) and not space.contains(array.astype(dtype)):
            # A category outside its range would index past the end of a one-hot code.
            raise _mistake(env, where, field, f"a value of {space}", _one_line(array))


def _leaves(
    env: gymnasium.Env, value: Any, space: Any, field: str, where: str
) -> list[tuple[str, Any, Any]]:
    """Return `(field, value, leaf space)` for the parts of an observation, or raise."""
    if isinstance(space, spaces.Dict):
        if not isinstance(value, Mapping):
            raise _mistake(env, where, field, "a dict", _kind(value))
        if value.keys() != space.spaces.keys():
            expected = f"the keys {sorted(space.spaces)}"
            raise _mistake(env, where, field, expected, str(sorted(map(str, value))))
        parts = [(f"{field}[{key!r}]", value[key], part) for key, part in space.spaces.items()]
    elif isinstance(space, spaces.Tuple):
        if not isinstance(value, tuple) or len(value) != len(space.spaces):
            expected = f"a tuple of {len(space.spaces)}"
            raise _mistake(env, where, field, expected, _kind(value))
        parts = [(f"{field}[{n}]", value[n], part) for n, part in enumerate(space.spaces)]
    else:
        return [(field, value, space)]
    return [leaf for name, item, part in parts for leaf in _leaves(env, item, part, name, where)]


def _check_reward(env: gymnasium.Env, reward: Any, where: str) -> None:
    number = isinstance(reward, bool | int | float | np.generic | np.ndarray)
    if not number or np.shape(reward) != () or np.asarray(reward).dtype.kind not in "biuf":
        raise _mistake(env, where, "reward", "a number", _kind(reward))
    if not np.isfinite(reward):
        raise _mistake(env, where, "reward", "a finite number", str(reward))


def _check_info(env: gymnasium.Env, info: Any, where: str) -> None:
    if not isinstance(info, dict):
        raise _mistake(env, where, "info", "a dict", _kind(info))
    strange = next((key for key in info if not isinstance(key, str)), None)
    if strange is not None:
        raise _mistake(env, where, "info", "keys that are strings", repr(strange))


def _is_flag(flag: Any) -> bool:
    """Whether `flag` is a bool of Python or NumPy, or 0 or 1, and not an array."""
    if isinstance(flag, bool | np.bool_):
        return True
    return isinstance(flag, int | np.integer) and flag in (0, 1)


def _mistake(
    env: gymnasium.Env, where: str, field: str, expected: str, received: str
) -> ConfigError:
    return ConfigError(
        f"environment {env_name(env)}, {where}: expected {field} to be {expected}, "
        f"received {received}"
    )


def _raised(env: gymnasium.Env, where: str, error: Exception) -> ConfigError:
    if isinstance(error, ConfigError):  # of a wrapper of ours, and as clear as it can be
        return ConfigError(f"environment {env_name(env)}, {where}: {error}")
    reason = _one_line(error)
    return ConfigError(
        f"environment {env_name(env)}, {where}: raised {type(error).__name__}: {reason}"
    )


def _kind(value: Any) -> str:
    if isinstance(value, tuple):
        return f"a tuple of {len(value)}"
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape}"
    return "None" if value is None else f"{type(value).__name__} {_one_line(value)}"


def _one_line(value: Any) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 80 else f"{text[:77]}..."
