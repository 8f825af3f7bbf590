"""Environments that draw themselves, and those that cannot."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from lightning_rl.envs.config import EnvConfig
from lightning_rl.envs.rendering import DEFAULT_FPS, frame_of, frames_per_second, make_rendering
from lightning_rl.errors import ConfigError


class Drawing(gymnasium.Env):
    """Draws what it is told to."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 12}  # noqa: RUF012
    observation_space = spaces.Box(-1, 1, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, frame: Any = None, render_mode: str | None = None) -> None:
        self.frame = np.zeros((4, 6, 3), np.uint8) if frame is None else frame
        self.render_mode = render_mode

    def render(self) -> Any:
        if isinstance(self.frame, Exception):
            raise self.frame
        return self.frame


class Stubborn(Drawing):
    def __init__(self, render_mode: str) -> None:
        super().__init__(render_mode="rgb_array")


class Blind(gymnasium.Env):
    observation_space, action_space = Drawing.observation_space, Drawing.action_space


def test_the_environment_is_that_of_evaluation_in_the_mode_asked_for() -> None:
    config = EnvConfig("FrozenLake-v1", eval_kwargs={"map_name": "8x8"})
    env = make_rendering(config)
    assert env.render_mode == "rgb_array"
    assert env.observation_space.n == 64
    env.reset(seed=1)
    assert frame_of(env).shape == (512, 512, 3)
    assert frames_per_second(env) == 4.0
    env.close()
    training = make_rendering(config, evaluation=False)
    assert training.observation_space.n == 16
    training.close()


def test_an_environment_without_the_mode_is_refused_with_its_modes() -> None:
    with pytest.raises(ConfigError, match="Stubborn has no render mode 'human'; it has rgb_array"):
        make_rendering(EnvConfig(factory=Stubborn), "human")
    with pytest.raises(ConfigError, match="Blind cannot be rendered: it takes no render_mode"):
        make_rendering(EnvConfig(factory=Blind))


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (np.zeros((4, 6), np.uint8), r"\(4, 6\) of uint8"),
        (np.zeros((4, 6, 3)), "float64"),
        ([], r"got \[\]"),
        (ImportError("no pygame"), "cannot be drawn: ImportError: no pygame$"),
        (RuntimeError("no GLFW here"), "MUJOCO_GL=egl"),
    ],
)
def test_what_is_no_frame_is_refused(frame: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        frame_of(Drawing(frame))


def test_frames_per_second_fall_back_where_they_are_unusable() -> None:
    env = Drawing()
    assert frames_per_second(env) == 12.0
    for fps in (None, 0, -3, float("nan"), float("inf"), "fast", True, 10**9):
        env.metadata = {"render_fps": fps}
        assert frames_per_second(env) == DEFAULT_FPS
