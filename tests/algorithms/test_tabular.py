"""Q-learning, SARSA and Expected SARSA: single updates, and whole runs against slow loops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import lightning.pytorch as pl
import numpy as np
import pytest
from gymnasium import spaces

from lightning_rl.algorithms import SARSA, ExpectedSARSA, QLearning
from lightning_rl.algorithms.expected_sarsa import expected_sarsa_target
from lightning_rl.algorithms.q_learning import double_q_learning_target, q_learning_target
from lightning_rl.algorithms.sarsa import sarsa_target
from lightning_rl.envs.config import EnvConfig
from lightning_rl.envs.probes import ObservationActionEnv, ProbeEnv
from lightning_rl.networks.table import TableRows
from tests.algorithms.walk import BITS, COUNT, collected, table_of, walk

Fit = Callable[..., pl.Trainer]
TABULAR = [QLearning, SARSA, ExpectedSARSA]
EVERY = pytest.mark.parametrize("cls", TABULAR)


# One update.


def learn_once(cls: Any, transition: Any, coin: float = 0.0, **arguments: Any) -> tuple[Any, Any]:
    agent = cls(BITS, gamma=0.9, seed=1, **arguments)
    agent.table.arrays[0][:] = [[1.0, 2.0], [3.0, 4.0]]
    if len(agent.table.arrays) == 2:
        agent.table.arrays[1][:] = [[0.0, 5.0], [8.0, -1.0]]
    tables = [TableRows(array) for array in agent.table.arrays]
    errors = agent.learn(tables, [transition], 0.2, 0.5, [coin])
    return agent.table, errors


@pytest.mark.parametrize(
    ("cls", "target"),
    [(QLearning, 1.0 + 0.9 * 4.0), (SARSA, 1.0 + 0.9 * 3.0), (ExpectedSARSA, 1.0 + 0.9 * 3.9)],
)
def test_one_update_by_hand(cls: Any, target: float):
    table, errors = learn_once(cls, (0, 1, 1.0, False, 1, 0))
    assert errors == pytest.approx([target - 2.0])
    expected = [[1.0, (2.0 + target) / 2], [3.0, 4.0]]
    assert table.arrays[0].tolist() == [pytest.approx(row) for row in expected]


@EVERY
def test_the_end_of_the_task_is_worth_its_reward(cls: Any):
    table, errors = learn_once(cls, (1, 0, -2.0, True, 0, 1))
    assert errors == [-5.0]
    assert table.arrays[0].tolist() == [[1.0, 2.0], [0.5, 4.0]]


@pytest.mark.parametrize(
    ("coin", "tables"),
    [
        # The first table chooses action 1 in state 1, which the second values at -1.
        (0.4, ([[1.0, (2.0 + 1.0 - 0.9) / 2], [3.0, 4.0]], [[0.0, 5.0], [8.0, -1.0]])),
        # The second chooses action 0, which the first values at 3.
        (0.6, ([[1.0, 2.0], [3.0, 4.0]], [[0.0, (5.0 + 1.0 + 2.7) / 2], [8.0, -1.0]])),
    ],
)
def test_double_q_learning_values_what_the_other_table_chooses(coin: float, tables: Any):
    table, errors = learn_once(QLearning, (0, 1, 1.0, False, 1, 0), coin, double=True)
    for array, expected in zip(table.arrays, tables, strict=True):
        assert array.tolist() == [pytest.approx(row) for row in expected]
    assert errors == pytest.approx([1.0 - 0.9 - 2.0 if coin < 0.5 else 1.0 + 2.7 - 5.0])


def test_targets_by_hand():
    assert q_learning_target(1.0, False, [0.0, 10.0], 0.5) == 6.0
    assert sarsa_target(1.0, False, 4.0, 0.5) == 3.0
    assert expected_sarsa_target(1.0, False, [0.0, 10.0], 0.5, 0.5) == 1.0 + 0.5 * 7.5
    assert double_q_learning_target(1.0, False, [0.0, 10.0], [6.0, 2.0], 0.5) == 2.0
    ended = (1.0, True, [float("nan")], 0.5)
    assert q_learning_target(*ended) == sarsa_target(1.0, True, float("nan"), 0.5) == 1.0
    assert double_q_learning_target(1.0, True, [0.0], [0.0], 0.5) == 1.0
    assert expected_sarsa_target(1.0, True, [0.0], 0.1, 0.5) == 1.0


# Whole runs against loops over what was collected.


@pytest.mark.parametrize("num_envs", [1, 3])
@pytest.mark.parametrize("cls", [QLearning, ExpectedSARSA])
def test_the_table_equals_a_loop_over_all_steps(fit: Fit, cls: Any, num_envs: int):
    epsilon, gamma, rate = 0.3, 0.9, 0.25
    agent = cls(
        walk(num_envs), 900, seed=4, gamma=gamma, learning_rate=rate, initial_value=0.5,
        epsilon_start=epsilon, epsilon_schedule="constant", env_steps_per_iteration=30,
    )  # fmt: skip
    steps = collected(fit, agent)
    ends = {(s["terminated"], s["truncated"]) for s in steps}
    assert ends == {(False, False), (True, False), (False, True), (True, True)}
    q = [[0.5, 0.5] for _ in range(5)]
    for s in steps:
        follow = q[s["next"]]
        value = max(follow)
        if cls is ExpectedSARSA:
            value = (1 - epsilon) * max(follow) + epsilon * (follow[0] + follow[1]) / 2
        target = s["reward"] + (0.0 if s["terminated"] else gamma * value)
        q[s["seen"]][s["action"]] += rate * (target - q[s["seen"]][s["action"]])
    assert table_of(agent)[0] == pytest.approx(np.array(q), rel=1e-12)


@pytest.mark.parametrize("num_envs", [1, 3])
def test_sarsa_learns_from_the_action_that_it_takes_next(fit: Fit, num_envs: int):
    agent = SARSA(
        {**COUNT, "num_envs": num_envs}, 900, seed=4, gamma=0.9, learning_rate=0.25,
        epsilon_start=0.3, epsilon_schedule="constant", env_steps_per_iteration=30,
    )  # fmt: skip
    steps = collected(fit, agent)
    ahead = agent.state._last_source.next_action
    q = [[0.0, 0.0] for _ in range(11)]
    for s, after in zip(steps, steps[num_envs:] + [None] * num_envs, strict=True):
        assert s["terminated"] or after is None or after["seen"] == s["next"]
        if after is None and not s["terminated"]:  # chosen ahead, for a step that is not taken
            after = {"action": ahead[s["env"]]}
        value = 0.0 if s["terminated"] else q[s["next"]][after["action"]]
        q[s["seen"]][s["action"]] += 0.25 * (s["reward"] + 0.9 * value - q[s["seen"]][s["action"]])
    assert table_of(agent)[0] == pytest.approx(np.array(q), rel=1e-12)


# What is learned.


@EVERY
@pytest.mark.parametrize("kind", ["discrete", "multi_discrete", "multi_binary"])
@pytest.mark.parametrize("double", [False, True])
def test_every_observation_space_is_learned(fit: Fit, cls: Any, kind: str, double: bool):
    if double and cls is not QLearning:
        return
    options = {"double": True} if double else {}
    env = {**BITS, "num_envs": 4, "kwargs": {"observation": kind}}
    agent = cls(env, 400, seed=1, env_steps_per_iteration=100, **options)
    fit(agent)
    probe = ObservationActionEnv(observation=kind)
    for seed in range(10):
        observation, _ = probe.reset(seed=seed)
        assert probe.step(agent.predict(observation))[1] == 1.0


class Endless(ProbeEnv):
    """Reward 1 for ever in one state."""

    def __init__(self) -> None:
        super().__init__()
        self.observation_space = spaces.Discrete(1)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        gymnasium.Env.reset(self, seed=seed)
        return 0, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return 0, 1.0, False, False, {}


@EVERY
def test_a_time_limit_is_bootstrapped_through(fit: Fit, cls: Any):
    env = EnvConfig(factory=Endless, num_envs=2, max_episode_steps=3)
    agent = cls(env, 4_000, seed=1, gamma=0.9, learning_rate=0.5, epsilon_end=0.5)
    fit(agent)
    assert table_of(agent)[0, 0] == pytest.approx([10.0, 10.0], rel=1e-2)
