"""The budget: what is spent, how far schedules are, and how long an epoch is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from lightning_rl.errors import ConfigError
from lightning_rl.experience.budget import Budget


def test_without_arguments_it_is_100000_env_steps() -> None:
    assert Budget.create(None, None, None) == Budget(100_000, None, 100_000)


def test_schedules_last_as_long_as_the_budget_unless_told() -> None:
    assert Budget.create(500, None, None).schedule_env_steps == 500
    assert Budget.create(500, None, 200).schedule_env_steps == 200
    assert Budget.create(None, 20, None) == Budget(None, 20, None, 20)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            (100, 10, None),
            "expected one of total_env_steps and total_episodes, received 100 and 10",
        ),
        ((0, None, None), "expected total_env_steps to be at least 1, received 0"),
        ((None, -1, None), "expected total_episodes to be at least 1, received -1"),
        ((10, None, 0), "expected schedule_env_steps to be at least 1, received 0"),
    ],
)
def test_mistakes_are_named(arguments: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Budget.create(*arguments)


def test_env_steps_decide_unless_episodes_were_given() -> None:
    steps, episodes = Budget.create(100, None, None), Budget.create(None, 5, None)
    assert [steps.is_spent(n, 99) for n in (0, 99, 100, 101)] == [False, False, True, True]
    assert [episodes.is_spent(10**9, n) for n in (0, 4, 5, 6)] == [False, False, True, True]


def test_schedules_of_an_episode_budget_keep_their_length() -> None:
    extended = replace(Budget.create(None, 200, None), schedule_episodes=100)
    assert [extended.progress(0, episodes) for episodes in (50, 100, 150)] == [0.5, 1.0, 1.0]


def test_progress_stays_at_one() -> None:
    budget = Budget.create(200, None, 100)
    assert [budget.progress(n, 0) for n in (0, 25, 100, 200)] == [0.0, 0.25, 1.0, 1.0]
    budget = Budget.create(None, 10, None)
    assert [budget.progress(10**6, n) for n in (0, 5, 10, 20)] == [0.0, 0.5, 1.0, 1.0]
    assert Budget.create(None, 10, 100).progress(50, 9) == 0.5


@pytest.mark.parametrize(
    ("at_start", "units"), [(0, 8), (1, 8), (12, 7), (95, 1), (96, 0), (120, 0)]
)
def test_an_epoch_has_the_units_that_were_left_at_its_start(at_start: int, units: int) -> None:
    assert Budget.create(96, None, None).units(12, at_start) == units


def test_a_last_unit_may_pass_the_budget() -> None:
    assert Budget.create(97, None, None).units(12, 0) == 9
