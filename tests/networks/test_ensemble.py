"""Ensembles of critics: equal to their members one by one, and well initialised."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn
from torch.nn import functional as F

from lightning_rl.errors import ConfigError
from lightning_rl.functional.parameters import check_unique_names
from lightning_rl.networks.ensemble import CriticEnsemble, EnsembleMLP

VECTOR = spaces.Box(-1.0, 1.0, (3,), np.float32)


def test_each_member_is_a_network_of_its_own():
    torch.manual_seed(0)
    ensemble, x = EnsembleMLP(3, 4, (8, 5), 2), torch.randn(6, 4)
    together = ensemble(x)
    assert together.shape == (3, 6, 2)
    for member in range(3):
        alone = x
        for index in range(3):
            alone = F.linear(
                alone, ensemble.weights[index][member].T, ensemble.biases[index][member, 0]
            )
            alone = alone.relu() if index < 2 else alone
        assert torch.allclose(together[member], alone, atol=1e-6)
    assert not torch.allclose(together[0], together[1])


def test_it_starts_as_linear_layers_of_pytorch_do():
    ensemble = EnsembleMLP(2, 16, (400,), 1)
    linear = nn.Linear(16, 400)
    for ours, theirs in ((ensemble.weights[0], linear.weight), (ensemble.biases[0], linear.bias)):
        assert ours.abs().max().item() <= 0.25
        assert ours.std().item() == pytest.approx(theirs.std().item(), rel=0.1)
    assert ensemble.weights[1].abs().max().item() <= 0.05


def test_a_member_s_loss_moves_that_member_alone():
    ensemble = EnsembleMLP(2, 4, (8,), 1)
    ensemble(torch.randn(6, 4))[1].sum().backward()
    for parameter in ensemble.parameters():
        assert parameter.grad[0].abs().max() == 0
        assert parameter.grad[1].abs().max() > 0


def test_critics_of_observations_and_actions():
    torch.manual_seed(0)
    critic = CriticEnsemble(VECTOR, 2, num_critics=2, hidden_sizes=(8,))
    observation, action = torch.randn(5, 3), torch.randn(5, 2)
    assert critic(observation, action).shape == (2, 5)
    assert not torch.allclose(critic(observation, action), critic(observation, -action))
    quantiles = CriticEnsemble(VECTOR, 2, num_critics=5, hidden_sizes=(8,), num_outputs=25)
    assert quantiles(observation, action).shape == (5, 5, 25)
    alone = CriticEnsemble(VECTOR, 0, num_critics=2, hidden_sizes=(8,), num_outputs=4)
    assert alone(observation).shape == (2, 5, 4)
    single = CriticEnsemble(VECTOR, 0, num_critics=2, hidden_sizes=(8,), num_outputs=1)
    assert single(observation).shape == (2, 5, 1)


@pytest.mark.parametrize("network", [None, lambda i, o: nn.Linear(i, o)])
def test_the_first_members_alone_are_those_of_all(network: Any):
    torch.manual_seed(0)
    critic = CriticEnsemble(VECTOR, 2, num_critics=3, hidden_sizes=(8,), network=network)
    observation, action = torch.randn(5, 3), torch.randn(5, 2)
    first = critic(observation, action, 1)
    assert first.shape == (1, 5)
    assert torch.allclose(first, critic(observation, action)[:1], atol=1e-6)
    first.sum().backward()
    reached = [p.grad is not None and bool(p.grad.any()) for p in critic.parameters()]
    assert any(reached)
    if network is None:  # the other members are in the same tensors
        assert all(reached)
        assert not any(bool(p.grad[1:].any()) for p in critic.parameters())


@pytest.mark.parametrize("sizes", [(8, 12), (7,), ()])
@pytest.mark.parametrize("network", [None, lambda i, o: nn.Linear(i, o)])
def test_the_least_value_moves_the_action_as_the_minimum_of_all_does(network: Any, sizes: Any):
    torch.manual_seed(0)
    critic = CriticEnsemble(VECTOR, 2, num_critics=3, hidden_sizes=sizes, network=network)
    for parameter in critic.parameters():  # far apart, so that each is the least somewhere
        parameter.data.mul_(4.0)
    observation, action = torch.randn(50, 3), torch.randn(50, 2, requires_grad=True)
    values, weight = critic(observation, action), torch.randn(50)
    least = critic(observation, action, least=True)
    assert sorted(values.argmin(0).unique().tolist()) == [0, 1, 2]
    assert torch.allclose(least, values.amin(0), rtol=1e-4)
    of_least, of_all = (
        torch.autograd.grad((x * weight).sum(), action)[0] for x in (least, values.amin(0))
    )
    assert torch.allclose(of_least, of_all, rtol=1e-4)
    assert of_all.abs().max() > 0.01


def test_the_least_of_networks_with_another_activation():
    torch.manual_seed(0)
    ensemble, x = EnsembleMLP(2, 4, (8,), 1, "tanh"), torch.randn(6, 4)
    assert torch.equal(ensemble.least(x), ensemble(x).squeeze(-1).amin(0))


def test_one_encoder_serves_all_members():
    space = spaces.Dict({"image": spaces.Box(0, 255, (36, 36, 1), np.uint8), "vector": VECTOR})
    critic = CriticEnsemble(space, 1, hidden_sizes=(8,))
    check_unique_names(critic)
    observation: Any = {
        "image": torch.zeros(2, 36, 36, 1, dtype=torch.uint8),
        "vector": torch.zeros(2, 3),
    }
    critic(observation, torch.zeros(2, 1)).sum().backward()
    assert all(p.grad is not None for p in critic.encoder.parameters())


def test_networks_of_somebody_s_own():
    critic = CriticEnsemble(VECTOR, 2, num_critics=3, network=lambda i, o: nn.Linear(i, o))
    assert len(critic.members) == 3
    assert critic(torch.randn(5, 3), torch.randn(5, 2)).shape == (3, 5)
    assert not torch.equal(critic.members[0].weight, critic.members[1].weight)


@pytest.mark.parametrize("arguments", [(0, 4, (8,), 1), (2, 4, (0,), 1)])
def test_sizes_must_be_positive(arguments: Any):
    with pytest.raises(ConfigError, match="expected positive sizes"):
        EnsembleMLP(*arguments)
