"""What the sources have in common: the sized iterable that Lightning's train loop pulls from.

A source yields *units*: one unit is one training batch, an iterable of the minibatches of one
update. The length is that of the whole current epoch, so Lightning does not prefetch (a prefetched
rollout would come from a stale policy) and a resumed epoch ends where it would have.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch.utils.data import DataLoader, IterableDataset

from lightning_rl.buffers.replay import Replay
from lightning_rl.experience.budget import Budget
from lightning_rl.experience.collector import Act, Collector
from lightning_rl.experience.random_streams import RandomStreams
from lightning_rl.types import Statistics


class Learner(Protocol):
    """What a source needs from an algorithm."""

    budget: Budget
    streams: RandomStreams

    @property
    def env_steps(self) -> int:
        """The run's clock, over all ranks."""

    @property
    def episodes(self) -> int:
        """Finished training episodes, over all ranks."""

    def begin_rollout(self, num_steps: int) -> Act:
        """Draw all noise of the next `num_steps` steps and return the acting function."""

    def announce_unit(self) -> None:
        """Take note that one unit is complete and none has begun: the place for a checkpoint."""

    def poll(self) -> None:
        """Save and raise `Interrupted` when the run was asked to stop."""

    def emit(self, hook: str, *args: Any) -> Any:
        """Call a hook of all callbacks."""

    def precision_context(self) -> AbstractContextManager[Any]:
        """Return the context of the update; acting in another one would bias its ratios."""

    def count_collecting(self, seconds: float) -> None:
        """Add to the time spent collecting."""


class ExperienceSource(IterableDataset, ABC):
    """A sized iterable of units over one collector.

    Args:
        learner: The algorithm.
        collector: Owned; closed with the source.
        unit_env_steps: Env steps of one unit of this rank.
    """

    replay: Replay | None = None

    def __init__(self, learner: Learner, collector: Collector, unit_env_steps: int) -> None:
        self.learner = learner
        self.collector = collector
        self.unit_env_steps = unit_env_steps * collector.world_size
        self.env_steps_at_epoch_start = 0

    def __len__(self) -> int:
        # Never 0, even when the budget is spent: Lightning would skip training altogether, and with
        # it everything that restores the state of the run.
        units = self.learner.budget.units(self.unit_env_steps, self.env_steps_at_epoch_start)
        return max(1, units)

    def __iter__(self) -> Iterator[Any]:
        while self.has_unfinished_unit or not self._budget_is_spent():
            yield self.next_unit()

    @property
    def env_steps(self) -> int:
        """Transitions collected, over all ranks (which step in lockstep)."""
        return self.collector.env_steps * self.collector.world_size

    @property
    def episodes(self) -> int:
        """Finished training episodes, over all ranks."""
        return self.collector.episodes * self.collector.world_size

    def _budget_is_spent(self) -> bool:
        return self.learner.budget.is_spent(self.env_steps, self.episodes)

    @property
    @abstractmethod
    def has_unfinished_unit(self) -> bool:
        """Whether a restored unit waits to be completed."""

    @abstractmethod
    def next_unit(self) -> Any:
        """Return the next unit, an iterable of minibatches."""

    @abstractmethod
    def finish_unit(self) -> Statistics:
        """Forget the unit, which has been learned from; return statistics of its experience."""

    def close(self) -> None:
        """Close the environments."""
        self.collector.close()

    def state_dict(self) -> dict[str, Any]:
        """Return all between the environments and the update, an unfinished unit included."""
        return {"collector": self.collector.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        self.collector.load_state_dict(state["collector"])


def sized_loader(source: IterableDataset) -> DataLoader:
    """Return the loader that hands the source's items to Lightning unchanged.

    Its own generator keeps it from drawing a seed from the global stream at every epoch.
    """
    return DataLoader(source, batch_size=None, num_workers=0, generator=torch.Generator())
