"""Choices and values from one row of a table."""

from __future__ import annotations

from collections import Counter

import pytest

from lightning_rl.functional.tabular import epsilon_greedy, epsilon_greedy_value

EVENLY = [(i + 0.5) / 12_000 for i in range(12_000)]


@pytest.mark.parametrize(
    ("values", "epsilon", "shares"),
    [
        ([0.0, 2.0, 1.0], 0.0, [0.0, 1.0, 0.0]),
        ([0.0, 2.0, 1.0], 1.0, [1 / 3, 1 / 3, 1 / 3]),
        ([0.0, 2.0, 1.0], 0.3, [0.1, 0.8, 0.1]),
        ([5.0, -1.0, 5.0, 5.0], 0.0, [1 / 3, 0.0, 1 / 3, 1 / 3]),
        ([5.0, -1.0, 5.0, -2.0], 0.2, [0.45, 0.05, 0.45, 0.05]),
    ],
)
def test_every_action_has_its_share(
    values: list[float], epsilon: float, shares: list[float]
) -> None:
    drawn = Counter(epsilon_greedy(values, epsilon, uniform) for uniform in EVENLY)
    assert [drawn[action] / len(EVENLY) for action in range(len(values))] == pytest.approx(
        shares, abs=1e-3
    )


@pytest.mark.parametrize("epsilon", [1e-300, 0.1, 0.7, 1.0])
def test_the_last_numbers_of_each_part_are_actions_too(epsilon: float) -> None:
    below = epsilon * (1 - 2**-53)
    for uniform in (0.0, below, epsilon, 1 - 2**-53):
        if uniform < 1.0:
            assert epsilon_greedy([1.0, 1.0, 1.0], epsilon, uniform) in (0, 1, 2)


def test_the_expected_value_by_hand() -> None:
    assert epsilon_greedy_value([1.0, 2.0, 6.0], 0.0) == 6.0
    assert epsilon_greedy_value([1.0, 2.0, 6.0], 1.0) == 3.0
    assert epsilon_greedy_value([1.0, 2.0, 6.0], 0.5) == 4.5


def test_the_expected_value_is_the_mean_over_choices() -> None:
    values = [3.0, -1.0, 3.0, 0.5]
    mean = sum(values[epsilon_greedy(values, 0.4, uniform)] for uniform in EVENLY) / len(EVENLY)
    assert epsilon_greedy_value(values, 0.4) == pytest.approx(mean, abs=1e-3)
