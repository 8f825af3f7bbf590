"""The probes keep their promises: spaces, optimal values, and faults at the chosen call."""

from __future__ import annotations

import itertools
import os
import signal
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from lightning_rl.envs import probes
from lightning_rl.envs.preflight import check_env
from lightning_rl.envs.probe_base import (
    ACTION_SPACES,
    OBSERVATION_SPACES,
    ProbeEnv,
    read_bit,
    show_bit,
)
from lightning_rl.envs.probes import (
    PROBES,
    ActionRewardEnv,
    ConstantRewardEnv,
    CountEnv,
    DelayedRewardEnv,
    FaultEnv,
    ObservationActionEnv,
    ObservationRewardEnv,
    TruncationEnv,
)
from lightning_rl.errors import ConfigError

BEST = {
    "discrete": lambda bit: bit,
    "box": lambda bit: np.array([bit - 0.5], dtype=np.float32),
    "multi_discrete": lambda bit: np.array([bit, 2 * bit]),
    "multi_binary": lambda bit: np.array([bit, 1 - bit], dtype=np.int8),
}


def rewards_until_the_end(env: gym.Env, action: Any = 0, seed: int = 0) -> list[float]:
    env.reset(seed=seed)
    rewards = []
    for _ in range(100):
        _, reward, terminated, truncated, _ = env.step(action)
        rewards.append(reward)
        if terminated or truncated:
            break
    return rewards


@pytest.mark.parametrize("identifier", list(PROBES))
def test_each_is_registered_and_sound(identifier: str) -> None:
    env = gym.make(identifier)
    assert type(env.unwrapped) is PROBES[identifier]
    check_env(env)


def test_constant_reward() -> None:
    assert rewards_until_the_end(ConstantRewardEnv()) == [1.0]
    assert ConstantRewardEnv().optimal_value(np.zeros(1), 0.5) == 1.0


def test_observation_reward_pays_what_it_shows() -> None:
    env, seen = ObservationRewardEnv(), set()
    for seed in range(10):
        observation, _ = env.reset(seed=seed)
        _, reward, terminated, _, _ = env.step(0)
        assert terminated
        assert reward == observation[0] == env.optimal_value(observation, 0.9)
        seen.add(reward)
    assert seen == {-1.0, 1.0}


def test_delayed_reward() -> None:
    env = DelayedRewardEnv()
    assert rewards_until_the_end(env) == [0.0, 1.0]
    assert env.optimal_value(np.zeros(1), 0.5) == 0.5
    assert env.optimal_value(np.ones(1), 0.5) == 1.0


@pytest.mark.parametrize("kind", list(ACTION_SPACES))
def test_action_reward_is_best_at_the_best_action(kind: str) -> None:
    env = ActionRewardEnv(kind)
    assert env.action_space.contains(BEST[kind](1))
    assert rewards_until_the_end(env, BEST[kind](1)) == [1.0]
    assert rewards_until_the_end(env, BEST[kind](0))[0] <= 0.5


@pytest.mark.parametrize(
    ("observation", "action"), list(itertools.product(OBSERVATION_SPACES, ACTION_SPACES))
)
def test_observation_action_is_solved_by_telling_the_bit(observation: str, action: str) -> None:
    env = ObservationActionEnv(observation, action, length=20)
    shown, _ = env.reset(seed=0)
    total, bits = 0.0, set()
    for step in range(20):
        assert env.observation_space.contains(shown)
        bits.add(read_bit(observation, shown))
        shown, reward, terminated, _, _ = env.step(BEST[action](read_bit(observation, shown)))
        total += reward
        assert terminated is (step == 19)
    assert total == env.optimal_return == 20.0
    assert bits == {0, 1}


def test_the_value_of_a_longer_task_is_discounted() -> None:
    assert ObservationActionEnv(length=3).optimal_value(None, 0.5) == 1.75


@pytest.mark.parametrize("kind", list(OBSERVATION_SPACES))
@pytest.mark.parametrize("bit", [0, 1])
def test_a_shown_bit_can_be_read(kind: str, bit: int) -> None:
    assert read_bit(kind, show_bit(kind, bit)) == bit


def test_unknown_kinds_name_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"multi_binary.*received 'boxx'"):
        ActionRewardEnv("boxx")
    with pytest.raises(ConfigError, match=r"image.*received 'boxx'"):
        ObservationActionEnv("boxx")


def test_two_instances_share_no_space() -> None:
    assert ActionRewardEnv("box").action_space is not ActionRewardEnv("box").action_space


def test_truncation_and_its_twin() -> None:
    truncated, terminated = TruncationEnv(3), TruncationEnv(3, ends="terminated")
    for env in (truncated, terminated):
        assert rewards_until_the_end(env) == [1.0, 1.0, 1.0]
    assert truncated.step(0)[2:4] == (False, True)
    assert terminated.step(0)[2:4] == (True, False)
    assert truncated.optimal_value(np.array([2 / 3]), 0.5) == 2.0
    assert terminated.optimal_value(np.array([0.0]), 0.5) == 1.75
    assert terminated.optimal_value(np.array([2 / 3]), 0.5) == 1.0


def test_count() -> None:
    env = CountEnv()
    assert [env.length_of(seed) for seed in (0, 1, 5, 6)] == [5, 6, 10, 5]
    assert rewards_until_the_end(env, seed=1) == [1, 2, 3, 4, 5, 6]
    observation, info = env.reset(seed=0)
    assert info == {"seed": 0, "length": 5}
    assert observation == [0.0]
    assert env.step(0)[0] == [1.0]
    assert env.optimal_value(np.array([3.0]), 0.5) == 4 + 0.5 * 5
    assert CountEnv(2, 3).optimal_return == (3 + 6) / 2


@pytest.mark.parametrize("where", ["step", "reset", "init"])
def test_it_raises_at_the_call_that_was_asked_for(where: Any) -> None:
    if where == "init":
        with pytest.raises(RuntimeError, match="raises at init 1"):
            FaultEnv(raise_at=1, where=where)
        return
    env = FaultEnv(raise_at=2, where=where)
    env.reset(seed=0)
    if where == "step":
        env.step(0)
    with pytest.raises(RuntimeError, match=f"raises at {where} 2"):
        env.step(0) if where == "step" else env.reset(seed=0)


def test_it_returns_nan_and_bad_shapes() -> None:
    env = FaultEnv(nan_at=1, bad_shape_at=2, nan_reward_at=3)
    env.reset(seed=0)
    assert np.isnan(env.step(0)[0]).all()
    assert env.step(0)[0].shape == (2,)
    assert np.isnan(env.step(0)[1])
    assert env.step(0)[:2] == (np.array([4.0]), 4.0)
    assert np.isnan(FaultEnv(nan_at=1, where="reset").reset(seed=0)[0]).all()


def test_it_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(probes.time, "sleep", slept.append)
    env = FaultEnv(hang_at=2)
    env.reset(seed=0)
    env.step(0)
    assert slept == []
    env.step(0)
    assert slept == [3600.0]


def test_it_dies(monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[tuple[int, int]] = []
    monkeypatch.setattr(probes.os, "kill", lambda pid, number: killed.append((pid, number)))
    env = FaultEnv(die_at=1)
    env.reset(seed=0)
    env.step(0)
    assert killed == [(os.getpid(), signal.SIGKILL)]


def test_the_base_is_a_probe_too() -> None:
    assert ProbeEnv().optimal_return == 1.0
