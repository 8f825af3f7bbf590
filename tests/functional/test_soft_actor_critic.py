"""Squashed Gaussian actions, the temperature's loss and the critics' error."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.distributions import Independent, Normal, TransformedDistribution
from torch.distributions.transforms import TanhTransform

from lightning_rl.functional.soft_actor_critic import (
    ensemble_squared_error,
    squashed_gaussian,
    squashed_gaussian_array,
    squashed_mode,
    temperature_loss,
)


def test_a_standard_normal_in_literal_numbers():
    action, log_prob = squashed_gaussian(torch.zeros(1, 2), torch.tensor([[0.5]]))
    assert action.item() == pytest.approx(math.tanh(0.5))
    # -0.5 * 0.25 - log sqrt(2 pi) - log(1 - tanh(0.5)^2) = -0.125 - 0.918939 + 0.240229
    assert log_prob.item() == pytest.approx(-0.803710, abs=1e-5)


def test_densities_are_those_of_torch_s_transformed_distribution():
    torch.manual_seed(1)
    parameters, noise = torch.randn(64, 6) * 0.7, torch.randn(64, 3)
    mean, log_std = parameters.chunk(2, -1)
    action, log_prob = squashed_gaussian(parameters, noise)
    normal = Independent(Normal(mean, log_std.exp()), 1)
    oracle = TransformedDistribution(normal, [TanhTransform(cache_size=1)])
    raw = mean + log_std.exp() * noise
    assert torch.allclose(action, torch.tanh(raw))
    assert torch.allclose(log_prob, oracle.log_prob(torch.tanh(raw.double())).float(), atol=1e-3)


def test_the_density_integrates_to_one():
    parameters, points = torch.tensor([[0.3, -0.4]]), 200_001
    noise = torch.linspace(-9, 9, points, dtype=torch.float64)
    action, log_prob = squashed_gaussian(parameters.double().expand(points, 2), noise[:, None])
    assert torch.trapezoid(log_prob.exp(), action[:, 0]).item() == pytest.approx(1.0, abs=1e-5)


def test_extreme_means_stay_finite_where_the_plain_form_does_not():
    parameters = torch.tensor([[40.0, 0.0], [-40.0, 0.0]], requires_grad=True)
    action, log_prob = squashed_gaussian(parameters, torch.zeros(2, 1))
    assert action.flatten().tolist() == [1.0, -1.0]
    assert torch.isinf(torch.log(1.0 - action.square())).all()
    assert log_prob.tolist() == pytest.approx([77.694767] * 2, abs=1e-3)  # 2 (40 - log 2) - 0.9189
    log_prob.sum().backward()
    assert torch.isfinite(parameters.grad).all()


def test_log_standard_deviations_are_bounded():
    noise = torch.ones(1, 1)
    wide, _ = squashed_gaussian(torch.tensor([[0.0, 100.0]]), noise)
    assert wide.item() == pytest.approx(math.tanh(math.exp(2.0)))
    _, narrow = squashed_gaussian(torch.tensor([[0.0, -100.0]]), noise)
    assert narrow.item() == pytest.approx(20.0 - 0.5 - 0.5 * math.log(2 * math.pi), abs=1e-4)


def test_arrays_act_as_tensors_do_and_the_mode_is_the_mean_squashed():
    torch.manual_seed(2)
    parameters, noise = torch.randn(5, 4) * 3, torch.randn(5, 2)
    action, _ = squashed_gaussian(parameters, noise)
    assert np.allclose(
        squashed_gaussian_array(parameters.numpy(), noise.numpy()), action, atol=1e-6
    )
    assert torch.equal(squashed_mode(parameters), torch.tanh(parameters[:, :2]))
    assert squashed_gaussian_array(parameters.numpy(), noise.numpy()).dtype == np.float32


@pytest.mark.parametrize(("log_prob", "sign"), [(3.0, -1.0), (-3.0, 1.0)])
def test_the_temperature_rises_when_the_entropy_is_below_its_target(log_prob: float, sign: float):
    log_alpha = torch.tensor(0.5, requires_grad=True)
    log_probs = torch.full((4,), log_prob, requires_grad=True)
    loss = temperature_loss(log_alpha, log_probs, target_entropy=-1.0)
    assert loss.item() == pytest.approx(-0.5 * (log_prob - 1.0))
    loss.backward()
    # Entropy -log_prob: -3 is below -1, so descent must raise alpha.
    assert math.copysign(1.0, log_alpha.grad.item()) == sign
    assert log_probs.grad is None


def test_the_critics_error_is_half_the_mean_square_summed_over_critics():
    q_values = torch.tensor([[1.0, 2.0], [0.0, 5.0]])
    target = torch.tensor([0.0, 2.0])
    # Mean squares 1 / 2 and 9 / 2, halved.
    assert ensemble_squared_error(q_values, target).item() == pytest.approx(2.5)
