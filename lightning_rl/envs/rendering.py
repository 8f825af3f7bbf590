"""Environments that show themselves: built for a render mode, and their frames checked."""

from __future__ import annotations

import math
import os
import warnings
from typing import Any, Literal

import gymnasium
import numpy as np

from lightning_rl.envs.config import EnvConfig
from lightning_rl.errors import ConfigError
from lightning_rl.types import Array

RenderMode = Literal["human", "rgb_array"]
DEFAULT_FPS = 30.0


def make_rendering(
    config: EnvConfig, mode: RenderMode = "rgb_array", evaluation: bool = True
) -> gymnasium.Env:
    """Build one environment that renders in `mode`.

    Args:
        config: Its description.
        mode: `human` for a window, `rgb_array` for frames.
        evaluation: Lay `eval_kwargs` over `kwargs`.

    Raises:
        ConfigError: It has no such mode; those that it has are named.
    """
    if mode == "rgb_array" and not {"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys():
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # pygame looks for a display, loudly
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Gymnasium's, about the mode; said below
            env = config.make(evaluation, render_mode=mode)
    except TypeError as error:  # a factory without that argument
        raise ConfigError(
            f"environment {config.name} cannot be rendered: it takes no render_mode ({error})"
        ) from error
    if env.render_mode != mode:
        modes = env.metadata.get("render_modes") or ["none"]
        env.close()
        raise ConfigError(
            f"environment {config.name} has no render mode {mode!r}; it has "
            f"{', '.join(map(str, modes))}"
        )
    return env


def frame_of(env: gymnasium.Env) -> Array:
    """Return what an environment shows now, `(H, W, 3)` uint8.

    Raises:
        ConfigError: It cannot draw here, or returns something else.
    """
    try:
        frame: Any = env.render()
    except Exception as error:  # a display, a driver or a package that is missing
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        hint = "; without a display set MUJOCO_GL=egl or MUJOCO_GL=osmesa" if "GL" in reason else ""
        raise ConfigError(f"{_name(env)} cannot be drawn: {reason}{hint}") from error
    array = np.asarray(frame)
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8:
        kind = f"{array.shape} of {array.dtype}" if isinstance(frame, np.ndarray) else repr(frame)
        raise ConfigError(f"{_name(env)}: expected render() to return (H, W, 3) uint8, got {kind}")
    return array


def frames_per_second(env: gymnasium.Env) -> float:
    """Return the environment's own `render_fps`, or 30 where it says nothing usable."""
    fps: Any = env.metadata.get("render_fps")
    number = isinstance(fps, (int, float, np.number)) and not isinstance(fps, bool)
    return float(fps) if number and math.isfinite(fps) and 0 < fps <= 1000 else DEFAULT_FPS


def _name(env: gymnasium.Env) -> str:
    return f"environment {env.spec.id if env.spec else type(env.unwrapped).__name__}"
