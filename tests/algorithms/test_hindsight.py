"""Hindsight replay inside algorithms: it relabels what is learned from, and resumes exactly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lightning_rl.algorithms.discrete_sac import DiscreteSAC
from lightning_rl.algorithms.sac import SAC
from lightning_rl.algorithms.td3 import TD3
from lightning_rl.errors import ConfigError

Fit = Callable[..., Any]
SMALL: dict[str, Any] = {
    "hidden_sizes": (16,),
    "batch_size": 16,
    "learning_starts": 32,
    "train_frequency": 4,
    "env_steps_per_iteration": 64,
    "capacity": 150,
    "compile": False,
    "seed": 1,
    "replay": {"class_path": "HindsightReplay", "init_args": {"num_goals": 4}},
}
POINT = {"id": "LightningRL/PointReach-v0", "num_envs": 2, "max_episode_steps": 20}


@pytest.mark.parametrize(
    ("cls", "env"), [(SAC, POINT), (TD3, POINT), (DiscreteSAC, {"id": "LightningRL/BitFlip-v0"})]
)
def test_a_resumed_run_equals_one_that_was_not_stopped(
    fit: Fit, tmp_path: Path, cls: Any, env: Any
):
    path = tmp_path / "a.ckpt"
    arguments = {**SMALL, "schedule_env_steps": 192}
    fit(cls(env, 192, **arguments)).save_checkpoint(path)  # the buffer has overflown
    resumed, straight = (cls(env, 320, **arguments) for _ in range(2))
    fit(resumed, ckpt_path=str(path))
    fit(straight)
    for key, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key
    assert cls.load_from_checkpoint(path).hyperparameters["replay"] == SMALL["replay"]


def test_hindsight_makes_rewards_of_episodes_that_failed(fit: Fit):
    shares = {}
    for replay in (None, "HindsightReplay"):
        agent = SAC(POINT, 128, **{**SMALL, "replay": replay})
        fit(agent)
        drawn: Any = agent.state.replay.sample(2_000, torch.Generator().manual_seed(0))
        shares[replay] = drawn["reward"].mean().item()
        assert torch.equal(drawn["reward"] > 0, drawn["terminated"])
    assert shares[None] < 0.05 < shares["HindsightReplay"]


def test_the_goal_of_a_prediction_matters_and_a_dictionary_is_taken(fit: Fit):
    agent = SAC(POINT, 64, **SMALL)
    fit(agent)
    observation = {name: np.zeros(3) for name in ("observation", "achieved_goal", "desired_goal")}
    other = {**observation, "desired_goal": np.ones(3)}
    assert not np.array_equal(agent.predict(observation), agent.predict(other))


def test_an_environment_without_goals_is_refused(fit: Fit):
    with pytest.raises(ConfigError, match=r"achieved_goal and desired_goal.*Pendulum-v1"):
        fit(SAC("Pendulum-v1", 64, **SMALL))
