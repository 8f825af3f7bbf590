"""C51, QR-DQN and Rainbow: losses against numbers and loops, what learns, and what explores."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lightning_rl.algorithms.c51 import C51, c51_loss
from lightning_rl.algorithms.qrdqn import QRDQN, qrdqn_loss
from lightning_rl.algorithms.rainbow import Rainbow, rainbow_loss
from lightning_rl.envs.probes import ACTION_SPACES
from lightning_rl.errors import ConfigError
from lightning_rl.functional.distributional import quantile_midpoints

Fit = Callable[..., Any]
QUICK: dict[str, Any] = {
    "batch_size": 32,
    "learning_starts": 32,
    "train_frequency": 8,
    "gradient_steps": 2,
    "target_update_interval": 1_000_000,
    "env_steps_per_iteration": 128,
    "learning_rate": 1e-2,
    "hidden_sizes": (16, 16),
    "compile": False,
    "seed": 1,
}
EVERY = pytest.mark.parametrize("cls", [C51, QRDQN, Rainbow])
SURE = 1_000.0
SUPPORT = torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0])


def sure_of(*values: int) -> list[list[float]]:
    """Logits `(n, 5)` of distributions that are certain of one atom each."""
    return [[SURE * (atom == value) for atom in range(5)] for value in values]


def table(now: Any, following: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """A network that knows two observations, 0 and 1, and the same of each of two rows."""
    values = torch.tensor([now, following])
    return lambda observation: values[observation[:, 0].long()]


MINIBATCH = {
    "observation": torch.zeros(2, 1),
    "next_observation": torch.ones(2, 1),
    "action": torch.tensor([0, 1]),
    "reward": torch.tensor([1.0, 2.0]),
    "terminated": torch.tensor([False, True]),
}


def test_the_categorical_loss_takes_the_targets_best_action() -> None:
    """It is worth 4 by the target network: 1 + 4 / 2 = 3 in the first row, and 2 in the second."""
    uniform = torch.zeros(2, 5)
    target = table(sure_of(0, 0), sure_of(2, 4))
    right = c51_loss(table(sure_of(3, 2), uniform.tolist()), target, MINIBATCH, SUPPORT, 0.5)
    assert right[0].item() == 0.0
    assert right[1].tolist() == [0.0, 2.5]
    wrong = c51_loss(table(uniform.tolist(), uniform.tolist()), target, MINIBATCH, SUPPORT, 0.5)
    assert wrong[0].item() == pytest.approx(np.log(5.0))


def test_rainbow_chooses_by_the_online_network_and_weighs_rows() -> None:
    """The online network prefers action 0, which the target values at 2: 1 + 2 / 4 = 1.5."""
    target = table(sure_of(0, 0), sure_of(2, 4))
    online = table([[0.0] * 5, [0.0] * 5], sure_of(4, 0))
    minibatch = {
        **MINIBATCH,
        "weight": torch.tensor([1.0, 0.5]),
        "discount": torch.full((2,), 0.25),
    }
    loss, statistics = rainbow_loss(online, target, minibatch, SUPPORT, 0.9)
    assert loss.item() == pytest.approx(0.75 * np.log(5.0))
    assert statistics.tolist() == pytest.approx([0.75 * np.log(5.0), 2.0, *([np.log(5.0)] * 2)])
    halves = [-SURE, 0.0, 0.0, -SURE, -SURE]
    online = table([halves, sure_of(2)[0]], sure_of(4, 0))
    _, statistics = rainbow_loss(online, target, minibatch, SUPPORT, 0.9)
    # The target is halved between 1 and 2, and so is the prediction: what is left is its entropy.
    assert statistics[2:].tolist() == pytest.approx([np.log(2.0), 0.0])


def test_the_quantile_loss_takes_the_best_mean() -> None:
    """Action 0 has the quantile 9, but action 1 the larger mean: targets 1 + 2 and 1 + 4."""
    target = table([[0.0, 0.0]] * 2, [[-3.0, 9.0], [4.0, 8.0]])
    online = table([[3.0, 5.0], [2.0, 2.0]], [[0.0, 0.0]] * 2)
    midpoints = quantile_midpoints(2)
    loss, statistics = qrdqn_loss(online, target, MINIBATCH, midpoints, 0.5)
    # First row: errors 0, 2 of weight 1/4 and -2, 0 of weight 1/4, Huber 1.5: (0.375 + 0.375) / 2.
    assert loss.item() == pytest.approx(0.375 / 2)
    assert statistics.tolist() == pytest.approx([0.375 / 2, 3.0])


def minibatch_for(agent: Any) -> dict[str, Any]:
    return {
        "observation": torch.randn(8, 4),
        "next_observation": torch.randn(8, 4),
        "action": torch.zeros(8, dtype=torch.int64),
        "reward": torch.ones(8),
        "terminated": torch.zeros(8, dtype=torch.bool),
        "weight": torch.ones(8),
    }


@EVERY
def test_no_gradient_reaches_the_target_network_or_another_action(cls: Any) -> None:
    agent = cls("CartPole-v1", 128, **QUICK)
    target = agent.target_network.requires_grad_(True)
    atoms = agent.midpoints if cls is QRDQN else agent.support
    loss = {C51: c51_loss, QRDQN: qrdqn_loss, Rainbow: rainbow_loss}[cls]
    loss(agent.network, target, minibatch_for(agent), atoms, 0.9)[0].backward()
    assert all(parameter.grad is None for parameter in target.parameters())
    if cls is not Rainbow:  # whose streams are shared by all actions
        bias = agent.network.network.layers[-1].bias.grad.view(2, -1)
        assert bias[0].abs().max() > 0.0
        assert bias[1].abs().max() == 0.0


@EVERY
def test_every_parameter_learns_and_the_target_waits(fit: Fit, cls: Any) -> None:
    agent = cls("CartPole-v1", 256, **QUICK)
    before = {name: p.detach().clone() for name, p in agent.network.named_parameters()}
    target = [p.detach().clone() for p in agent.target_network.parameters()]
    fit(agent)
    for name, parameter in agent.network.named_parameters():
        assert type(parameter) is nn.Parameter
        assert not torch.equal(parameter, before[name]), f"{name} did not learn"
    for parameter, old in zip(agent.target_network.parameters(), target, strict=True):
        assert torch.equal(parameter, old)


@EVERY
def test_acting_while_collecting_is_the_greedy_policy(fit: Fit, cls: Any) -> None:
    greedy = {} if cls is Rainbow else {"epsilon_start": 0.0, "epsilon_end": 0.0}
    agent = cls("CartPole-v1", 128, **{**QUICK, "learning_starts": 10_000, **greedy})
    fit(agent)
    columns = agent.state.replay.columns
    observation, chosen = columns["observation"][:128], columns["action"][:128].numpy()
    agent.eval()
    same = chosen == agent.act(observation)
    assert 0.2 < same.mean() < 1.0 if cls is Rainbow else same.all()


@EVERY
def test_other_spaces_and_numbers_are_refused_by_name(cls: Any) -> None:
    kind = next(iter(set(ACTION_SPACES) - {"discrete"}))
    env = {"id": "LightningRL/ObservationAction-v0", "kwargs": {"action": kind}}
    with pytest.raises(ConfigError, match=f"{cls.__name__} expects a Discrete"):
        cls(env)
    if cls is QRDQN:
        with pytest.raises(ConfigError, match="expected num_quantiles to be at least 1"):
            cls("CartPole-v1", num_quantiles=0)
    else:
        with pytest.raises(ConfigError, match="expected finite v_min below v_max"):
            cls("CartPole-v1", v_min=1.0, v_max=-1.0)
