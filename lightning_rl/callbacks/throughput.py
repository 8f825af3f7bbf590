"""How fast a run is and how long it will still take."""

from __future__ import annotations

import contextlib
from collections import deque

import psutil
import torch
from lightning.pytorch import Trainer

from lightning_rl.callbacks.base import Agent, Callback
from lightning_rl.types import Statistics

WINDOW = 20
"""Number of rows over which the speed behind the remaining time is averaged."""


class Throughput(Callback):
    """Log speed, time and memory. All of it may differ between two equal runs, so it has no state.

    - `time/env_steps_per_second`: env steps since the last row, by training wall time.
    - `time/gradient_steps_per_second`: gradient steps since the last row, by training wall time.
    - `time/collect_share`: part, 0 to 1, of the time since the last row that went into collecting.
    - `time/logging_share`: part, 0 to 1, of that time that training spent in calls of loggers.
    - `time/elapsed_s`: training wall time in seconds, added up over all attempts of the run.
    - `time/eta_s`: seconds until the budget is spent, at the speed of the last 20 rows.
    - `system/rss_mb`: resident memory of this process in MB (10^6 bytes).
    - `system/gpu_memory_mb`: memory of the agent's CUDA device in use by tensors, in MB.
    - `system/gpu_reserved_mb`: the same, with what PyTorch keeps for later.
    - `system/gpu_utilization`: percent of the last moments in which the device was busy; only with
      the package `nvidia-ml-py`.
    """

    def __init__(self) -> None:
        self._process = psutil.Process()
        # Of the last rows: elapsed_s, env_steps, gradient_steps, collect_s, progress, logging_s.
        self._marks: deque[tuple[float, ...]] = deque(maxlen=WINDOW + 1)

    def on_training_begins(self, trainer: Trainer, agent: Agent) -> None:
        """Start measuring here: the steps of an earlier attempt are no speed of this one."""
        self._process = psutil.Process()
        self._marks.clear()
        self._marks.append(_mark(agent))

    def metrics(self, trainer: Trainer, agent: Agent) -> Statistics:
        """Return the speed since the last row, the time left and the memory in use."""
        now = _mark(agent)
        before = self._marks[-1] if self._marks else (0.0,) * len(now)
        self._marks.append(now)
        seconds = now[0] - before[0]
        row = {"time/elapsed_s": now[0], "system/rss_mb": self._process.memory_info().rss / 1e6}
        row |= gpu_statistics(getattr(agent, "device", None))
        if seconds > 0:
            row["time/env_steps_per_second"] = (now[1] - before[1]) / seconds
            row["time/gradient_steps_per_second"] = (now[2] - before[2]) / seconds
            row["time/collect_share"] = (now[3] - before[3]) / seconds
            row["time/logging_share"] = (now[5] - before[5]) / seconds
        oldest = self._marks[0]
        progress = now[4] - oldest[4]
        if progress > 0:
            row["time/eta_s"] = max(0.0, 1.0 - now[4]) * (now[0] - oldest[0]) / progress
        return row


def gpu_statistics(device: torch.device | None) -> Statistics:
    """Return what `Throughput` logs about a CUDA device; nothing for any other."""
    if device is None or device.type != "cuda":
        return {}
    row = {
        "system/gpu_memory_mb": torch.cuda.memory_allocated(device) / 1e6,
        "system/gpu_reserved_mb": torch.cuda.memory_reserved(device) / 1e6,
    }
    # Without the package, or where the driver does not tell (MIG slices), by errors of its own.
    with contextlib.suppress(Exception):
        row["system/gpu_utilization"] = float(torch.cuda.utilization(device))
    return row


def _mark(agent: Agent) -> tuple[float, ...]:
    if agent.total_env_steps is not None:
        progress = agent.env_steps / agent.total_env_steps
    else:
        progress = agent.episodes / agent.total_episodes
    counters = agent.env_steps, agent.gradient_steps, agent.collect_s
    return agent.elapsed_s, *counters, progress, agent.logging_s
