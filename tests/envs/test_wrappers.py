"""A new world per reset makes Box2D walkers reproducible."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from lightning_rl.envs.snapshot import same_bits
from lightning_rl.envs.wrappers import FreshWorld

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def walker(**kwargs: Any) -> gym.Env:
    pytest.importorskip("Box2D")
    return gym.make("BipedalWalker-v3", **kwargs)


def episode(env: gym.Env, seed: int, num_steps: int = 100) -> list[Any]:
    rng = np.random.default_rng(seed)
    events: list[Any] = [env.reset(seed=seed)[0]]
    for _ in range(num_steps):
        events.append(env.step(rng.uniform(-1, 1, 4).astype(np.float32))[:4])
        if events[-1][2] or events[-1][3]:
            break
    return events


@pytest.mark.parametrize("hardcore", [False, True])
def test_a_used_walker_plays_like_a_new_one(hardcore: bool) -> None:
    used = FreshWorld(walker(hardcore=hardcore))
    for seed in range(8):
        new = FreshWorld(walker(hardcore=hardcore))
        assert same_bits(episode(used, seed), episode(new, seed)), seed


def test_the_wrapper_is_still_needed() -> None:
    used = walker()
    same = [same_bits(episode(used, seed), episode(walker(), seed)) for seed in range(10)]
    assert not all(same)


def test_it_changes_nothing_on_a_new_instance() -> None:
    assert same_bits(episode(FreshWorld(walker()), 2), episode(walker(), 2))


def test_it_applies_to_walkers_without_it() -> None:
    assert FreshWorld.applies(walker())
    assert FreshWorld.applies(walker(hardcore=True))
    assert not FreshWorld.applies(FreshWorld(walker()))
    assert not FreshWorld.applies(gym.wrappers.TimeLimit(FreshWorld(walker()), 5))
    assert not FreshWorld.applies(gym.make("CartPole-v1"))


def test_it_does_not_apply_to_a_lander() -> None:
    pytest.importorskip("Box2D")
    assert not FreshWorld.applies(gym.make("LunarLander-v3"))
