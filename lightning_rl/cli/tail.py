"""Following a run: the newest rows of its `metrics.csv`, and each new one as it comes."""

from __future__ import annotations

import csv
import io
import signal
import time
from pathlib import Path
from typing import Any

from lightning_rl.cli.shared import say
from lightning_rl.cli.tables import cell, printable, say_json
from lightning_rl.runs.catalog import summarize

POLL_S = 0.5
COLUMNS = {
    "step": "env steps",
    "episode": "episodes",
    "eval/mean_reward": "eval reward",
    "episode/mean_reward": "reward",
    "episode/mean_length": "length",
    "train/policy_loss": "policy loss",
    "train/value_loss": "value loss",
    "train/td_loss": "TD loss",
    "train/epsilon": "epsilon",
    "time/env_steps_per_second": "steps/s",
}
"""Tag to heading; what a run does not log is left out."""

_WIDTH = 12


def follow(directory: Path, lines: int, as_json: bool = False, poll_s: float = POLL_S) -> int:
    """Print the last rows; while the run goes on, each new one.

    Args:
        directory: The run.
        lines: Rows to begin with.
        as_json: One JSON object per row instead of columns.
        poll_s: Seconds between two looks.

    Returns:
        0 when the run is at its end, 130 after Ctrl-C.
    """
    shown: int | None = None
    table = _Columns()
    try:
        while True:
            # The status first: what is written before it changes is seen in this round.
            status = summarize(directory).status
            rows = read_rows(directory / "metrics.csv")
            start = max(0, len(rows) - lines) if shown is None else min(shown, len(rows))
            for row in rows[start:]:
                if as_json:
                    say_json(row, None)
                else:
                    table.show(row, rows)
            shown = len(rows)
            if status != "running":
                return 0 if as_json else say(f"{printable(directory)}: {status}")
            time.sleep(poll_s)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


class _Columns:
    """Rows under a heading, which is repeated when a run begins to log something new."""

    def __init__(self) -> None:
        self._tags: list[str] = []

    def show(self, row: dict[str, Any], rows: list[dict[str, Any]]) -> None:
        tags = [tag for tag in COLUMNS if any(tag in other for other in rows)]
        if tags != self._tags:
            self._tags = tags
            say("  ".join(f"{COLUMNS[tag]:>{_WIDTH}}" for tag in tags))
        say("  ".join(f"{cell(row.get(tag)):>{_WIDTH}}" for tag in tags))


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the complete rows of a metrics file as numbers; a row being written is left out."""
    try:
        text = path.read_bytes().decode("utf-8", errors="replace")
    except OSError:
        return []
    whole = text[: text.rfind("\n") + 1]
    rows = csv.DictReader(io.StringIO(whole.replace("\0", "")))
    return [{key: _number(value) for key, value in row.items() if key and value} for row in rows]


def _number(text: str) -> Any:
    try:
        return int(text)
    except ValueError:
        try:
            return float(text)
        except ValueError:
            return text
