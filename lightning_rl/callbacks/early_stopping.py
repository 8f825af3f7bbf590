"""Callbacks that end a run before its budget is spent, judged by evaluations.

Lightning's own `EarlyStopping(monitor="eval/mean_reward")` works too; these two count in
evaluations and survive a stop between the decision and the end of the run.
"""

from __future__ import annotations

import logging
import math
from typing import Any, Literal

from lightning.pytorch import Trainer
from lightning.pytorch.trainer.states import TrainerFn

from lightning_rl.callbacks.base import Agent, Callback
from lightning_rl.errors import ConfigError, check_choice, check_ranges, did_you_mean

log = logging.getLogger(__name__)


class EvaluationEarlyStopping(Callback):
    """Stop when `patience` evaluations in a row have brought no improvement.

    Args:
        patience: Evaluations without improvement after which the run ends; at least 1.
        min_delta: What counts as improvement, in units of the monitored value; at least 0.
        monitor: Metric tag of an evaluation.
        mode: Whether a larger (`max`) or a smaller (`min`) value is better.

    Raises:
        ConfigError: If an argument is out of range, or, at the first evaluation, if `monitor` is
            not logged.
    """

    def __init__(
        self,
        patience: int,
        min_delta: float = 0.0,
        monitor: str = "eval/mean_reward",
        mode: Literal["max", "min"] = "max",
    ) -> None:
        check_ranges({"patience": (patience, 1, None), "min_delta": (min_delta, 0, None)})
        check_choice("mode", mode, ("max", "min"))
        self.patience = patience
        self.min_delta = min_delta
        self.monitor = monitor
        self.mode = mode
        self.best: float | None = None
        self.waited = 0

    @property
    def state_key(self) -> str:
        """Key of the state in a checkpoint; two of them may watch different values."""
        return self._generate_state_key(monitor=self.monitor, mode=self.mode)

    def on_training_begins(self, trainer: Trainer, agent: Agent) -> None:
        """Stop at once when the stop had been decided before the run was interrupted."""
        self._stop_if_due(trainer, agent)

    def on_validation_end(self, trainer: Trainer, agent: Agent) -> None:
        """Judge one evaluation."""
        if not _judges(trainer):
            return
        value = _monitored(trainer, self.monitor)
        if self._improves(value):
            self.best = value
            self.waited = 0
        else:
            self.waited += 1
        self._stop_if_due(trainer, agent)

    def state_dict(self) -> dict[str, Any]:
        """Return the best value and the evaluations since it."""
        return {"best": self.best, "waited": self.waited}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a state of `state_dict`."""
        self.best = state_dict["best"]
        self.waited = state_dict["waited"]

    def _improves(self, value: float) -> bool:
        if math.isnan(value):
            return False
        if self.best is None:
            return True
        gain = value - self.best if self.mode == "max" else self.best - value
        return gain > self.min_delta

    def _stop_if_due(self, trainer: Trainer, agent: Agent) -> None:
        reason = f"{self.monitor} has not improved on {self.best} in {self.waited} evaluations"
        _stop(trainer, agent, self.waited >= self.patience, reason)


class StopOnReward(Callback):
    """Stop when an evaluation reaches a reward.

    Args:
        threshold: Value of `monitor` that is good enough.
        monitor: Metric tag of an evaluation, larger is better.

    Raises:
        ConfigError: If `threshold` is not a number, or, at the first evaluation, if `monitor` is
            not logged.
    """

    def __init__(self, threshold: float, monitor: str = "eval/mean_reward") -> None:
        check_ranges({"threshold": (threshold, -math.inf, math.inf)})  # refuses nan
        self.threshold = threshold
        self.monitor = monitor
        self.latest: float | None = None

    @property
    def state_key(self) -> str:
        """Key of the state in a checkpoint; two of them may watch different values."""
        return self._generate_state_key(monitor=self.monitor)

    def on_training_begins(self, trainer: Trainer, agent: Agent) -> None:
        """Stop at once when the threshold had been reached before the run was interrupted."""
        self._stop_if_due(trainer, agent)

    def on_validation_end(self, trainer: Trainer, agent: Agent) -> None:
        """Judge one evaluation."""
        if _judges(trainer):
            self.latest = _monitored(trainer, self.monitor)
            self._stop_if_due(trainer, agent)

    def state_dict(self) -> dict[str, Any]:
        """Return the newest value: whether it suffices depends on the threshold of the day."""
        return {"latest": self.latest}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a state of `state_dict`."""
        self.latest = state_dict["latest"]

    def _stop_if_due(self, trainer: Trainer, agent: Agent) -> None:
        due = self.latest is not None and self.latest >= self.threshold
        _stop(trainer, agent, due, f"{self.monitor} {self.latest} has reached {self.threshold}")


def _judges(trainer: Trainer) -> bool:
    """Return whether this is an evaluation of a training run: no sanity check, no `validate`."""
    return trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking


def _monitored(trainer: Trainer, monitor: str) -> float:
    metrics = trainer.callback_metrics
    if monitor not in metrics:
        known = ", ".join(sorted(metrics)) or "nothing"
        hint = did_you_mean(monitor, metrics)
        raise ConfigError(f"monitor {monitor!r} is not logged{hint} (logged: {known})")
    return float(metrics[monitor])


def _stop(trainer: Trainer, agent: Agent, due: bool, reason: str) -> None:
    # Every rank has to take the same decision, or the others wait for it for ever.
    if trainer.strategy.reduce_boolean_decision(due, all=False):
        trainer.should_stop = True
        log.info("Stopping at env step %d: %s.", agent.env_steps, reason)
