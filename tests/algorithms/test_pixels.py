"""Shipped configurations for images run: a few hundred steps of each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import lightning_rl
from lightning_rl.buffers.frames import FrameReplay
from lightning_rl.callbacks.base import EventCallback
from lightning_rl.cli.configs import find_config
from lightning_rl.cli.yaml_check import read_document

Fit = Callable[..., Any]
SMALL: dict[str, dict[str, Any]] = {
    "ppo": {"num_steps": 50, "minibatch_size": 50, "update_epochs": 1, "total_env_steps": 300},
    "dqn": {
        "capacity": 150,
        "learning_starts": 100,
        "train_frequency": 20,
        "env_steps_per_iteration": 100,
        "total_env_steps": 300,
    },
}


def small(config: str, identifier: str) -> Any:
    """Return the agent of a shipped configuration, with short rollouts and a small budget."""
    file, origin = find_config(config)
    arguments = read_document(file, origin).data["model"]["init_args"]
    algorithm = config.split("/", maxsplit=1)[0]
    env = {**arguments["env"], "id": identifier}
    if "num_envs" in env:
        env["num_envs"] = 2
    changes = {**SMALL[algorithm], "env": env, "seed": 1, "compile": False}
    return lightning_rl.make(algorithm, **{**arguments, **changes})


@pytest.mark.parametrize("algorithm", ["ppo", "dqn"])
@pytest.mark.parametrize("identifier", ["ALE/Pong-v5", "BreakoutNoFrameskip-v4"])
def test_atari_runs(fit: Fit, algorithm: str, identifier: str) -> None:
    pytest.importorskip("ale_py")
    name = "pong" if "Pong" in identifier else "breakout"
    agent, rows = small(f"{algorithm}/{name}", identifier), []
    note = lambda trainer, agent, metrics, at: rows.append(metrics)  # noqa: E731
    fit(agent, callbacks=[EventCallback(on_metrics=note)])
    assert agent.observation_space.shape == (4, 84, 84)
    assert agent.env_steps >= agent.total_env_steps
    assert agent.snapshot_level == "exact"
    assert any(row.get("train/grad_norm", 0.0) > 0.0 for row in rows)
    if algorithm == "dqn":
        assert isinstance(agent.state.replay, FrameReplay)


def test_a_resumed_run_on_atari_is_the_one_that_was_not_stopped(fit: Fit, tmp_path: Path) -> None:
    """Emulator, frame stack, lives, sticky actions and frames in the replay are all restored."""
    pytest.importorskip("ale_py")
    wrapper = "lightning_rl.envs.atari.AtariPreprocessing"
    env = {
        "id": "ALE/Breakout-v5",
        "num_envs": 2,
        "kwargs": {"frameskip": 1, "obs_type": "grayscale"},
        "wrappers": [{"class_path": wrapper, "init_args": {"screen_size": 36}}],
        "frame_stack": 3,
    }

    def agent(total_env_steps: int) -> Any:
        small = {**SMALL["dqn"], "env_steps_per_iteration": 40, "seed": 1, "compile": False}
        arguments = {**small, "total_env_steps": total_env_steps, "schedule_env_steps": 280}
        return lightning_rl.DQN(env, **arguments)

    straight = agent(280)
    fit(straight)
    path = tmp_path / "checkpoints" / "a.ckpt"
    path.parent.mkdir()
    fit(agent(160)).save_checkpoint(path)
    resumed = agent(280)
    fit(resumed, ckpt_path=str(path))
    assert resumed.env_steps == straight.env_steps
    assert resumed.episodes == straight.episodes > 0
    for name, tensor in straight.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
    contents = [agent.state.replay.recent(150) for agent in (straight, resumed)]
    for name, column in contents[0].items():
        assert torch.equal(column, contents[1][name]), name


@pytest.mark.parametrize("config", ["ppo/minatar_breakout", "dqn/minatar_breakout"])
def test_minatar_runs(fit: Fit, config: str) -> None:
    pytest.importorskip("minatar")
    agent = small(config, "MinAtar/Breakout-v1")
    fit(agent)
    assert agent.observation_space.shape == (4, 10, 10)
    assert agent.network.encoder.output_size == 128
    assert agent.env_steps >= agent.total_env_steps
