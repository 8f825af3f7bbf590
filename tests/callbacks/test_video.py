"""Videos during training: when they are made, and that nothing else changes."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

import lightning_rl.envs.probes  # noqa: F401  registers the probe environments
from lightning_rl import PPO, Trainer
from lightning_rl.callbacks import VideoRecorder
from lightning_rl.errors import ConfigError, Interrupted

pytest.importorskip("imageio_ffmpeg")
QUIET = {"logger": False, "enable_progress_bar": False, "accelerator": "cpu"}


def ppo(env: Any = "FrozenLake-v1") -> PPO:
    small = {"num_steps": 64, "minibatch_size": 64, "update_epochs": 1, "hidden_sizes": (8,)}
    return PPO(env, total_env_steps=512, seed=4, compile=False, **small)


def fit(agent: PPO, root: Path, *callbacks: Any, ckpt_path: str | None = None) -> list[str]:
    trainer = Trainer(
        run={"root": str(root), "experiment": "e", "name": "r"},
        callbacks=list(callbacks),
        eval_every_env_steps=128,
        eval_episodes=2,
        **QUIET,
    )
    trainer.fit(agent, ckpt_path=ckpt_path)
    return sorted(path.name for path in (root / "e" / "r" / "videos").glob("*"))


def test_one_after_each_evaluation_or_less_often_and_training_is_the_same(tmp_path: Path) -> None:
    plain, filmed, seldom = ppo(), ppo(), ppo()
    fit(plain, tmp_path / "a")
    names = fit(filmed, tmp_path / "b", VideoRecorder(episodes=2, max_steps_per_episode=5))
    assert names == [f"env_steps={n}.mp4" for n in (128, 256, 384, 512)]
    for name, value in plain.state_dict().items():
        assert value.equal(filmed.state_dict()[name]), name
    recorder = VideoRecorder(every_env_steps=200, max_steps_per_episode=2)
    assert fit(seldom, tmp_path / "c", recorder) == ["env_steps=256.mp4", "env_steps=512.mp4"]


def test_a_stop_while_filming_leaves_it_due(tmp_path: Path) -> None:
    recorder = VideoRecorder(max_steps_per_episode=3)
    play = recorder._play

    def stop_first(agent: Any, path: Path) -> None:
        agent.stop_requested = 15
        play(agent, path)

    recorder._play = stop_first  # type: ignore[method-assign]
    with pytest.raises(Interrupted):
        fit(ppo(), tmp_path, recorder)
    assert not list((tmp_path / "e" / "r" / "videos").glob("*"))
    names = fit(ppo(), tmp_path, VideoRecorder(max_steps_per_episode=3), ckpt_path="last")
    assert names == [f"env_steps={n}.mp4" for n in (128, 256, 384, 512)]


def test_an_environment_that_cannot_be_drawn_costs_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    agent = ppo("LightningRL/Count-v0")
    with caplog.at_level(logging.WARNING):
        assert fit(agent, tmp_path, VideoRecorder()) == []
    assert agent.env_steps == 512
    assert sum("No more videos" in record.message for record in caplog.records) == 1


def test_without_a_run_directory_or_an_evaluation_nothing_is_filmed(tmp_path: Path) -> None:
    calls: list[Any] = []
    recorder = VideoRecorder()
    recorder._play = lambda *args: calls.append(args)  # type: ignore[method-assign]
    Trainer(callbacks=[recorder], fast_dev_run=True, **QUIET).fit(ppo())
    assert not calls


def test_arguments_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match="episodes to be at least 1"):
        VideoRecorder(episodes=0)
