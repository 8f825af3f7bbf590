"""The exact value of a policy: by hand, against known optima, and against a slow loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from benchmarks.learning.exact import greedy_value, policy_value
from lightning_rl import DQN

UP, RIGHT, DOWN = 0, 1, 2


def test_a_chain_by_hand() -> None:
    # State 0 pays 1 and stays with 1/2, else goes to state 1, which pays 10 and ends.
    table = {0: {0: [(0.5, 0, 1.0, False), (0.5, 1, 1.0, False)]}, 1: {0: [(1.0, 1, 10.0, True)]}}
    assert policy_value(table, [0, 0], [1.0, 0.0], limit=1) == 1.0
    assert policy_value(table, [0, 0], [1.0, 0.0], limit=2) == 1.0 + 0.5 * 1.0 + 0.5 * 10.0
    assert policy_value(table, [0, 0], [1.0, 0.0], limit=10_000) == pytest.approx(12.0)
    assert policy_value(table, [0, 0], [0.25, 0.75], limit=1) == 0.25 + 7.5


def test_the_safe_and_the_short_way_along_the_cliff() -> None:
    env = gymnasium.make("CliffWalking-v1").unwrapped
    short, safe = np.full(48, RIGHT), np.full(48, RIGHT)
    short[36], short[35] = UP, DOWN
    safe[[36, 24, 12]], safe[[11, 23, 35]] = UP, DOWN
    start = env.initial_state_distrib
    assert policy_value(env.P, short.tolist(), start, 10_000) == -13
    assert policy_value(env.P, safe.tolist(), start, 10_000) == -17
    assert policy_value(env.P, safe.tolist(), start, 5) == -5


def test_the_discounted_optimum_of_frozen_lake() -> None:
    env = gymnasium.make("FrozenLake-v1").unwrapped
    policy = _policy_iteration(env.P, gamma=0.99)
    assert policy_value(env.P, policy, env.initial_state_distrib, 100) == pytest.approx(
        0.7402, abs=5e-5
    )


def test_sampled_episodes_agree() -> None:
    env = gymnasium.make("FrozenLake-v1")
    policy = [int(action) for action in np.random.default_rng(3).integers(4, size=16)]
    policy[0], policy[4] = UP, UP
    table = env.unwrapped.P
    expected = policy_value(table, policy, env.unwrapped.initial_state_distrib, 4)
    # Four steps are few enough to follow every branch.
    assert expected == pytest.approx(_branches(table, policy, 0, 4))


def test_a_checkpoint_is_judged_by_its_greedy_policy(tmp_path: Path) -> None:
    agent = DQN(
        env={"id": "FrozenLake-v1", "kwargs": {"is_slippery": False}, "max_episode_steps": 7},
        total_env_steps=10,
        seed=3,
    )
    from lightning_rl import Trainer

    trainer = Trainer(fast_dev_run=1, logger=False, enable_progress_bar=False)
    trainer.fit(agent)
    trainer.save_checkpoint(tmp_path / "agent.ckpt")
    state, steps, reached = 0, 0, 0.0
    env = agent.env_config.make()
    state, _ = env.reset(seed=0)
    while steps < 7:
        state, reward, terminated, _, _ = env.step(agent.predict(state))
        reached, steps = reached + reward, steps + 1
        if terminated:
            break
    assert greedy_value(tmp_path / "agent.ckpt") == reached


def test_an_environment_without_a_table_is_refused(tmp_path: Path) -> None:
    from lightning_rl import Trainer

    trainer = Trainer(fast_dev_run=1, logger=False, enable_progress_bar=False)
    trainer.fit(DQN(env="CartPole-v1", total_env_steps=10))
    trainer.save_checkpoint(tmp_path / "agent.ckpt")
    with pytest.raises(ValueError, match="CartPole-v1 has no transition table"):
        greedy_value(tmp_path / "agent.ckpt")


def _branches(table: Any, policy: list[int], state: int, steps: int) -> float:
    if steps == 0:
        return 0.0
    return sum(
        probability * (reward + (0.0 if ended else _branches(table, policy, successor, steps - 1)))
        for probability, successor, reward, ended in table[state][policy[state]]
    )


def _policy_iteration(table: Any, gamma: float) -> list[int]:
    value = np.zeros(len(table))
    for _ in range(2_000):
        q = [
            [
                sum(p * (r + gamma * value[s] * (not ended)) for p, s, r, ended in table[x][a])
                for a in range(4)
            ]
            for x in range(len(table))
        ]
        value = np.max(q, axis=1)
    return [int(action) for action in np.argmax(q, axis=1)]
