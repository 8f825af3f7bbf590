"""How quiet the machine was during a run, and how fast it was; Linux only."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

MIN_CORE_SHARE = 0.95
MAX_ELSEWHERE = 0.3
MAX_SLOWDOWN = 1.1


def parse_busy(text: str) -> dict[int, tuple[int, int]]:
    """Return, of `/proc/stat`, each core's busy and total time in clock ticks."""
    cores = {}
    for line in text.splitlines():
        name, *fields = line.split()
        if name.startswith("cpu") and name != "cpu":
            # user nice system idle iowait irq softirq steal; the rest is part of user and nice.
            ticks = [int(value) for value in fields[:8]]
            cores[int(name[3:])] = (sum(ticks) - ticks[3] - ticks[4], sum(ticks))
    return cores


class Elsewhere:
    """Measures from its creation on how busy the other cores are, which share caches with ours.

    Args:
        core: The core that the measured process runs on.
    """

    def __init__(self, core: int) -> None:
        self._core = core
        self._before = self._read()

    def _read(self) -> tuple[int, int]:
        cores = parse_busy(Path("/proc/stat").read_text())
        others = [times for core, times in cores.items() if core != self._core]
        return sum(busy for busy, _ in others), sum(total for _, total in others)

    def share(self) -> float:
        """Return the busy share of the other cores, from 0 to 1."""
        busy, total = self._read()
        return (busy - self._before[0]) / max(1, total - self._before[1])


def calibrate(repeats: int = 5) -> float:
    """Return the milliseconds that a fixed piece of Python takes, the best of several.

    The best one hardly notices other processes; it notices a core that runs slower than before, by
    throttling or by a neighbour that the virtual machine does not show.
    """
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        sum(range(1_000_000))
        best = min(best, time.perf_counter() - start)
    return best * 1e3


def noise(row: dict[str, Any], usual_calibration_ms: float) -> list[str]:
    """Return why a run cannot be trusted; empty when it can.

    Args:
        row: With `core_share`, `elsewhere` and `calibration_ms`.
        usual_calibration_ms: What `calibrate` gives on this machine at its best.
    """
    reasons = []
    if row["core_share"] < MIN_CORE_SHARE:
        reasons.append(f"had its core {row['core_share']:.0%} of the time")
    if row["elsewhere"] > MAX_ELSEWHERE:
        reasons.append(f"other cores {row['elsewhere']:.0%} busy")
    slowdown = row["calibration_ms"] / usual_calibration_ms
    if slowdown > MAX_SLOWDOWN:
        reasons.append(f"core {slowdown:.2f} times slower than usual")
    return reasons
