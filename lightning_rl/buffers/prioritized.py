"""Prioritised experience replay: transitions with large errors are drawn more often."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_rl.buffers.replay import Replay, Transitions
from lightning_rl.buffers.rollout import Rollout
from lightning_rl.buffers.wrapper import ReplayWrapper
from lightning_rl.storage.segments import SegmentStore
from lightning_rl.types import Array

EPS = 1e-6
"""Added to every error, so that a transition without one can still be drawn."""


class SumTree:
    """Weights that can be changed and drawn from in proportion, many at a time.

    A tree of two levels with a wide fan-out: for a million leaves and a batch of 128, a handful of
    NumPy calls on a thousand numbers each, where a binary tree takes twenty levels of them. Sums
    are always computed anew from the leaves below, so that the same leaves give the same tree.

    Attributes:
        leaves: `(blocks, block_size)` float32; the first `size` of them are in use.

    Args:
        size: Number of leaves.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._block_size = max(1, int(np.sqrt(size)))
        blocks = -(-size // self._block_size)
        self.leaves: Array = np.zeros((blocks, self._block_size), dtype=np.float32)
        self._sums: Array = np.zeros(blocks)

    @property
    def total(self) -> float:
        """Sum of all leaves."""
        return float(self._sums.cumsum()[-1])

    def get(self, indices: Array) -> Array:
        """Return leaves `(B,)` float32."""
        return self.leaves.reshape(-1)[indices]

    def set(self, indices: Array, values: Array | float) -> None:
        """Set leaves; of an index that occurs more than once, the last value stays."""
        self.leaves.reshape(-1)[indices] = values
        blocks = indices // self._block_size
        self._sums[blocks] = self.leaves[blocks].sum(axis=1, dtype=np.float64)

    def find(self, positions: Array) -> Array:
        """Return the leaf `(B,)` in which each position in [0, total) of the running sum falls."""
        ends = self._sums.cumsum()
        blocks = np.minimum(np.searchsorted(ends, positions, side="right"), len(ends) - 1)
        inside = positions - (ends[blocks] - self._sums[blocks])
        running = self.leaves[blocks].cumsum(axis=1, dtype=np.float64)
        offsets = (running <= inside[:, None]).sum(axis=1)
        return blocks * self._block_size + np.minimum(offsets, self._block_size - 1)


class PrioritizedReplay(ReplayWrapper):
    """Draws transitions in proportion to their last error, with weights that correct for it.

    Schaul et al. (2016), https://arxiv.org/abs/1511.05952, the proportional variant:
    `P(i) = p_i^alpha / sum_j p_j^alpha` with `p_i = |error_i| + 1e-6`, and the weight
    `(N P(i))^-beta`, divided by the largest of its batch. New transitions get the largest priority
    that was ever set. Draws are stratified.

    A sample has the additional columns `weight (B,)` and `row (B,)`; hand the rows back to
    `update_priorities` with their new errors.

    Attributes:
        max_priority: Largest `p^alpha` so far, 1 at first.

    Args:
        replay: What is drawn from.
        alpha: Exponent of the priorities, in [0, 1]; 0 draws uniformly.
        beta: Returns the exponent of the weights now, in [0, 1]; 1 corrects in full.
    """

    def __init__(self, replay: Replay, alpha: float, beta: Callable[[], float]) -> None:
        super().__init__(replay)
        self.alpha, self.beta = alpha, beta
        self.tree = SumTree(replay.capacity)
        self.max_priority = 1.0

    def add(self, rollout: Rollout) -> None:
        """Append the transitions of a full rollout with the largest priority."""
        before = self.inserted
        super().add(rollout)
        first = max(before, self.inserted - self.capacity)
        if first < self.inserted:
            self.tree.set(np.arange(first, self.inserted) % self.capacity, self.max_priority)

    def draw(self, batch_size: int, generator: torch.Generator) -> Array:
        """Draw `batch_size` rows, one from each of as many equal parts of the priorities' sum."""
        uniform = torch.rand(batch_size, generator=generator, dtype=torch.float64).numpy()
        positions = (np.arange(batch_size) + uniform) * (self.tree.total / batch_size)
        # Rounding may step over the last leaf in use.
        return np.minimum(self.tree.find(positions), len(self) - 1)

    def sample(self, batch_size: int, generator: torch.Generator) -> Transitions:
        """Draw `batch_size` transitions with their weights and rows."""
        rows = self.draw(batch_size, generator)
        probability = self.tree.get(rows) / self.tree.total
        weight = (len(self) * probability) ** -self.beta()
        transitions = self.gather(rows)
        transitions["weight"] = torch.from_numpy((weight / weight.max()).astype(np.float32))
        transitions["row"] = torch.from_numpy(rows)
        return transitions

    def update_priorities(self, rows: Tensor, errors: Tensor) -> None:
        """Set the priorities of some rows `(B,)` from the absolute errors `(B,)` of their values.

        Args:
            rows: The column `row` of a sample.
            errors: Not negative.
        """
        priority = (errors.numpy(force=True).astype(np.float64) + EPS) ** self.alpha
        self.max_priority = max(self.max_priority, float(priority.max()))
        self.tree.set(rows.numpy(force=True), priority)

    def state_dict(self) -> dict[str, Any]:
        """Return the priorities besides: they change everywhere, so no segment could hold them."""
        priorities = self.tree.get(np.arange(len(self)))
        return {
            **super().state_dict(),
            "priorities": torch.from_numpy(priorities),
            "max_priority": self.max_priority,
        }

    def load_segments(
        self, state: Mapping[str, Any], references: list[dict[str, Any]], store: SegmentStore
    ) -> None:
        """Restore what `state_dict` and `write_segments` saved."""
        super().load_segments(state, references, store)
        if len(self):
            self.tree.set(np.arange(len(self)), state["priorities"].numpy())
        self.max_priority = state["max_priority"]
