"""Schedules and the adaptive learning rate."""

import math

import numpy as np
import pytest

from lightning_rl.functional.schedules import (
    adaptive_kl_learning_rate,
    constant,
    exponential,
    linear,
    linear_path,
)


@pytest.mark.parametrize(
    ("fraction", "value"), [(-1.0, 1.0), (0.0, 1.0), (0.25, 0.8), (1.0, 0.2), (7.0, 0.2)]
)
def test_linear(fraction, value):
    assert linear(1.0, 0.2, fraction) == pytest.approx(value)


def test_ends_are_exact():
    assert linear(0.1, 0.3, 1.0) == 0.3
    assert linear(0.1, 0.3, 0.0) == 0.1


@pytest.mark.parametrize(("fraction", "value"), [(-1, 1.0), (0.5, 0.1), (1.0, 0.01), (2.0, 0.01)])
def test_exponential(fraction, value):
    assert exponential(1.0, 0.01, fraction) == pytest.approx(value)


def test_a_path_is_the_line_at_each_fraction():
    assert linear_path(1.0, 0.0, np.array([-1.0, 0.25, 1.0, 3.0])) == [1.0, 0.75, 0.0, 0.0]
    fractions = np.random.default_rng(0).random(1_000)
    assert linear_path(0.9, 0.05, fractions) == [linear(0.9, 0.05, f) for f in fractions.tolist()]


def test_exponential_refuses_zero():
    with pytest.raises(ValueError, match="positive"):
        exponential(1.0, 0.0, 0.5)


def test_constant_ignores_the_rest():
    assert constant(0.3, 9.0, 0.7) == 0.3


@pytest.mark.parametrize(
    ("kl", "expected"),
    [
        (0.021, 2e-4),  # above twice the target
        (0.02, 3e-4),
        (0.01, 3e-4),
        (0.005, 3e-4),
        (0.0049, 4.5e-4),  # below half of it
        (0.0, 3e-4),  # nothing measured
        (-0.001, 3e-4),
        (math.nan, 2e-4),
        (math.inf, 2e-4),
    ],
)
def test_adaptive_learning_rate(kl, expected):
    assert adaptive_kl_learning_rate(3e-4, kl, 0.01) == pytest.approx(expected)


def test_adaptive_learning_rate_stays_in_its_range():
    assert adaptive_kl_learning_rate(1.2e-5, 1.0, 0.01) == 1e-5
    assert adaptive_kl_learning_rate(9e-3, 1e-4, 0.01) == 1e-2
