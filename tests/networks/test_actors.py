"""Actors of off-policy methods and the temperature."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from lightning_rl.errors import ConfigError
from lightning_rl.networks.actors import Actor, StateDependentActor, Temperature
from lightning_rl.networks.normalization import RunningNormalizer

VECTOR = spaces.Box(-1.0, 1.0, (3,), np.float32)


def test_acting_equals_forward_behind_the_normaliser():
    torch.manual_seed(0)
    actor, normalizer = Actor(VECTOR, 4, (8, 8)), RunningNormalizer(VECTOR)
    normalizer.update(torch.randn(50, 3) * 3 + 1)
    observation = torch.randn(7, 3)
    with torch.no_grad():
        assert np.allclose(actor.acting_function()(observation), actor(observation), atol=1e-6)
        assert np.allclose(
            actor.acting_function(normalizer)(observation),
            actor(normalizer(observation)),
            atol=1e-5,
        )


def test_a_state_dependent_deviation_in_literal_numbers():
    """Features (1, 2); deviations of the matrix's entries ((0.5, 1), (0.25, 2))."""
    space = spaces.Box(-9.0, 9.0, (2,), np.float32)
    actor = StateDependentActor(space, 2, (2,), lambda rows, columns: nn.Identity())
    with torch.no_grad():
        actor.log_std.copy_(torch.tensor([[0.5, 1.0], [0.25, 2.0]]).log())
        actor.mean.weight.copy_(torch.tensor([[3.0, 1.0], [0.5, -0.5]]))
        actor.mean.bias.zero_()
        mean, log_std = actor(torch.tensor([[1.0, 2.0]])).chunk(2, -1)
    # weight (3, 1) * (1, 2) = 5 and (0.5, -0.5) * (1, 2) = -0.5; 2 tanh(2.5) and 2 tanh(-0.25).
    assert mean.tolist()[0] == pytest.approx([1.973229, -0.489837], abs=1e-5)
    # 1 * 0.25 + 4 * 0.0625, and 1 * 1 + 4 * 4.
    assert log_std.exp().square().tolist()[0] == pytest.approx([0.5, 17.0], rel=1e-4)


def test_a_state_dependent_deviation_equals_a_slow_loop():
    torch.manual_seed(0)
    actor = StateDependentActor(VECTOR, 2, (8, 5), log_std_init=-1.0)
    with torch.no_grad():
        actor.log_std.add_(torch.randn(5, 2))
        observation = torch.randn(4, 3)
        features = actor.network(observation).tolist()
        log_std = actor(observation)[:, 2:].tolist()
    std = actor.log_std.exp().tolist()
    for row in range(4):
        for action in range(2):
            variance = sum((features[row][f] * std[f][action]) ** 2 for f in range(5))
            assert log_std[row][action] == pytest.approx(0.5 * np.log(variance + 1e-6), abs=1e-5)


def test_a_state_dependent_deviation_is_that_of_the_noise_over_all_matrices():
    torch.manual_seed(0)
    actor, observation = StateDependentActor(VECTOR, 2, (8,)), torch.randn(3, 3)
    outputs = actor.acting_function()(observation)
    std = actor.log_std.detach().exp().numpy()
    matrices = np.random.default_rng(0).standard_normal((20_000, 8, 2)) * std
    sampled = outputs[:, :2] + np.matmul(outputs[:, 2:], matrices)
    mean, log_std = actor(observation).detach().chunk(2, -1)
    assert np.allclose(sampled.mean(0), mean, atol=0.01)
    assert np.allclose(sampled.std(0), log_std.exp(), rtol=0.02)


@pytest.mark.parametrize("network", [None, nn.Linear], ids=["numpy", "torch"])
def test_acting_state_dependently_returns_mean_and_features(network: Any):
    torch.manual_seed(0)
    actor, normalizer = StateDependentActor(VECTOR, 2, (8, 5), network), RunningNormalizer(VECTOR)
    normalizer.update(torch.randn(50, 3) * 3 + 1)
    observation = torch.randn(7, 3)
    act = actor.acting_function(normalizer)
    for _ in range(2):
        with torch.no_grad():
            outputs, features = act(observation), actor.network(normalizer(observation))
            assert np.allclose(outputs[:, :2], actor(normalizer(observation))[:, :2], atol=1e-6)
            assert np.allclose(outputs[:, 2:], features, atol=1e-5)
            actor.mean.bias.add_(0.5)  # seen without making another function


def test_every_part_of_a_state_dependent_actor_learns_from_the_deviation():
    actor = StateDependentActor(VECTOR, 2, (8, 5))
    actor(torch.randn(4, 3))[:, 2:].sum().backward()
    learned = {name for name, p in actor.named_parameters() if p.grad is not None}
    assert {"log_std", "network.layers.0.weight", "network.layers.1.weight"} <= learned
    assert all(p.grad.abs().sum() > 0 for p in (actor.log_std, *actor.network.parameters()))


def test_a_state_dependent_actor_needs_features():
    with pytest.raises(ConfigError, match="at least one layer for use_sde, got none"):
        StateDependentActor(VECTOR, 2, ())


def test_a_learned_temperature_starts_at_its_first_value():
    temperature = Temperature("auto", 0.2)
    assert temperature().exp().item() == pytest.approx(0.2)
    assert [p.requires_grad for p in temperature.parameters()] == [True]


def test_a_fixed_temperature_is_not_trained_and_may_be_zero():
    for alpha in (0.1, 0.0):
        temperature = Temperature(alpha)
        assert temperature().exp().item() == pytest.approx(alpha)
        assert [p.requires_grad for p in temperature.parameters()] == [False]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-0.1,), "expected alpha to be at least 0.0, received -0.1"),
        (("auto", 0.0), "expected initial_alpha"),
        (("atuo",), "expected alpha among auto, received 'atuo'; did you mean 'auto'"),
    ],
)
def test_other_temperatures_are_refused(arguments: tuple, message: str):
    with pytest.raises(ConfigError, match=message):
        Temperature(*arguments)
