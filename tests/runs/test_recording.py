"""Films of a policy, and episodes played again from their files."""

from __future__ import annotations

import dataclasses
import subprocess
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from lightning_rl import PPO, evaluate_policy, record_replay, record_video
from lightning_rl.envs.config import EnvConfig
from lightning_rl.errors import ConfigError, TrainingFailed
from lightning_rl.storage.episode_file import EpisodeReplay, write_replay

imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg")


class Numbered(gymnasium.Env):
    """Draws its step count as the brightness of the frame; ends after four steps."""

    metadata = {"render_modes": ["rgb_array", "human"], "render_fps": 10}  # noqa: RUF012
    observation_space = spaces.Box(-1, 1, (2,), np.float32)
    action_space = spaces.Discrete(3, start=1)

    def __init__(self, raise_at: int = 99, render_mode: str | None = None) -> None:
        self.raise_at, self.render_mode, self.steps = raise_at, render_mode, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(2, np.float32), {}

    def step(self, action: int) -> Any:
        assert action in (1, 2, 3)
        self.steps += 1
        if self.steps == self.raise_at:
            raise ZeroDivisionError("inside")
        return np.zeros(2, np.float32), 0.5 * action, self.steps == 4, False, {}

    def render(self) -> np.ndarray:
        return np.full((32, 64, 3), 50 * self.steps, np.uint8)


