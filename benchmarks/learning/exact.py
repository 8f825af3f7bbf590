"""The exact value of a greedy policy on an environment with a transition table.

Gymnasium's toy-text environments carry theirs: `P[state][action]` is a list of
`(probability, next state, reward, terminated)`, and `initial_state_distrib` says where they start.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

MAX_STEPS = 10_000
"""Steps after which an episode counts as truncated where the environment sets no limit."""


def greedy_value(checkpoint: Path) -> float:
    """Return the expected undiscounted return of a checkpoint's greedy policy, without sampling.

    Args:
        checkpoint: A checkpoint of an agent on an environment with a transition table.

    Raises:
        ValueError: The environment has no transition table.
    """
    from lightning_rl import Algorithm

    agent = Algorithm.load_from_checkpoint(checkpoint)
    with contextlib.closing(agent.env_config.make(evaluation=True)) as env:
        limit = _limit(env)
        table = getattr(env.unwrapped, "P", None)
        if table is None:
            raise ValueError(f"{agent.env_config.name} has no transition table")
        start = np.asarray(env.unwrapped.initial_state_distrib, dtype=float)
    policy = [int(agent.predict(state)) for state in range(len(table))]
    return policy_value(table, policy, start, limit)


def policy_value(
    table: Any, policy: Sequence[int], start: Sequence[float] | np.ndarray, limit: int
) -> float:
    """Return the expected undiscounted return of a policy over at most `limit` steps.

    Args:
        table: `table[state][action]`, a list of (probability, next state, reward, terminated).
        policy: The action of each state.
        start: Probability of each state to start in, `(states,)`.
        limit: Steps after which an episode is truncated.
    """
    states = len(table)
    move, reward = np.zeros((states, states)), np.zeros(states)
    for state, action in enumerate(policy):
        for probability, successor, gain, terminated in table[state][action]:
            reward[state] += probability * gain
            if not terminated:
                move[state, successor] += probability
    value = np.zeros(states)
    for _ in range(limit):
        value = reward + move @ value
    return float(np.asarray(start) @ value)


def _limit(env: gymnasium.Env) -> int:
    """Return the time limit of an environment with its wrappers."""
    while isinstance(env, gymnasium.Wrapper):
        if isinstance(env, gymnasium.wrappers.TimeLimit):
            return int(env._max_episode_steps)
        env = env.env
    return MAX_STEPS
