"""Schedules as pure functions of the fraction of the budget that is spent; no counters live here.

`linear`, `exponential` and `constant` share one signature `(start, end, fraction)`, `fraction`
being clipped to [0, 1], so that a schedule stays at its end value after its budget.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from lightning_rl.types import Array

Schedule: TypeAlias = Callable[[float, float, float], float]


def linear(start: float, end: float, fraction: float) -> float:
    """Return the value at `fraction` of the straight line from `start` to `end`."""
    progress = _clip(fraction)
    return start * (1.0 - progress) + end * progress


def linear_path(start: float, end: float, fractions: Array) -> list[float]:
    """Return `linear` at each of `fractions`, to the last bit, for little more than one of them."""
    progress = np.clip(fractions, 0.0, 1.0)
    return (start * (1.0 - progress) + end * progress).tolist()  # type: ignore[no-any-return]


def exponential(start: float, end: float, fraction: float) -> float:
    """Return the value at `fraction` of the geometric line from `start` to `end`.

    Raises:
        ValueError: `start` or `end` is not positive.
    """
    if start <= 0.0 or end <= 0.0:
        raise ValueError(f"expected positive start and end, got {start} and {end}")
    return start * (end / start) ** _clip(fraction)


def constant(start: float, end: float = 0.0, fraction: float = 0.0) -> float:
    """Return `start`, whatever the fraction."""
    return start


def adaptive_kl_learning_rate(
    learning_rate: float,
    kl: float,
    target_kl: float,
    low: float = 1e-5,
    high: float = 1e-2,
    factor: float = 1.5,
) -> float:
    """Return the learning rate that steers the policy's change per update towards `target_kl`.

    The rule of RSL-RL (Rudin et al., 2022, https://arxiv.org/abs/2109.11978;
    `rsl_rl/algorithms/ppo.py`): divide by `factor` when the KL divergence is above twice the
    target, multiply when it is positive and below half of it.

    Args:
        learning_rate: The present one.
        kl: Measured divergence of the new from the old policy; a non-finite one lowers the rate.
        target_kl: Wanted divergence, positive.
        low: Lowest result.
        high: Highest result.
        factor: Change per call, above 1.

    Returns:
        The new learning rate in [low, high].
    """
    # "not <=" so that a NaN divergence slows learning down instead of counting as on target.
    if not kl <= 2.0 * target_kl:
        return max(low, learning_rate / factor)
    if 0.0 < kl < 0.5 * target_kl:
        return min(high, learning_rate * factor)
    return learning_rate


def _clip(fraction: float) -> float:
    return min(max(fraction, 0.0), 1.0)
