"""On-policy experience: one rollout, then epochs of shuffled minibatches over it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from lightning_rl.buffers.rollout import Rollout
from lightning_rl.experience.collector import Collector
from lightning_rl.experience.source import ExperienceSource, Learner
from lightning_rl.functional.trees import first_leaf, map_tree
from lightning_rl.types import Statistics, TensorObservation

Experience = dict[str, TensorObservation]
"""Column name to rows `(B, ...)`: a tensor, or a tree of them for observations."""


class OnPolicyLearner(Learner, Protocol):
    """What the on-policy source needs from an algorithm."""

    minibatch_size: int
    update_epochs: int

    def estimate(self, rollout: Rollout) -> Experience:
        """Turn a complete rollout into rows to learn from."""


class Minibatches:
    """Epochs over one rollout's rows in shuffled minibatches; can be saved between two of them.

    Args:
        experience: Columns of `B` rows each.
        num_epochs: Passes over the rows.
        minibatch_size: Rows of a minibatch; the last one of an epoch may be smaller.
        generator: Draws the permutations.
        poll: Called before every minibatch; may raise to stop there.
    """

    def __init__(
        self,
        experience: Experience,
        num_epochs: int,
        minibatch_size: int,
        generator: torch.Generator,
        poll: Callable[[], None],
    ) -> None:
        self.experience = experience
        self.num_rows = len(_any_leaf(experience))
        self.num_epochs, self.minibatch_size = num_epochs, minibatch_size
        self._generator, self._poll = generator, poll
        self._epoch, self._position = 0, 0
        self._permutation: Tensor | None = None
        self._statistics_sum: Tensor | None = None
        self._num_recorded = 0

    def record(self, statistics: Tensor) -> None:
        """Add one minibatch's statistics `(S,)`, without waiting for the device."""
        self._num_recorded += 1
        total = self._statistics_sum
        self._statistics_sum = statistics.clone() if total is None else total.add_(statistics)

    def means(self) -> list[float]:
        """Return the means of what was recorded for this rollout."""
        if self._statistics_sum is None:
            raise RuntimeError("expected at least one recorded minibatch, received none")
        return (self._statistics_sum / self._num_recorded).tolist()

    def __iter__(self) -> Iterator[Experience]:
        if self.num_epochs == 1 and 0 < self.num_rows <= self.minibatch_size:
            yield from self._unshuffled()
        while self._epoch < self.num_epochs:
            if self._permutation is None:
                self._permutation = torch.randperm(self.num_rows, generator=self._generator)
            shuffled = _take(self.experience, self._permutation)
            while self._position < self.num_rows:
                self._poll()
                start = self._position
                self._position = min(start + self.minibatch_size, self.num_rows)
                yield _slice(shuffled, start, self._position)
            self._epoch, self._position, self._permutation = self._epoch + 1, 0, None

    def _unshuffled(self) -> Iterator[Experience]:
        """Yield the only minibatch, whose order means nothing, unless that was done."""
        if self._epoch == self._position == 0:
            self._poll()
            self._epoch = 1
            yield self.experience

    def state_dict(self) -> dict[str, Any]:
        """Return the rows and the place in them."""
        return {
            "experience": self.experience,
            "epoch": self._epoch,
            "position": self._position,
            "permutation": self._permutation,
            "statistics_sum": self._statistics_sum,
            "num_recorded": self._num_recorded,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue at the place that `state_dict` found."""
        self._epoch, self._position = state["epoch"], state["position"]
        self._permutation = state["permutation"]
        self._statistics_sum, self._num_recorded = state["statistics_sum"], state["num_recorded"]


class OnPolicySource(ExperienceSource):
    """Collects a rollout with the current policy and yields minibatches of the estimates from it.

    Args:
        learner: The algorithm.
        collector: Its environments.
        num_steps: Steps of each environment in one rollout, T.
    """

    def __init__(self, learner: OnPolicyLearner, collector: Collector, num_steps: int) -> None:
        env = collector.env
        super().__init__(learner, collector, num_steps * env.num_envs)
        self.learner: OnPolicyLearner = learner
        self.rollout = Rollout(num_steps, env.num_envs, env.observation_space, env.action_space)
        self._unit: Minibatches | None = None
        self._is_collecting = False
        self._random_at_start: dict[str, Any] = {}
        self._statistics: Statistics = {}

    @property
    def has_unfinished_unit(self) -> bool:  # noqa: D102
        return self._unit is not None or self._is_collecting

    def next_unit(self) -> Minibatches:  # noqa: D102
        if self._unit is None:
            self._collect()
            with self.learner.precision_context():
                self._unit = self._minibatches(self.learner.estimate(self.rollout))
            self._statistics = self._rollout_statistics()
            self.learner.emit("on_rollout_end", self._statistics)
            self.rollout.clear()
            self._is_collecting = False
        return self._unit

    def finish_unit(self) -> Statistics:  # noqa: D102
        self._unit = None
        return self._statistics

    def _collect(self) -> None:
        learner, rollout = self.learner, self.rollout
        if not self._is_collecting:
            learner.announce_unit()
            learner.emit("on_iteration_start")
            learner.emit("on_rollout_start")
            self._random_at_start = learner.streams.state_dict()
            self._is_collecting = True
        else:  # restored in the middle: draw the same noise again
            learner.streams.load_state_dict(self._random_at_start)
        started = time.perf_counter()
        try:
            with torch.inference_mode(), learner.precision_context():
                self.collector.collect(
                    rollout, learner.begin_rollout(rollout.num_steps), learner.poll
                )
        finally:
            learner.count_collecting(time.perf_counter() - started)

    def _minibatches(self, experience: Experience) -> Minibatches:
        learner = self.learner
        return Minibatches(
            experience,
            learner.update_epochs,
            self._minibatch_rows(experience),
            learner.streams.torch("minibatch"),
            learner.poll,
        )

    def _minibatch_rows(self, experience: Experience) -> int:
        """Return the rows of one minibatch."""
        return self.learner.minibatch_size

    def _rollout_statistics(self) -> Statistics:
        statistics = {"rollout/mean_reward": self.rollout.mean_reward()}
        log = self.collector.take_log()
        if log:
            self.learner.emit("on_env_log", log)
        return statistics

    def state_dict(self) -> dict[str, Any]:  # noqa: D102
        return {
            **super().state_dict(),
            "rollout": self.rollout.state_dict() if self._is_collecting else None,
            "random_at_start": self._random_at_start if self._is_collecting else None,
            "unit": self._unit.state_dict() if self._unit else None,
            "statistics": self._statistics if self._unit else {},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: D102
        super().load_state_dict(state)
        self.rollout.clear()
        self._unit, self._is_collecting = None, False
        if state["unit"] is not None:
            self._unit = self._minibatches(state["unit"]["experience"])
            self._unit.load_state_dict(state["unit"])
            self._statistics = dict(state["statistics"])
        if state["rollout"] is None:
            return
        if state["collector"]["level"] == "boundary":
            # The open episodes are gone, and with them this rollout: collect it anew.
            self.rollout.load_state_dict(state["rollout"])
            self.collector.env_steps -= self.rollout.num_transitions
            self.rollout.clear()
            self.learner.streams.load_state_dict(state["random_at_start"])
            return
        self.rollout.load_state_dict(state["rollout"])
        self._is_collecting, self._random_at_start = True, state["random_at_start"]


def _any_leaf(experience: Experience) -> Tensor:
    return first_leaf(next(iter(experience.values())))


def valid_rows(experience: Experience, rollout: Rollout) -> Experience:
    """Return the rows that are transitions, out of all `T * N` of a rollout."""
    if rollout.valid is None:
        return experience
    return _take(experience, torch.from_numpy(np.flatnonzero(rollout.valid)))


def _take(experience: Experience, rows: Tensor) -> Experience:
    rows = rows.to(_any_leaf(experience).device)
    return {name: map_tree(lambda leaf: leaf[rows], column) for name, column in experience.items()}


def _slice(experience: Experience, start: int, stop: int) -> Experience:
    return {
        name: map_tree(lambda leaf: leaf[start:stop], column) for name, column in experience.items()
    }
