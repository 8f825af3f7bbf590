"""The guard that ends a run which cannot recover, and warns of one which probably will not."""

from __future__ import annotations

import logging
import math
from bisect import bisect_left, insort
from collections import deque
from typing import Any

from lightning.pytorch import Trainer

from lightning_rl.callbacks.base import Agent, Callback
from lightning_rl.errors import TrainingFailed, check_ranges
from lightning_rl.types import Episode, Statistics

log = logging.getLogger(__name__)

LOSSES = ("train/value_loss", "train/td_loss")
NEGLIGIBLE_LOSS = 1e-3
"""Losses below count as this much: the first reward in a sparse task is not an explosion."""
LIVELY_ENTROPY = 0.05
"""Nats of entropy a policy must have had before it can be said to have lost it."""


class FailureGuard(Callback):
    """Watch the statistics of every iteration; on by default.

    Ends the run with `TrainingFailed` (one line: cause, likely reason, remedy, env step), on:

    - a value that is not finite, at once;
    - `train/action_std` below `min_action_std` for `patience` iterations in a row: the policy
      explores no more and its log-probabilities overflow next;
    - `train/approx_kl` above `max_approx_kl` for `patience` iterations in a row: every update
      throws the policy away.

    Warns once, adds the name to `marks`, and lets the run go on, on:

    - `value_explosion`: `train/value_loss`, `train/td_loss` or the size of `rollout/mean_value`
      above `explosion_factor` times its running median for `explosion_patience` updates in a row;
    - `entropy_death`: the entropy of a policy over discrete actions (`-train/entropy_loss`) fell
      below `min_entropy` for `entropy_patience` updates in a row, although the last 100 episodes
      are no better than halfway between the first 100 and the best 100. A policy that became
      deterministic because it solved the task is left alone.

    Args:
        min_action_std: Smallest standard deviation of a healthy Gaussian policy; at least 0 (off).
        max_approx_kl: Largest KL divergence of a healthy update, in nats; at least 0.
        patience: Iterations in a row that make a collapse or a blow-up; at least 1.
        explosion_factor: Multiple of the running median; at least 1.
        explosion_patience: Updates in a row that make an explosion; at least 1.
        min_entropy: Entropy in nats below which a policy counts as deterministic; at least 0.
        entropy_patience: Updates in a row that make an entropy death; at least 1.

    Attributes:
        marks: Names of the warnings given so far, in their order.
    """

    def __init__(
        self,
        min_action_std: float = 1e-5,
        max_approx_kl: float = 10.0,
        patience: int = 10,
        explosion_factor: float = 1e6,
        explosion_patience: int = 100,
        min_entropy: float = 1e-4,
        entropy_patience: int = 100,
    ) -> None:
        check_ranges(
            {
                "min_action_std": (min_action_std, 0, None),
                "max_approx_kl": (max_approx_kl, 0, None),
                "patience": (patience, 1, None),
                "explosion_factor": (explosion_factor, 1, None),
                "explosion_patience": (explosion_patience, 1, None),
                "min_entropy": (min_entropy, 0, None),
                "entropy_patience": (entropy_patience, 1, None),
            }
        )
        self.min_action_std = min_action_std
        self.max_approx_kl = max_approx_kl
        self.patience = patience
        self.explosion_factor = explosion_factor
        self.explosion_patience = explosion_patience
        self.min_entropy = min_entropy
        self.entropy_patience = entropy_patience
        self.marks: list[str] = []
        self._in_a_row: dict[str, int] = {}
        self._medians: dict[str, RunningMedian] = {}
        self._was_lively = False
        self._trend = RewardTrend()

    def on_episode_end(self, trainer: Trainer, agent: Agent, episode: Episode) -> None:
        """Follow the reward, which tells a solved task from a dead policy."""
        self._trend.add(float(episode.reward))

    def on_rollout_end(self, trainer: Trainer, agent: Agent, statistics: Statistics) -> None:
        """Check what the new experience says."""
        _check_finite(agent, statistics)

    def on_update_end(self, trainer: Trainer, agent: Agent, statistics: Statistics) -> None:
        """Check what the update says."""
        _check_finite(agent, statistics)
        self._watch_action_std(agent, statistics)
        self._watch_kl(agent, statistics)
        self._watch_entropy(agent, statistics)
        for tag in (*LOSSES, "rollout/mean_value"):
            if tag in statistics:
                self._watch_explosion(agent, tag, abs(float(statistics[tag])))

    def state_dict(self) -> dict[str, Any]:
        """Return counts and windows, so that a resumed run fails where an unstopped one would."""
        return {
            "marks": list(self.marks),
            "in_a_row": dict(self._in_a_row),
            "medians": {tag: list(median.window) for tag, median in self._medians.items()},
            "was_lively": self._was_lively,
            "trend": self._trend.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a state of `state_dict`."""
        self.marks = list(state_dict["marks"])
        self._in_a_row = dict(state_dict["in_a_row"])
        self._medians = {tag: RunningMedian(w) for tag, w in state_dict["medians"].items()}
        self._was_lively = state_dict["was_lively"]
        self._trend.load_state_dict(state_dict["trend"])

    def _lasts(self, name: str, bad: bool, patience: int) -> bool:
        """Count a condition; return whether it has held for `patience` checks in a row."""
        count = self._in_a_row.get(name, 0) + 1 if bad else 0
        self._in_a_row[name] = count
        return count >= patience

    def _watch_action_std(self, agent: Agent, statistics: Statistics) -> None:
        std = statistics.get("train/action_std")
        if std is None:
            return
        if self._lasts("action_std", std < self.min_action_std, self.patience):
            _fail(
                agent,
                f"the action standard deviation collapsed to {std:.3g}",
                "the policy stopped exploring too early",
                "raise ent_coef or lower learning_rate",
            )

    def _watch_kl(self, agent: Agent, statistics: Statistics) -> None:
        kl = statistics.get("train/approx_kl")
        if kl is None:
            return
        if self._lasts("approx_kl", kl > self.max_approx_kl, self.patience):
            _fail(
                agent,
                f"train/approx_kl is {kl:.3g} and was above {self.max_approx_kl:g} in "
                f"{self.patience} iterations in a row",
                "updates that are too large",
                "lower learning_rate or update_epochs, or set target_kl",
            )

    def _watch_entropy(self, agent: Agent, statistics: Statistics) -> None:
        # The entropy of a Gaussian may be zero or negative; its collapse shows in the action std.
        if "train/entropy_loss" not in statistics or "train/action_std" in statistics:
            return
        entropy = -statistics["train/entropy_loss"]
        self._was_lively = self._was_lively or bool(entropy > LIVELY_ENTROPY)
        dead = entropy < self.min_entropy and self._was_lively
        if self._lasts("entropy", dead, self.entropy_patience) and self._trend.is_poor():
            self._mark(
                agent,
                "entropy_death",
                f"the policy became deterministic (entropy {entropy:.2g}) at a mean reward of "
                f"{self._trend.recent:.6g}, no better than before: raise ent_coef or lower "
                "learning_rate",
            )

    def _watch_explosion(self, agent: Agent, tag: str, value: float) -> None:
        median = self._medians.setdefault(tag, RunningMedian())
        usual = max(median.value, NEGLIGIBLE_LOSS)
        exploded = bool(median.window) and value > self.explosion_factor * usual
        if not exploded:  # an exploded value must not become the new normal
            median.add(value)
        if self._lasts(tag, exploded, self.explosion_patience):
            self._mark(
                agent,
                "value_explosion",
                f"{tag} is {value:.3g}, its usual size was {usual:.3g}: the value estimate "
                "diverges; lower learning_rate, set max_grad_norm or env.normalize_reward",
            )

    def _mark(self, agent: Agent, name: str, message: str) -> None:
        if name not in self.marks:
            self.marks.append(name)
            log.warning("%s at env step %d: %s.", name, agent.env_steps, message)


class RunningMedian:
    """Median of the last 101 values; a few microseconds per value.

    Args:
        values: Earlier values, oldest first.
    """

    def __init__(self, values: list[float] | None = None) -> None:
        self.window: deque[float] = deque(values or (), maxlen=101)
        self._sorted = sorted(self.window)

    @property
    def value(self) -> float:
        """The median, 0 while there is no value; of an even number of values the larger middle."""
        return self._sorted[len(self._sorted) // 2] if self._sorted else 0.0

    def add(self, value: float) -> None:
        """Add a finite value and forget the oldest when there are too many."""
        if len(self.window) == self.window.maxlen:
            del self._sorted[bisect_left(self._sorted, self.window[0])]
        self.window.append(value)
        insort(self._sorted, value)


class RewardTrend:
    """Means of the first, the best and the most recent 100 episodes."""

    def __init__(self) -> None:
        self._window: deque[float] = deque(maxlen=100)
        self._sum = 0.0
        self._first: float | None = None
        self._best = -math.inf

    @property
    def recent(self) -> float:
        """Mean return of the most recent episodes; at least one must have been added."""
        return sum(self._window) / len(self._window)

    def add(self, reward: float) -> None:
        """Add one finished episode's return."""
        window = self._window
        if len(window) == 100:
            self._sum -= window[0]
        window.append(reward)
        self._sum += reward
        if len(window) == 100:
            mean = self._sum / 100
            if self._first is None:
                self._first = mean
            self._best = max(self._best, mean)

    def is_poor(self) -> bool:
        """Return whether the recent mean lies at or below halfway from the first to the best."""
        return self._first is not None and self.recent <= (self._first + self._best) / 2

    def state_dict(self) -> dict[str, Any]:
        """Return the window and the means."""
        state = {"sum": self._sum, "first": self._first, "best": self._best}
        return {"window": list(self._window), **state}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a state of `state_dict`."""
        self._window = deque(state_dict["window"], maxlen=100)
        self._sum = state_dict["sum"]
        self._first = state_dict["first"]
        self._best = state_dict["best"]


def _check_finite(agent: Agent, statistics: Statistics) -> None:
    if all(map(math.isfinite, statistics.values())):
        return
    bad = [f"{tag} is {value}" for tag, value in statistics.items() if not math.isfinite(value)]
    if all(entry.startswith("rollout/") for entry in bad):
        reason = "an env that returned such a value, or a value estimate that diverged"
    else:
        reason = "a learning rate that is too high, or unbounded rewards or observations"
    remedy = "lower learning_rate or max_grad_norm, or set env.normalize_reward"
    _fail(agent, ", ".join(bad[:3]), reason, remedy)


def _fail(agent: Agent, cause: str, reason: str, remedy: str) -> None:
    raise TrainingFailed(
        f"Training failed at env step {agent.env_steps}: {cause}; likely {reason}; {remedy}."
    )
