"""Exploration of Discrete actions by chance: epsilon-greedy, with all of its draws made at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from lightning_rl.errors import check_ranges
from lightning_rl.experience.collector import Act
from lightning_rl.functional.schedules import linear
from lightning_rl.types import Array, Statistics

Greedy = Callable[[Any], Array]
"""From observations `(N, *obs_shape)` to the greedy actions `(N,)` int64."""


def scheduled(agent: Any) -> Statistics:
    """Return the numbers of an epsilon-greedy agent that follow schedules, to be logged."""
    epsilon = agent.exploration.epsilon(agent.progress)
    return {"train/epsilon": epsilon, "train/learning_rate": agent.learning_rate}


@dataclass(frozen=True)
class EpsilonGreedy:
    """With probability epsilon a uniformly random action, else the greedy one.

    Args:
        num_actions: Size of the Discrete action space.
        start: First epsilon.
        end: Last epsilon.
        fraction: Part of the schedule over which it falls linearly, in (0, 1].

    Raises:
        ConfigError: For values outside their range, by the names that algorithms give them.
    """

    num_actions: int
    start: float
    end: float
    fraction: float

    def __post_init__(self) -> None:
        check_ranges(
            {
                "epsilon_start": (self.start, 0.0, 1.0),
                "epsilon_end": (self.end, 0.0, 1.0),
                "epsilon_fraction": (self.fraction, 1e-9, 1.0),
            }
        )

    def epsilon(self, progress: float) -> float:
        """Return epsilon when `progress`, in [0, 1], of the schedule has passed."""
        return linear(self.start, self.end, progress / self.fraction)

    def disturb(self, action: Array, progress: float, generator: np.random.Generator) -> Array:
        """Return greedy actions `(N,)`, some of them replaced by random ones."""
        explore = generator.random(len(action)) < self.epsilon(progress)
        return np.where(explore, generator.integers(self.num_actions, size=len(action)), action)

    def begin_rollout(
        self, greedy: Greedy, shape: tuple[int, int], progress: float, generator: Any
    ) -> Act:
        """Draw the chances of a whole rollout and return the policy that plays it.

        Args:
            greedy: Not called where all rows explore.
            shape: Steps and environments of the rollout, `(T, N)`.
            progress: See `epsilon`, which holds for the whole rollout.
            generator: NumPy's.
        """
        uniform = generator.random((2, *shape))
        explore = uniform[0] < self.epsilon(progress)
        random_action = (uniform[1] * self.num_actions).astype(np.int64)
        exploring = explore.sum(axis=1).tolist()
        num_envs = shape[1]

        def act(observation: Any, step: int) -> Array:
            if exploring[step] == num_envs:
                return random_action[step]
            action = greedy(observation)
            if exploring[step] == 0:
                return action
            return np.where(explore[step], random_action[step], action)

        return act
