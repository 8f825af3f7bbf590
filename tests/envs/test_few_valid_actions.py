"""Rooms with many locked doors, played by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from lightning_rl.envs.config import EnvConfig
from lightning_rl.envs.few_valid_actions import FewValidActionsEnv
from lightning_rl.errors import ConfigError


def play(env: Any, choose: Any) -> tuple[float, int, set[int]]:
    """Return return, length and rooms of an episode."""
    observation, info = env.reset(seed=3)
    total, length, rooms, ended = 0.0, 0, {int(observation.argmax())}, False
    while not ended:
        action = choose(int(observation.argmax()), info["action_mask"])
        observation, reward, terminated, ended, info = env.step(action)
        assert not terminated
        rooms.add(int(observation.argmax()))
        total, length = total + reward, length + 1
    return total, length, rooms


def test_few_of_fifty_doors_are_open() -> None:
    env = EnvConfig("LightningRL/FewValidActions-v0").make()
    task: Any = env.unwrapped
    assert env.action_space.n == 50  # type: ignore[attr-defined]
    counts = task.masks.sum(1)
    assert set(counts.tolist()) == {2, 3, 4, 5}
    assert all(mask[door] == 1 for mask, door in zip(task.masks, task.paying, strict=True))
    _, info = env.reset(seed=0)
    assert info["action_mask"].sum() <= 5


def test_the_paying_doors_are_the_optimum() -> None:
    env = FewValidActionsEnv()
    total, length, rooms = play(env, lambda room, mask: env.paying[room])
    assert total == length == env.optimal_return == 20.0
    assert len(rooms) > 10


def test_other_open_doors_lead_on_and_locked_ones_do_not() -> None:
    env = FewValidActionsEnv()
    total, _, rooms = play(
        env, lambda room, mask: next(d for d in np.flatnonzero(mask) if d != env.paying[room])
    )
    assert total == 0.0
    assert len(rooms) > 10
    assert play(env, lambda room, mask: int(mask.argmin()))[::2] == (0.0, {int(env._room)})


def test_rooms_are_the_same_in_every_instance() -> None:
    assert np.array_equal(FewValidActionsEnv().masks, FewValidActionsEnv().masks)
    assert FewValidActionsEnv(num_steps=7).optimal_return == 7.0


def test_it_keeps_to_gymnasium() -> None:
    check_env(FewValidActionsEnv(), skip_render_check=True)


@pytest.mark.parametrize("kwargs", [{"max_valid": 1}, {"max_valid": 51}, {"num_rooms": 1}])
def test_numbers_that_cannot_be_are_refused(kwargs: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="max_valid <= num_actions"):
        FewValidActionsEnv(**kwargs)
