"""One x-axis for all rows: env steps, also for those that Lightning's own callbacks log."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

Clock: TypeAlias = Callable[[], int]
"""Returns the env steps of the run at this moment."""


def env_steps_of(clock: Clock | None, metrics: Mapping[str, Any], step: int | None) -> int | None:
    """Return the env step that a row belongs to.

    An agent's rows carry `episode` and their env step. Those of `LearningRateMonitor`,
    `DeviceStatsMonitor` and of `self.log` come with a count of batches, and are about this moment.

    Args:
        clock: Of the run; None outside of one.
        metrics: The row.
        step: What it came with.
    """
    return step if clock is None or "episode" in metrics else clock()
