"""Making an external logger harmless: every call of it happens on its courier's thread.

A logger stays the object that the user made, so that `trainer.logger`, `isinstance` and
`trainer.logger.experiment` are as in Lightning; only its class is extended while a run lasts.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from typing import Any

from lightning.pytorch.loggers import Logger

from lightning_rl.loggers.axis import Clock, env_steps_of
from lightning_rl.loggers.courier import Courier, NoExperiment
from lightning_rl.loggers.trackers import RunDescription, Tracker, tracker_of

PATIENCE_S = 10.0
"""Longest time, over a whole run, that reading `experiment` waits for a tracker to be there."""


class _Isolated(Logger):
    """What is laid over a logger's class: Lightning's interface, handed to the courier.

    Reading `experiment` does not wait before training begins, since Lightning reads it then.
    """

    _tracker: Tracker
    _courier: Courier
    _patience_s: float  # what is left of PATIENCE_S
    _clock: Clock | None

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Hand over a row."""
        inner: Any = super()
        if self._courier.is_current_thread:
            inner.log_metrics(metrics, step)
            return
        # A tensor may be written to, and the mapping filled, before the courier comes by.
        numbers = {tag: getattr(v, "item", lambda v=v: v)() for tag, v in metrics.items()}
        step = env_steps_of(self._clock, metrics, step)
        self._courier.send_row((self._tracker.row(numbers, step), step, time.time()))

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Hand over the configuration."""
        inner: Any = super()
        self._hand_over(
            lambda: inner.log_hyperparams(self._tracker.config(params), *args, **kwargs)
        )

    def save(self) -> None:
        """Hand over the wish to save, which Lightning has after every row."""
        call = partial(self._tracker.save, super().save)
        if self._courier.is_current_thread:
            call()
        elif self._tracker.saves:
            self._courier.send(call, hurry=False)

    def finalize(self, status: str) -> None:
        """Hand over the end."""
        self._hand_over(partial(super().finalize, status))

    def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
        """Hand over a checkpoint of Lightning's own callback."""
        self._hand_over(partial(super().after_save_checkpoint, checkpoint_callback))

    @property
    def experiment(self) -> Any:
        """The tracker's own object; one that does nothing while the tracker is not there."""
        inner: Any = super()
        if self._courier.is_current_thread:
            return inner.experiment
        return self._courier.opening if self._is_there() else NoExperiment()

    @property
    def name(self) -> str | None:
        """Name of the experiment; None while the tracker is not there."""
        inner: Any = super()
        return inner.name if self._tracker.names_are_local or self._is_there() else None

    @property
    def version(self) -> int | str | None:
        """Version or id of the run; None while the tracker is not there."""
        inner: Any = super()
        return inner.version if self._tracker.names_are_local or self._is_there() else None

    def _hand_over(self, call: Any) -> None:
        if self._courier.is_current_thread:
            call()
        else:
            self._courier.send(call)

    def _is_there(self) -> bool:
        if self._courier.is_current_thread or self._courier.opened.is_set():
            return True
        patience, self._patience_s = self._patience_s, 0.0
        return self._courier.opened.wait(patience)


def isolate(logger: Logger, run: RunDescription, known: Mapping[str, Any]) -> Logger:
    """Give an external logger a courier until `release`, and open its tracker.

    Args:
        logger: Any external logger.
        run: What the tracker is told about the run.
        known: The tracker's `identity` in earlier attempts of the run.

    Returns:
        The same logger.
    """
    kind = type(logger)
    tracker = tracker_of(logger)
    tracker.prepare(run, known)
    logger.__class__ = type(kind.__name__, (_Isolated, kind), {"__module__": kind.__module__})
    isolated: Any = logger
    isolated._tracker, isolated._patience_s, isolated._clock = tracker, 0.0, None
    isolated._courier = Courier(kind.__name__, tracker.open, tracker.log_rows, tracker.rows_at_once)
    isolated._courier.start()
    return logger


def release(logger: Logger) -> None:
    """Make an isolated logger what it was before; a last call of it may still be under way."""
    if isinstance(logger, _Isolated):
        logger._clock = None  # which knows the agent
        logger.__class__ = type(logger).__mro__[2]
