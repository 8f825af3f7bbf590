"""Actors of off-policy methods and the temperature."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium import spaces

from lightning_rl.errors import ConfigError
from lightning_rl.networks.actors import Actor, Temperature
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
