"""Rollouts cut into sequences: steps in a row, of one environment and one episode."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lightning_rl.functional.trees import map_tree
from lightning_rl.types import Array, TensorObservation


@dataclass(frozen=True)
class Sequences:
    """Where the S sequences of a rollout lie.

    Attributes:
        steps: `(S, L)` int64, the step of each entry; behind a sequence's end its last step.
        envs: `(S, 1)` int64.
        mask: `(S, L)` bool: whether the entry is part of its sequence.
    """

    steps: Tensor
    envs: Tensor
    mask: Tensor

    def take(self, column: TensorObservation) -> TensorObservation:
        """Return `(S, L, ...)` of a column `(T, N, ...)`."""
        return map_tree(lambda leaf: leaf[self.steps, self.envs], column)

    def first(self, column: Tensor) -> Tensor:
        """Return the entries `(S, ...)` of a column `(T, N, ...)` at which the sequences begin."""
        return column[self.steps[:, 0], self.envs[:, 0]]


def cut_sequences(ended: Array, length: int) -> Sequences:
    """Cut a rollout at its episodes' ends and after at most `length` steps.

    Every step is part of exactly one sequence. Counting starts anew with each episode.

    Args:
        ended: `(T, N)` bool, whether the step ended its episode.
        length: Longest sequence, at least 1.
    """
    num_steps, num_envs = ended.shape
    starts: list[tuple[int, int, int]] = []
    for env in range(num_envs):
        ends = np.flatnonzero(ended[:-1, env]) + 1
        for begin, end in zip([0, *ends], [*ends, num_steps], strict=True):
            cuts = range(begin, end, length)
            starts.extend((env, start, min(start + length, end)) for start in cuts)
    envs, begins, ends = np.array(starts, dtype=np.int64).T
    steps = begins[:, None] + np.arange((ends - begins).max())
    last = ends[:, None] - 1
    return Sequences(
        torch.from_numpy(np.minimum(steps, last)),
        torch.from_numpy(envs[:, None]),
        torch.from_numpy(steps <= last),
    )
