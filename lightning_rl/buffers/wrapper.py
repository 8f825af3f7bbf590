"""The base of what stands around a replay buffer and changes how transitions are drawn or read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from lightning_rl.buffers.replay import Replay, Transitions
from lightning_rl.buffers.rollout import Rollout
from lightning_rl.storage.segments import SegmentStore
from lightning_rl.types import Array, TensorObservation


class ReplayWrapper:
    """Passes everything on to another replay; a subclass overrides what it changes.

    Args:
        replay: What is wrapped, itself a wrapper maybe.
    """

    def __init__(self, replay: Replay) -> None:
        self.replay = replay

    @property
    def capacity(self) -> int:
        """Transitions kept."""
        return self.replay.capacity

    @property
    def inserted(self) -> int:
        """Transitions ever added."""
        return self.replay.inserted

    @property
    def columns(self) -> Transitions:
        """The stored columns, row by row."""
        return self.replay.columns

    def __len__(self) -> int:
        return len(self.replay)

    def add(self, rollout: Rollout) -> None:
        """Append the transitions of a full rollout."""
        self.replay.add(rollout)

    def cut(self, count: int) -> None:
        """Mark the last `count` transitions as truncated."""
        self.replay.cut(count)

    def draw(self, batch_size: int, generator: torch.Generator) -> Array:
        """Draw `batch_size` rows, int64."""
        return self.replay.draw(batch_size, generator)

    def gather(self, rows: Array) -> Transitions:
        """Return the transitions of some rows."""
        return self.replay.gather(rows)

    def take(self, name: str, rows: Array) -> TensorObservation:
        """Return one column of some rows."""
        return self.replay.take(name, rows)

    def sample(self, batch_size: int, generator: torch.Generator) -> Transitions:
        """Draw `batch_size` transitions."""
        return self.gather(self.draw(batch_size, generator))

    def recent(self, count: int) -> Transitions:
        """Return the last `count` transitions, as they were added."""
        return self.replay.recent(count)

    def state_dict(self) -> dict[str, Any]:
        """Return what does not go into segments."""
        return self.replay.state_dict()

    def write_segments(self, store: SegmentStore) -> list[dict[str, Any]]:
        """Write what is new into segments; return the references of all content."""
        return self.replay.write_segments(store)

    def segment_files(self, directory: Path) -> set[str]:
        """Return the names of the segments in `directory` that hold the present content."""
        return self.replay.segment_files(directory)

    def load_segments(
        self, state: Mapping[str, Any], references: list[dict[str, Any]], store: SegmentStore
    ) -> None:
        """Restore what `state_dict` and `write_segments` saved."""
        self.replay.load_segments(state, references, store)
