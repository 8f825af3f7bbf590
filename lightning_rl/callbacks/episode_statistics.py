"""Statistics of the training episodes: for each logged row, and for the run's summary."""

from __future__ import annotations

import math
from collections import deque
from typing import Any

import torch
from lightning.pytorch import Trainer

from lightning_rl.callbacks.base import Agent, Callback
from lightning_rl.types import Episode, Statistics

HISTORY = 10_000
"""Number of most recent episodes whose reward and length are kept for `metrics.json`."""


class EpisodeStatistics(Callback):
    """Log how training episodes went, and keep what the summary of a run needs.

    Logs, when at least one episode ended since the last row:

    - `episode/mean_reward`: mean undiscounted return of the training episodes ended since then.
    - `episode/mean_length`: their mean length in env steps.

    Attributes:
        rewards: Returns of the last 10,000 episodes, oldest first.
        lengths: Their lengths in env steps.
    """

    def __init__(self) -> None:
        self.rewards: deque[float] = deque(maxlen=HISTORY)
        self.lengths: deque[int] = deque(maxlen=HISTORY)
        self._row = [0, 0.0, 0]  # episodes, sum of returns, sum of lengths since the last row
        self._count = 0
        self._length_sum = 0
        # Welford's running mean and sum of squared deviations: exact to resume, no cancellation.
        self._mean = 0.0
        self._squares = 0.0
        self._minimum = math.inf
        self._maximum = -math.inf

    def on_episode_end(self, trainer: Trainer, agent: Agent, episode: Episode) -> None:
        """Count one episode."""
        reward, length = float(episode.reward), int(episode.length)
        self.rewards.append(reward)
        self.lengths.append(length)
        row = self._row
        row[0] += 1
        row[1] += reward
        row[2] += length
        self._count += 1
        self._length_sum += length
        deviation = reward - self._mean
        self._mean += deviation / self._count
        self._squares += deviation * (reward - self._mean)
        self._minimum = min(self._minimum, reward)
        self._maximum = max(self._maximum, reward)

    def metrics(self, trainer: Trainer, agent: Agent) -> Statistics:
        """Return mean return and length of the episodes since the last row, if there were any."""
        count, reward_sum, length_sum = self._row
        if count == 0:
            return {}
        self._row = [0, 0.0, 0]
        return {
            "episode/mean_reward": reward_sum / count,
            "episode/mean_length": length_sum / count,
        }

    def summary(self) -> dict[str, float | int | None]:
        """Return the statistics over *all* training episodes of the run.

        Returns:
            `mean_reward`, `std_reward` (population), `min_reward`, `max_reward`,
            `mean_episode_length` (env steps), each None before the first episode ended, and
            `episodes_completed`.
        """
        count = self._count
        return {
            "mean_reward": self._mean if count else None,
            "std_reward": math.sqrt(self._squares / count) if count else None,
            "min_reward": self._minimum if count else None,
            "max_reward": self._maximum if count else None,
            "mean_episode_length": self._length_sum / count if count else None,
            "episodes_completed": count,
        }

    def state_dict(self) -> dict[str, Any]:
        """Return everything, so that a resumed run logs what an unstopped one would."""
        return {
            "rewards": torch.tensor(list(self.rewards), dtype=torch.float64),
            "lengths": torch.tensor(list(self.lengths), dtype=torch.int64),
            "row": list(self._row),
            "count": self._count,
            "length_sum": self._length_sum,
            "mean": self._mean,
            "squares": self._squares,
            "minimum": self._minimum,
            "maximum": self._maximum,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a state of `state_dict`."""
        self.rewards = deque(state_dict["rewards"].tolist(), maxlen=HISTORY)
        self.lengths = deque(state_dict["lengths"].tolist(), maxlen=HISTORY)
        self._row = list(state_dict["row"])
        for name in ("count", "length_sum", "mean", "squares", "minimum", "maximum"):
            setattr(self, f"_{name}", state_dict[name])
