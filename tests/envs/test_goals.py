"""The environments with goals: their rules, their batches, and Gymnasium's own checks."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from lightning_rl.envs.config import EnvConfig
from lightning_rl.envs.goals import BitFlipEnv, PointReachEnv
from lightning_rl.errors import ConfigError

IDS = ("LightningRL/PointReach-v0", "LightningRL/BitFlip-v0")


@pytest.mark.parametrize("identifier", IDS)
@pytest.mark.filterwarnings("ignore")
def test_gymnasium_accepts_them(identifier: str):
    check_env(gymnasium.make(identifier).unwrapped, skip_render_check=True)


@pytest.mark.parametrize("identifier", IDS)
def test_an_id_is_enough(identifier: str):
    observation, action = EnvConfig(identifier).spaces()
    assert set(observation.spaces) == {"observation", "achieved_goal", "desired_goal"}
    assert action is not None


def test_a_point_that_goes_straight_to_its_goal_gets_there():
    env = PointReachEnv()
    for seed in range(20):
        observation, _ = env.reset(seed=seed)
        rewards = []
        for _ in range(50):
            way = (observation["desired_goal"] - observation["achieved_goal"]) / env.speed
            observation, reward, terminated, truncated, info = env.step(way)
            rewards.append(reward)
            if terminated:
                break
        assert terminated
        assert not truncated
        assert info == {"is_success": True}
        assert sum(rewards) == 1.0


def test_bits_flip_and_the_goal_ends_the_episode():
    env = BitFlipEnv(size=4)
    for seed in range(10):
        observation, _ = env.reset(seed=seed)
        wrong = np.flatnonzero(observation["achieved_goal"] != observation["desired_goal"])
        assert len(wrong) > 0
        for count, bit in enumerate(wrong, start=1):
            observation, reward, terminated, truncated, _ = env.step(bit)
            last = count == len(wrong)
            assert (reward, terminated) == (float(last), last)
            assert not (truncated and terminated)


@pytest.mark.parametrize("env", [PointReachEnv(max_steps=5, tolerance=1e-6), BitFlipEnv(8, 5)])
def test_a_time_limit_truncates(env: Any):
    env.reset(seed=0)
    env.action_space.seed(0)
    ends = [env.step(env.action_space.sample())[2:4] for _ in range(5)]
    assert ends == [(False, False)] * 4 + [(False, True)]


@pytest.mark.parametrize("env", [PointReachEnv(), BitFlipEnv()])
def test_rewards_of_a_batch_are_those_of_its_rows(env: Any):
    random = np.random.default_rng(0)
    achieved = np.sign(random.standard_normal((6, env.size))).astype(np.float32)
    desired = achieved.copy()
    desired[3:] *= -1.0
    rewards = env.compute_reward(achieved, desired, {})
    assert rewards.tolist() == [1.0] * 3 + [0.0] * 3
    assert env.compute_terminated(achieved, desired, {}).tolist() == [True] * 3 + [False] * 3
    assert float(env.compute_reward(achieved[0], desired[0], {})) == 1.0


def test_sizes_must_be_positive():
    with pytest.raises(ConfigError, match="expected positive sizes"):
        PointReachEnv(size=0)
