"""DiscreteSAC: its losses in literal numbers, what learns, and how it acts."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from lightning_rl.algorithms.discrete_sac import DiscreteSAC, discrete_sac_losses
from lightning_rl.envs.probes import (
    OBSERVATION_SPACES,
    ConstantRewardEnv,
    ObservationActionEnv,
)
from lightning_rl.errors import ConfigError

Fit = Callable[..., Any]
SMALL: dict[str, Any] = {
    "hidden_sizes": (16,),
    "batch_size": 16,
    "learning_starts": 16,
    "env_steps_per_iteration": 32,
    "compile": False,
    "seed": 1,
}


def test_the_losses_in_literal_numbers():
    """Two actions, of probability 3/4 and 1/4; alpha = 1."""
    logits = torch.tensor([[math.log(3.0), 0.0]])
    minibatch = {
        "observation": torch.zeros(1, 3),
        "next_observation": torch.zeros(1, 3),
        "action": torch.tensor([1]),
        "reward": torch.tensor([1.0]),
        "terminated": torch.tensor([False]),
    }
    losses, statistics = discrete_sac_losses(
        lambda observation: torch.tensor([[[1.0, 2.0]], [[3.0, 0.0]]]),
        lambda observation: logits,
        lambda: torch.tensor(0.0),
        lambda observation: torch.tensor([[[4.0, 8.0]], [[5.0, 7.0]]]),
        minibatch,
        gamma=0.5,
        target_entropy=0.2,
    )
    entropy = 0.562335  # -(3/4 log 3/4 + 1/4 log 1/4)
    target = 1.0 + 0.5 * (0.75 * 4.0 + 0.25 * 7.0 + entropy)
    assert losses[0].item() == pytest.approx(((2.0 - target) ** 2 + target**2) / 2, abs=1e-4)
    assert losses[1].item() == pytest.approx(-entropy - (0.75 * 1.0 + 0.25 * 0.0), abs=1e-5)
    assert losses[2].item() == 0.0
    assert statistics[2:].tolist() == pytest.approx([1.0, -entropy, 1.0], abs=1e-5)


def test_the_gradient_reaches_every_network_and_the_target_follows(fit: Fit):
    agent = DiscreteSAC("CartPole-v1", 64, **SMALL)
    before = {name: (id(p), p.detach().clone()) for name, p in agent.named_parameters()}
    fit(agent)
    for name, parameter in agent.named_parameters():
        identity, old = before[name]
        assert id(parameter) == identity, name
        assert type(parameter) is nn.Parameter, name
        assert not torch.equal(parameter, old), name
    assert agent.gradient_steps == 49


def test_the_automatic_target_entropy_is_half_of_the_largest():
    assert DiscreteSAC("CartPole-v1").target_entropy == pytest.approx(0.5 * math.log(2))
    assert DiscreteSAC("Acrobot-v1").target_entropy == pytest.approx(0.5 * math.log(3))
    assert DiscreteSAC("CartPole-v1", target_entropy=0.1).target_entropy == 0.1


def test_sampled_actions_follow_the_softmax():
    agent = DiscreteSAC("CartPole-v1", **SMALL)
    with torch.no_grad():
        for parameter in agent.actor.parameters():
            parameter.zero_()
        agent.actor.network.layers[-1].bias.copy_(torch.tensor([math.log(3.0), 0.0]))
    observation = torch.zeros(20_000, 4)
    assert agent.act(observation, deterministic=False).mean() == pytest.approx(0.25, abs=0.01)
    assert agent.act(observation).sum() == 0


@pytest.mark.parametrize("kind", ["box", "dict", "discrete"])
def test_observations_are_learned(fit: Fit, kind: str):
    assert kind in OBSERVATION_SPACES
    env = {
        "id": "LightningRL/ObservationAction-v0",
        "num_envs": 8,
        "kwargs": {"observation": kind},
    }
    quick = {**SMALL, "batch_size": 64, "learning_rate": 1e-2, "train_frequency": 8, "tau": 0.1}
    agent = DiscreteSAC(env, 1024, gradient_steps=4, alpha=0.05, **quick)
    fit(agent)
    task, scores = ObservationActionEnv(observation=kind), []
    for seed in range(16):
        observation, _ = task.reset(seed=seed)
        scores.append(task.step(agent.predict(observation))[1])
    assert np.mean(scores) == 1.0


def test_values_follow_the_rewards_and_end_where_the_task_ends(fit: Fit):
    env = {
        "id": "LightningRL/Truncation-v0",
        "num_envs": 8,
        "kwargs": {"ends": "terminated"},
    }
    quick = {**SMALL, "batch_size": 64, "learning_rate": 1e-2, "train_frequency": 8, "tau": 0.1}
    agent = DiscreteSAC(env, 2048, gamma=0.9, gradient_steps=4, alpha=0.0, **quick)
    fit(agent)
    value = agent.critic(torch.zeros(1, 1)).mean().item()
    assert value == pytest.approx(4.0951, rel=0.1)


def test_one_action_is_enough(fit: Fit):
    class OneAction(ConstantRewardEnv):
        def __init__(self) -> None:
            super().__init__()
            self.action_space = spaces.Discrete(1)

    agent = DiscreteSAC(OneAction, 128, **{**SMALL, "learning_rate": 1e-2})
    fit(agent)
    with torch.no_grad():
        assert agent.critic(torch.zeros(1, 1)).flatten().tolist() == pytest.approx([1, 1], abs=0.1)


def test_other_action_spaces_are_refused_by_name():
    with pytest.raises(ConfigError, match="DiscreteSAC expects a Discrete action space, received"):
        DiscreteSAC("Pendulum-v1")