def brightness(path: Path) -> list[int]:
    """Return the brightness of each frame, in steps of 50."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", str(path)]
    raw = subprocess.run(
        [*command, "-f", "rawvideo", "-pix_fmt", "gray", "-"], capture_output=True, check=True
    ).stdout
    frames = np.frombuffer(raw, np.uint8).reshape(-1, 32 * 64).mean(axis=1)
    return [round(float(value) / 50) for value in frames]


@pytest.fixture
def agent() -> PPO:
    return PPO(Numbered, seed=3, hidden_sizes=(8,))


def test_a_film_shows_every_step_of_the_test_episodes(agent: PPO, tmp_path: Path) -> None:
    agent.train()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    recording = record_video(agent, tmp_path / "film.mp4", episodes=2)
    assert brightness(recording.path) == [0, 1, 2, 3, 4] * 2
    assert (recording.frames, recording.fps) == (10, 10.0)
    result = evaluate_policy(agent, num_episodes=2)
    assert recording.episode_rewards == result.episode_rewards
    assert recording.episode_lengths == result.episode_lengths == [4, 4]
    assert torch.equal(torch.get_rng_state(), before)
    assert agent.training
    cut = record_video(agent, tmp_path / "cut.mp4", max_steps_per_episode=2)
    assert brightness(cut.path) == [0, 1, 2]


def test_evaluation_films_one_file_per_episode(
    agent: PPO, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = evaluate_policy(agent, num_episodes=2, render="video")
    assert result.success
    names = sorted(path.name for path in Path("videos").iterdir())
    assert names == ["env_steps=0-episode=0.mp4", "env_steps=0-episode=1.mp4"]
    assert brightness(Path("videos") / names[1]) == [0, 1, 2, 3, 4]
    assert result.episode_rewards == evaluate_policy(agent, num_episodes=2).episode_rewards


def test_a_film_that_fails_is_one_line_and_leaves_no_file(agent: PPO, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"expected the name of an \.mp4 file, received '.*x'"):
        record_video(agent, tmp_path / "x")
    with pytest.raises(ConfigError, match="num_episodes"):
        record_video(agent, tmp_path / "x.mp4", episodes=0)
    with pytest.raises(ConfigError, match="observation space"):
        record_video(agent, tmp_path / "x.mp4", env="CartPole-v1")
    failing = EnvConfig(factory=Numbered, kwargs={"raise_at": 2})
    with pytest.raises(TrainingFailed, match="failed in step: ZeroDivisionError: inside"):
        record_video(agent, tmp_path / "x.mp4", env=failing)
    assert not list(tmp_path.iterdir())


# Replays.

REPLAY = EpisodeReplay(
    algorithm="PPO",
    environment="Numbered",
    env={"factory": "Numbered"},
    seed=1,
    actions=[1, 3, 2, 2],
    rewards=[0.5, 1.5, 1.0, 1.0],
    terminated=True,
    truncated=False,
)


def changed(**fields: Any) -> EpisodeReplay:
    return dataclasses.replace(REPLAY, **fields)


def test_a_replay_is_played_compared_and_filmed(tmp_path: Path) -> None:
    write_replay(REPLAY, tmp_path / "r.json")
    recording = record_replay(tmp_path / "r.json", tmp_path / "film.mp4", env=Numbered)
    assert brightness(recording.path) == [0, 1, 2, 3, 4]
    assert recording.difference is None
    assert recording.episode_rewards == [4.0]
    assert recording.fps == 10.0


@pytest.mark.parametrize(
    ("fields", "difference"),
    [
        ({"rewards": [0.5, 1.5, 1.25, 1.0]}, "the reward of step 3 is 1, in the file 1.25"),
        (
            {"rewards": [0.5, float("nan"), 1.0, 1.0]},
            "the reward of step 2 is 1.5, in the file nan",
        ),
        ({"terminated": False}, "terminated is True at the end, in the file False"),
        (
            {"actions": [1, 3, 2, 2, 1], "rewards": [0.5, 1.5, 1.0, 1.0, 0.5]},
            "the episode ends after 4 steps, in the file after 5",
        ),
    ],
)
def test_a_difference_is_said(fields: dict[str, Any], difference: str) -> None:
    assert record_replay(changed(**fields), env=Numbered).difference == difference


@pytest.mark.parametrize("action", [0, 4, 1.5, "1", [1], None, True, float("nan"), 10**30])
def test_an_action_that_is_none_of_the_space_is_refused(action: Any) -> None:
    if action is True:  # the same as 1
        assert record_replay(changed(actions=[True, 3, 2, 2]), env=Numbered).difference is None
        return
    with pytest.raises(ConfigError, match=r"expected an action of Discrete\(3, start=1\)"):
        record_replay(changed(actions=[action, 3, 2, 2]), env=Numbered)


@pytest.mark.parametrize("action", [[[0.1]], [0.1, 0.2], ["x"], [float("inf")], {}, "evil"])
def test_a_box_action_of_another_shape_or_not_finite_is_refused(action: Any) -> None:
    replay = changed(env={"id": "Pendulum-v1"}, actions=[action], rewards=[0.0])
    with pytest.raises(ConfigError, match="expected an action of Box"):
        record_replay(replay)


def test_an_environment_that_cannot_be_made_or_fails_is_one_line() -> None:
    with pytest.raises(ConfigError, match="environment factory Numbered; pass it as env="):
        record_replay(REPLAY)
    with pytest.raises(ConfigError, match="unknown environment 'CartPoll-v1'; nearest: CartPole"):
        record_replay(changed(env={"id": "CartPoll-v1"}))
    failing = EnvConfig(factory=Numbered, kwargs={"raise_at": 3})
    with pytest.raises(
        ConfigError, match="Numbered failed after 2 steps: ZeroDivisionError: inside"
    ):
        record_replay(REPLAY, env=failing)


@pytest.mark.parametrize(
    "env",
    [
        {"id": "evil.module:Env-v0"},
        {"id": "CartPole-v1", "imports": ["evil"]},
        {"id": "CartPole-v1", "imports": ["os"]},
        {"id": "CartPole-v1", "wrappers": ["evil.Wrapper"]},
        {"id": "CartPole-v1", "wrappers": [{"class_path": "subprocess.Popen", "init_args": {}}]},
        {"id": "CartPole-v1", "wrappers": ["gymnasium.wrappers.RecordVideo"]},
        {"id": "CartPole-v1", "wrappers": [{"class_path": ["os"]}]},
        {"id": "CartPole-v1", "wrappers": 5},
        {"id": "CartPole-v1", "num_envs": "many"},
        {"id": "CartPole-v1", "kwargs": {"no_such": 1}},
        {"id": "CartPole-v1", "kwargs": [1]},
        {"id": ["CartPole-v1"]},
        {"id": "CartPole-v1", "nonsense": 1},
        {"factory": "os.system"},
        {},
    ],
)
def test_a_hostile_environment_is_refused_in_one_line(
    env: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.py").write_text("raise SystemExit('imported')")
    with pytest.raises(ConfigError) as error:
        record_replay(changed(env=env))
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["evil.py"]
