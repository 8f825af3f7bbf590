"""A learner that learns nothing: it acts by chance and notes what the sources ask of it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_rl.buffers.rollout import Rollout
from lightning_rl.experience.budget import Budget
from lightning_rl.experience.collector import Collector
from lightning_rl.experience.random_streams import RandomStreams


class Stopped(Exception):  # noqa: N818
    """Raised by `poll` at the chosen call."""


class FakeLearner:
    """Acts with the stream `action`, as PPO and DQN do."""

    def __init__(self, env_steps: int | None = 96, episodes: int | None = None) -> None:
        self.budget = Budget.create(env_steps, episodes, None)
        self.streams = RandomStreams(0)
        self.minibatch_size, self.update_epochs = 8, 2
        self.batch_size, self.learning_starts, self.gradient_steps_per_update = 4, 0, 2
        self.source: Any = None
        self.events: list[str] = []
        self.polls = 0
        self.stop_at: int | None = None

    @property
    def env_steps(self) -> int:
        return self.source.env_steps

    @property
    def episodes(self) -> int:
        return self.source.episodes

    def begin_rollout(self, num_steps: int) -> Callable[[Any, int], np.ndarray]:
        rows = self.source.collector.env.num_envs
        noise = torch.randint(2, (num_steps, rows), generator=self.streams.torch("action"))
        return lambda observation, step: noise[step].numpy()

    def announce_unit(self) -> None:
        self.events.append("announce")

    def poll(self) -> None:
        self.polls += 1
        if self.polls == self.stop_at:
            raise Stopped

    def emit(self, hook: str, *args: Any) -> None:
        self.events.append(hook)

    def precision_context(self) -> Any:
        return contextlib.nullcontext()

    def count_collecting(self, seconds: float) -> None:
        assert seconds >= 0

    def estimate(self, rollout: Rollout) -> dict[str, Tensor]:
        observation: Any = rollout.observation
        return {
            "observation": torch.from_numpy(observation[:-1].copy()).flatten(0, 1),
            "action": torch.from_numpy(rollout.action.copy()).flatten(),
        }

    def state_dict(self) -> dict[str, Any]:
        return {"streams": self.streams.state_dict(), "source": self.source.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.streams.load_state_dict(state["streams"])
        self.source.load_state_dict(state["source"])


@pytest.fixture
def make_learner() -> type[FakeLearner]:
    return FakeLearner


@pytest.fixture
def stopped() -> type[Stopped]:
    return Stopped


@pytest.fixture
def started() -> Callable[[Any, FakeLearner], Any]:
    """Return what gives a source to a learner and starts its environments."""

    def start(source: Any, learner: FakeLearner) -> Any:
        learner.source = source
        collector: Collector = source.collector
        collector.start()
        return source

    return start
