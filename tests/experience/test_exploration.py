"""Epsilon-greedy: how often it explores, and when it asks the network at all."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lightning_rl.errors import ConfigError
from lightning_rl.experience.exploration import EpsilonGreedy

ROWS = np.zeros((8, 1))


def constant(action: int) -> Any:
    return lambda observation: np.full(len(observation), action)


def play(exploration: EpsilonGreedy, progress: float, greedy: Any, steps: int = 2000) -> np.ndarray:
    act = exploration.begin_rollout(greedy, (steps, 8), progress, np.random.default_rng(0))
    return np.stack([act(ROWS, step) for step in range(steps)])


def test_epsilon_falls_to_its_end_and_stays_there() -> None:
    exploration = EpsilonGreedy(2, 0.9, 0.1, 0.5)
    values = [exploration.epsilon(progress) for progress in (0.0, 0.25, 0.5, 1.0)]
    assert values == pytest.approx([0.9, 0.5, 0.1, 0.1])


@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0])
def test_the_share_of_each_action(epsilon: float) -> None:
    exploration = EpsilonGreedy(4, epsilon, epsilon, 1.0)
    played = play(exploration, 0.0, constant(3))
    disturbed = exploration.disturb(np.full(16_000, 3), 0.0, np.random.default_rng(1))
    expected = [epsilon / 4] * 3 + [1 - epsilon * 3 / 4]
    for actions in (played, disturbed):
        shares = np.bincount(actions.ravel(), minlength=4) / actions.size
        assert shares == pytest.approx(expected, abs=0.01)


def test_the_network_is_asked_only_where_some_row_is_greedy() -> None:
    def refuse(observation: Any) -> np.ndarray:
        raise AssertionError("asked")

    assert set(play(EpsilonGreedy(2, 1.0, 1.0, 1.0), 0.0, refuse, steps=20).ravel()) == {0, 1}
    with pytest.raises(AssertionError, match="asked"):
        play(EpsilonGreedy(2, 0.0, 0.0, 1.0), 0.0, refuse, steps=1)


def test_ranges_are_refused_by_the_names_of_the_arguments() -> None:
    with pytest.raises(ConfigError, match="expected epsilon_end to be in"):
        EpsilonGreedy(2, 1.0, 1.5, 0.5)
    with pytest.raises(ConfigError, match="expected epsilon_fraction"):
        EpsilonGreedy(2, 1.0, 0.5, 0.0)
