"""The replay buffer: the last `capacity` transitions, in a ring of preallocated tensors."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from lightning_rl.buffers.rollout import Rollout
from lightning_rl.envs.spaces import allocate
from lightning_rl.errors import CheckpointError
from lightning_rl.functional.trees import map_tree, tree_items
from lightning_rl.storage.segments import SEGMENT_BYTES, SegmentStore
from lightning_rl.types import Array, Observation, TensorObservation

Transitions = dict[str, TensorObservation]
"""Columns of `B` rows: `observation`, `action`, `reward`, the flags and `next_observation`."""


class Replay(Protocol):
    """What the off-policy source and checkpoints need from a replay buffer.

    Transition number `i` (counted from the start of the run) stands in row `i % capacity`.
    """

    @property
    def capacity(self) -> int:
        """Transitions kept."""

    @property
    def inserted(self) -> int:
        """Transitions ever added."""

    @property
    def columns(self) -> Transitions:
        """The stored columns, row by row."""

    def __len__(self) -> int: ...

    def add(self, rollout: Rollout) -> None:
        """Append the transitions of a full rollout, step by step, row by row within a step."""

    def cut(self, count: int) -> None:
        """Mark the last `count` transitions as truncated, since their episodes were given up."""

    def draw(self, batch_size: int, generator: torch.Generator) -> Array:
        """Draw `batch_size` rows, int64."""

    def gather(self, rows: Array) -> Transitions:
        """Return the transitions of some rows."""

    def take(self, name: str, rows: Array) -> TensorObservation:
        """Return one column of some rows."""

    def sample(self, batch_size: int, generator: torch.Generator) -> Transitions:
        """Draw `batch_size` transitions with replacement."""

    def recent(self, count: int) -> Transitions:
        """Return the last `count` transitions, as they were added, as far as they are kept."""

    def state_dict(self) -> dict[str, Any]:
        """Return what does not go into segments."""

    def write_segments(self, store: SegmentStore) -> list[dict[str, Any]]:
        """Write what is new into segments; return the references of all content."""

    def segment_files(self, directory: Path) -> set[str]:
        """Return the names of the segments in `directory` that hold the present content."""

    def load_segments(
        self, state: Mapping[str, Any], references: list[dict[str, Any]], store: SegmentStore
    ) -> None:
        """Restore what `state_dict` and `write_segments` saved."""


class ReplayBuffer:
    """A ring of transitions, sampled uniformly.

    Transition number `i` (counted from the start of the run) stands in row `i % capacity`.
    `next_observation` is the true final observation at an episode's end.

    Attributes:
        inserted: Transitions ever added.

    Args:
        capacity: Transitions kept.
        observation_space: Flat space of one observation.
        action_space: Space of one action.
    """

    def __init__(
        self, capacity: int, observation_space: spaces.Space, action_space: spaces.Space
    ) -> None:
        self.capacity = capacity
        self.inserted = 0
        self.columns: Transitions = {
            name: map_tree(torch.from_numpy, column)
            for name, column in self._allocate(observation_space, action_space).items()
        }
        # The same memory for NumPy, whose indexing costs a fraction of torch's between env steps.
        self._arrays: dict[str, Any] = {
            name: map_tree(lambda leaf: leaf.numpy(), column)
            for name, column in self.columns.items()
        }
        self._segments: dict[Path, list[dict[str, Any]]] = {}
        self._cuts: list[list[int]] = []

    def _allocate(
        self, observation_space: spaces.Space, action_space: spaces.Space
    ) -> dict[str, Observation]:
        """Return the columns, zeroed, each with `capacity` rows."""
        capacity = self.capacity
        action: Any = allocate(action_space, capacity)
        return {
            "observation": allocate(observation_space, capacity),
            "action": action.astype(
                np.float32 if action.dtype.kind == "f" else np.int64, copy=False
            ),
            "reward": np.zeros(capacity, dtype=np.float32),
            "terminated": np.zeros(capacity, dtype=bool),
            "truncated": np.zeros(capacity, dtype=bool),
            "next_observation": allocate(observation_space, capacity),
        }

    def __len__(self) -> int:
        return min(self.inserted, self.capacity)

    @property
    def _first_kept(self) -> int:
        """Number of the first transition that a checkpoint needs something of."""
        return self.inserted - len(self)

    def add(self, rollout: Rollout) -> None:
        """Append the transitions of a full rollout, step by step, row by row within a step.

        Of a rollout longer than the buffer only the last `capacity` transitions stay.
        """
        cells = rollout.num_steps * rollout.num_envs
        kept = None if rollout.valid is None else np.flatnonzero(rollout.valid)
        count = cells if kept is None else len(kept)
        first = max(0, count - self.capacity)
        start = (self.inserted + first) % self.capacity
        stop = start + count - first
        rows: Any = slice(start, stop)  # a plain copy, unless it wraps around
        if stop > self.capacity:
            rows = np.arange(start, stop) % self.capacity
        sources = self._sources(rollout)
        for source, column in self._pairs(sources):
            source = source.reshape(cells, *column.shape[1:])
            column[rows] = (source if kept is None else source[kept])[first:]
        self.inserted += count

    def cut(self, count: int) -> None:
        """Mark the last `count` transitions as truncated, since their episodes were given up.

        What follows them in the buffer is then no part of their episodes.
        """
        oldest = self.inserted - len(self)
        self._cuts = [span for span in self._cuts if span[1] > oldest]
        self._cuts.append([max(oldest, self.inserted - count), self.inserted])
        self._apply_cuts()

    def _apply_cuts(self) -> None:
        for start, end in self._cuts:
            rows = np.arange(max(start, self.inserted - len(self)), end) % self.capacity
            self._arrays["truncated"][rows] = ~self._arrays["terminated"][rows]

    def draw(self, batch_size: int, generator: torch.Generator) -> Array:
        """Draw `batch_size` rows uniformly, with replacement."""
        return torch.randint(len(self), (batch_size,), generator=generator).numpy()

    def gather(self, rows: Array) -> Transitions:
        """Return the transitions of some rows."""
        return {
            name: map_tree(lambda leaf: torch.from_numpy(leaf.take(rows, axis=0)), column)
            for name, column in self._arrays.items()
        }

    def take(self, name: str, rows: Array) -> TensorObservation:
        """Return the column `name` of some rows."""
        column = self._arrays[name]
        return map_tree(lambda leaf: torch.from_numpy(leaf.take(rows, axis=0)), column)

    def sample(self, batch_size: int, generator: torch.Generator) -> Transitions:
        """Draw `batch_size` transitions uniformly, with replacement."""
        return self.gather(self.draw(batch_size, generator))

    def recent(self, count: int) -> Transitions:
        """Return the last `count` transitions in the order in which they came."""
        rows = (
            torch.arange(max(self.inserted - count, self.inserted - len(self)), self.inserted)
            % self.capacity
        )
        return {
            name: map_tree(lambda leaf: leaf[rows], column) for name, column in self.columns.items()
        }

    def _sources(self, rollout: Rollout) -> dict[str, Observation]:
        """Return what goes into each column, `(T, N, ...)`."""
        return {
            "observation": map_tree(lambda leaf: leaf[:-1], rollout.observation),
            "action": rollout.action,
            "reward": rollout.reward,
            "terminated": rollout.terminated,
            "truncated": rollout.truncated,
            "next_observation": rollout.next_observation(),
        }

    def _pairs(self, sources: dict[str, Observation]) -> list[tuple[Array, Array]]:
        return [
            (source, leaf)
            for name, column in self._arrays.items()
            for (_, source), (_, leaf) in zip(
                tree_items(sources[name]), tree_items(column), strict=True
            )
        ]

    def state_dict(self) -> dict[str, Any]:
        """Return the cursor, and what was cut behind the back of written segments.

        The content itself goes into segments, see `write_segments`.
        """
        cuts = [list(span) for span in self._cuts]
        return {"inserted": self.inserted, "capacity": self.capacity, "cuts": cuts}

    def write_segments(self, store: SegmentStore) -> list[dict[str, Any]]:
        """Write what was added since the last call into new segments; return all references.

        The cost is that of the new transitions, not of the capacity, and the memory that of a
        segment.
        """
        first = self._first_kept
        known = self._segments.get(store.directory, [])
        # One whose publication failed, or that was removed, is written again with all behind it.
        there = takewhile(store.holds, (item for item in known if item["end"] > first))
        references = list(there)
        saved = references[-1]["end"] if references else first
        while saved < self.inserted:
            end = min(self.inserted, saved + self._rows_per_segment)
            references.append(dict(store.append(saved, self._rows(saved, end))))
            saved = end
        self._segments[store.directory] = references
        return list(references)

    @property
    def _rows_per_segment(self) -> int:
        """Transitions that a segment may hold."""
        row = sum(column[:1].nbytes for column in self._rows(0, 1).values())
        return max(1, SEGMENT_BYTES // row)

    def segment_files(self, directory: Path) -> set[str]:
        """Return the names of the segments in `directory` that hold the present content."""
        return {reference["file"] for reference in self._segments.get(directory, [])}

    def load_segments(
        self, state: Mapping[str, Any], references: list[dict[str, Any]], store: SegmentStore
    ) -> None:
        """Fill the ring from verified segments up to the cursor in `state`.

        Raises:
            CheckpointError: When the capacity differs, or a segment is missing or damaged.
        """
        if state["capacity"] != self.capacity:
            raise CheckpointError(
                f"expected replay capacity {state['capacity']}, received {self.capacity}"
            )
        self.inserted = state["inserted"]
        if self.inserted:
            self._fill(store.read(references, self._first_kept, self.inserted))
        self._cuts = [list(span) for span in state["cuts"]]
        self._apply_cuts()
        self._segments = {store.directory: list(references)}

    def _fill(self, content: dict[str, Tensor]) -> None:
        """Put back what segments hold from `_first_kept` on."""
        rows = torch.arange(self.inserted - len(self), self.inserted) % self.capacity
        for name, leaf in self._named_leaves():
            leaf[rows] = content[name][-len(rows) :]

    def _rows(self, start: int, end: int) -> dict[str, Tensor]:
        """Return what a segment holds of the transitions `start <= number < end`."""
        first = start % self.capacity
        if first + end - start <= self.capacity:
            return {name: leaf[first : first + end - start] for name, leaf in self._named_leaves()}
        rows = torch.arange(start, end) % self.capacity
        return {name: leaf[rows] for name, leaf in self._named_leaves()}

    def _named_leaves(self) -> list[tuple[str, Tensor]]:
        return [
            (f"{name}/{key}" if key else name, leaf)
            for name, column in self.columns.items()
            for key, leaf in tree_items(column)
        ]
