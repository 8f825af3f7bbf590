"""Shared names for arrays and records, and the legend of shapes.

Legend used in every docstring: `T` steps of a rollout, `N` parallel environments, `B` rows of a
batch, `A` action dimensions, `*obs_shape` the shape of one observation. Step `t` holds
`observation[t]`, `action[t]`, the reward *caused by* that action and the flags *after* it (the
indexing of the PPO paper).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
from torch import Tensor

Array: TypeAlias = np.ndarray
Observation: TypeAlias = np.ndarray | dict[str, np.ndarray]
"""One array `(N, *obs_shape)`, or a flat dictionary of them for Dict and Tuple spaces (keys `"a.b"`
and `"0"`)."""

TensorObservation: TypeAlias = Tensor | dict[str, Tensor]
Info: TypeAlias = Mapping[str, Any]
Statistics: TypeAlias = dict[str, float]
"""Metric tag (docs: "Metric tags") to number."""

VOLATILE_TAGS = ("time/", "system/")
"""Beginnings of tags that differ between a stopped and an unstopped run and so are not saved."""

SnapshotLevel: TypeAlias = Literal["exact", "replay", "boundary"]


@dataclass(frozen=True)
class Episode:
    """One finished episode.

    Attributes:
        index: Number of episodes of this run that ended before it.
        env_index: Row of the vector environment that played it.
        seed: Seed of its reset; with the environment's configuration and the actions it reproduces
            the episode.
        reward: Undiscounted return.
        length: Env steps.
        terminated: The environment ended it (as opposed to a time limit).
        truncated: A time limit, or another reason outside the task, cut it.
        env_steps: The run's clock when it ended.
        reward_components: Name to sum over the episode, as the environment reported them.
        agent_id: `agent_0` in single-agent runs.
    """

    index: int
    env_index: int
    seed: int
    reward: float
    length: int
    terminated: bool
    truncated: bool
    env_steps: int = 0
    reward_components: dict[str, float] = field(default_factory=dict)
    agent_id: str = "agent_0"
