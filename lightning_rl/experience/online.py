"""Online experience: what is learned from one env step is known before the next."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import torch

from lightning_rl.buffers.rollout import Rollout
from lightning_rl.experience.collector import Collector
from lightning_rl.experience.source import ExperienceSource, Learner
from lightning_rl.types import Array, Statistics


class OnlineLearner(Learner, Protocol):
    """What the online source needs from an algorithm.

    `begin_rollout` returns a policy that learns from the last step before it chooses the next.
    """

    def finish_rollout(self) -> None:
        """Learn from the last step of a chunk."""


class OnlineSource(ExperienceSource):
    """Yields units that are one chunk of steps each; iterating one plays it and yields it once.

    The chunk only saves overhead: the algorithm learns inside it, between two steps.

    Attributes:
        rollout: The steps of the chunk so far.
        td_error: `(T, N)` errors that the learner found, of the steps it has learned from.
        next_action: What the learner has chosen for the first step of the next chunk, `N` actions;
            None where nothing was chosen ahead.

    Args:
        learner: The algorithm.
        collector: Its environments.
        num_steps: Steps of each environment in one chunk, T.
    """

    def __init__(self, learner: OnlineLearner, collector: Collector, num_steps: int) -> None:
        env = collector.env
        super().__init__(learner, collector, num_steps * env.num_envs)
        self.learner: OnlineLearner = learner
        self.rollout = Rollout(num_steps, env.num_envs, env.observation_space, env.action_space)
        self.td_error: Array = np.zeros((num_steps, env.num_envs))
        self.next_action: list[int] | None = None
        self._unfinished = False
        self._random_at_start: dict[str, Any] = {}

    @property
    def has_unfinished_unit(self) -> bool:  # noqa: D102
        return self._unfinished

    def next_unit(self) -> Iterator[Rollout]:  # noqa: D102
        learner = self.learner
        if not self._unfinished:
            learner.announce_unit()
            learner.emit("on_iteration_start")
            learner.emit("on_rollout_start")
            self.rollout.clear()
            self._random_at_start = learner.streams.state_dict()
            self._unfinished = True
        else:  # restored in the middle: draw the same noise again
            learner.streams.load_state_dict(self._random_at_start)
        return self._play()

    def _play(self) -> Iterator[Rollout]:
        learner, rollout = self.learner, self.rollout
        started = time.perf_counter()
        try:
            policy = learner.begin_rollout(rollout.num_steps)
            self.collector.collect(rollout, policy, learner.poll)
            learner.finish_rollout()
        finally:
            learner.count_collecting(time.perf_counter() - started)
        yield rollout

    def finish_unit(self) -> Statistics:  # noqa: D102
        self._unfinished = False
        statistics = {"rollout/mean_reward": self.rollout.mean_reward()}
        log = self.collector.take_log()
        if log:
            self.learner.emit("on_env_log", log)
        self.learner.emit("on_rollout_end", statistics)
        return statistics

    def state_dict(self) -> dict[str, Any]:  # noqa: D102
        learned = self.rollout.cursor if self._unfinished else 0
        return {
            **super().state_dict(),
            "unfinished": self._unfinished,
            "rollout": self.rollout.state_dict() if self._unfinished else None,
            "random_at_start": self._random_at_start if self._unfinished else None,
            "td_error": torch.from_numpy(self.td_error[:learned].copy()),
            "next_action": self.next_action,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: D102
        super().load_state_dict(state)
        self.rollout.clear()
        self._unfinished, self.next_action = False, None
        if state["collector"]["level"] == "boundary":
            # The open episodes are gone: what the chunk began has been learned from, and a new one
            # takes its place.
            return
        self.next_action = state["next_action"]
        if state["unfinished"]:
            self._unfinished, self._random_at_start = True, state["random_at_start"]
            self.rollout.load_state_dict(state["rollout"])
            self.td_error[: self.rollout.cursor] = state["td_error"].numpy()
