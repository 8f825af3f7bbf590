"""Distributional losses against numbers worked out by hand and slow loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lightning_rl.errors import ConfigError
from lightning_rl.functional.distributional import (
    categorical_mean,
    categorical_mean_array,
    categorical_td_loss,
    even_support,
    of_action,
    project_categorical,
    quantile_huber_loss,
    quantile_midpoints,
)

SUPPORT = torch.tensor([0.0, 1.0, 2.0])


def test_what_belongs_to_an_action() -> None:
    values = torch.arange(12.0).view(2, 2, 3)
    assert of_action(values, torch.tensor([1, 0])).tolist() == [[3.0, 4.0, 5.0], [6.0, 7.0, 8.0]]


def test_means_in_torch_and_numpy_agree_and_survive_extreme_logits() -> None:
    logits = torch.randn(5, 4, 51) * 300.0
    support = even_support(-10.0, 10.0, 51)
    mean = categorical_mean(logits, support)
    array = categorical_mean_array(logits.flatten(1).numpy(), support.numpy())
    np.testing.assert_allclose(array, mean.numpy(), atol=1e-4)
    certain = torch.tensor([[0.0, 900.0, 0.0]])
    assert categorical_mean(certain, SUPPORT).item() == 1.0


def test_a_support_needs_two_atoms_and_an_interval() -> None:
    assert even_support(-1.0, 1.0, 5).tolist() == [-1.0, -0.5, 0.0, 0.5, 1.0]
    with pytest.raises(ConfigError, match="expected num_atoms to be at least 2, received 1"):
        even_support(0.0, 1.0, 1)
    for interval in ((1.0, 1.0), (0.0, math.inf), (-math.inf, 0.0), (math.nan, 1.0)):
        with pytest.raises(ConfigError, match="expected finite v_min below v_max, received"):
            even_support(*interval, 5)


# The projection.


@pytest.mark.parametrize(
    ("atoms", "expected"),
    [
        ([0.0, 1.0, 2.0], [0.2, 0.3, 0.5]),  # on the support: nothing moves
        ([0.5, 1.5, 2.0], [0.1, 0.25, 0.65]),  # halfway: half to each neighbour
        ([0.25, 1.0, 1.0], [0.15, 0.85, 0.0]),
        ([-7.0, 1.0, 9.0], [0.2, 0.3, 0.5]),  # outside: to the ends
        ([1.0, 1.0, 1.0], [0.0, 1.0, 0.0]),  # behind the end of the task: the reward alone
    ],
)
def test_the_projection_against_literal_numbers(atoms: list[float], expected: list[float]) -> None:
    result = project_categorical(torch.tensor([atoms]), torch.tensor([[0.2, 0.3, 0.5]]), SUPPORT)
    assert result[0].tolist() == pytest.approx(expected, abs=1e-6)


def slow_projection(
    atoms: list[float], probabilities: list[float], v_min: float, v_max: float
) -> list[float]:
    """Algorithm 1 of the paper, atom by atom."""
    count = len(atoms)
    step = (v_max - v_min) / (count - 1)
    result = [0.0] * count
    for atom, probability in zip(atoms, probabilities, strict=True):
        position = (min(max(atom, v_min), v_max) - v_min) / step
        low, high = int(np.floor(position)), int(np.ceil(position))
        if low == high:
            result[low] += probability
        else:
            result[low] += probability * (high - position)
            result[high] += probability * (position - low)
    return result


def test_the_projection_equals_a_loop_and_keeps_mass_and_mean() -> None:
    generator = torch.Generator().manual_seed(0)
    support = even_support(-3.0, 5.0, 17)
    probabilities = torch.rand(20, 17, generator=generator).softmax(-1)
    atoms = torch.rand(20, 17, generator=generator) * 7.9 - 2.95  # inside
    result = project_categorical(atoms, probabilities, support)
    for row in range(20):
        expected = slow_projection(atoms[row].tolist(), probabilities[row].tolist(), -3.0, 5.0)
        assert result[row].tolist() == pytest.approx(expected, abs=1e-5)
    assert result.sum(-1) == pytest.approx(np.ones(20), abs=1e-5)
    torch.testing.assert_close(result @ support, (atoms * probabilities).sum(-1), atol=1e-4, rtol=0)


@pytest.mark.parametrize("discount", [0.5, torch.tensor([0.5, 0.5, 0.25])])
def test_the_categorical_loss_equals_a_loop(discount: float | torch.Tensor) -> None:
    generator = torch.Generator().manual_seed(1)
    logits, next_logits = (torch.randn(3, 11, generator=generator) for _ in range(2))
    reward = torch.tensor([1.0, -0.3, 0.7])
    terminated = torch.tensor([False, True, False])
    support = even_support(-2.0, 2.0, 11)
    loss = categorical_td_loss(logits, next_logits, reward, terminated, discount, support)
    weights = torch.as_tensor(discount).expand(3).tolist()
    for row in range(3):
        weight = 0.0 if terminated[row] else weights[row]
        atoms = [float(reward[row]) + weight * z for z in support.tolist()]
        target = slow_projection(atoms, next_logits[row].softmax(-1).tolist(), -2.0, 2.0)
        log_p = logits[row].log_softmax(-1).tolist()
        assert loss[row].item() == pytest.approx(
            -sum(m * p for m, p in zip(target, log_p, strict=True)), rel=1e-4
        )


def test_the_categorical_loss_is_least_at_the_target_and_has_no_gradient_there() -> None:
    next_logits = torch.tensor([[0.3, -0.2, 0.9]], requires_grad=True)
    logits = next_logits.detach().clone().requires_grad_(True)
    arguments = torch.zeros(1), torch.tensor([False]), 1.0, SUPPORT
    categorical_td_loss(logits, next_logits, *arguments).sum().backward()
    assert logits.grad is not None
    assert logits.grad.abs().max().item() < 1e-6
    assert next_logits.grad is None


# Quantiles.


def test_midpoints() -> None:
    assert quantile_midpoints(4).tolist() == [0.125, 0.375, 0.625, 0.875]


def test_the_quantile_loss_against_literal_numbers() -> None:
    quantiles, target = torch.tensor([[0.0, 1.0]]), torch.tensor([[0.5, 3.0]])
    midpoints = quantile_midpoints(2)  # 1/4 and 3/4
    # Errors of quantile 0: 0.5 and 3 -> Huber 0.125, 2.5, weight 1/4 each: mean 0.328125.
    # Of quantile 1: -0.5 and 2 -> 0.125 with weight |3/4 - 1|, 1.5 with 3/4: mean 0.578125.
    loss = quantile_huber_loss(quantiles, target, midpoints)
    assert loss.tolist() == pytest.approx([0.328125 + 0.578125])


def test_the_quantile_loss_equals_a_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    quantiles = torch.randn(4, 5, generator=generator) * 2
    target = torch.randn(4, 7, generator=generator) * 2
    midpoints = quantile_midpoints(5)
    loss = quantile_huber_loss(quantiles, target, midpoints)
    for row in range(4):
        total = 0.0
        for i in range(5):
            for j in range(7):
                u = float(target[row, j] - quantiles[row, i])
                huber = 0.5 * u * u if abs(u) <= 1 else abs(u) - 0.5
                total += abs(float(midpoints[i]) - (u < 0)) * huber / 7
        assert loss[row].item() == pytest.approx(total, rel=1e-5)


def test_the_quantile_loss_finds_quantiles() -> None:
    """Of a uniform distribution on [0, 100]; the Huber threshold of 1 draws the ends in by 0.3."""
    samples = torch.linspace(0.0, 100.0, 1001).unsqueeze(0)
    quantiles = torch.zeros(1, 4, requires_grad=True)
    optimizer = torch.optim.Adam([quantiles], lr=1.0)
    for _ in range(300):
        optimizer.zero_grad()
        quantile_huber_loss(quantiles, samples, quantile_midpoints(4)).sum().backward()
        optimizer.step()
    assert quantiles[0].tolist() == pytest.approx([12.5, 37.5, 62.5, 87.5], abs=0.6)
