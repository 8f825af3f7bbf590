"""The logger behind `metrics.csv`: one row per logged set of metrics, exact under resume."""

from __future__ import annotations

import contextlib
import csv
import io
import os
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities.rank_zero import rank_zero_only

from lightning_rl.loggers.axis import env_steps_of
from lightning_rl.loggers.local import LocalLogger
from lightning_rl.storage.sealed import atomic_write_bytes
from lightning_rl.types import VOLATILE_TAGS

FIRST_COLUMNS = ("step", "episode")
MAX_WAITING_ROWS = 10_000
"""Rows kept in memory while they cannot be written."""


class CSVMetrics(LocalLogger):
    """Write every logged row to one CSV file that can be read while the run goes on.

    The columns are `step` (env steps), `episode` and one per metric tag in the order of first
    appearance; a cell is empty where a tag was not logged. Whole numbers are written as such, all
    others as the shortest text that reads back to the same number.

    A row is one write, so a kill leaves at most a torn last line, which is dropped on
    resume. A full disk does not stop a run: rows wait in memory and are written when there is room.

    Attributes:
        path: The file.
        clock: Of the run that is under way.

    Args:
        save_dir: Folder of the file, usually the run directory; made when needed.
        filename: Name of the file in it.
    """

    def __init__(self, save_dir: str | Path, filename: str = "metrics.csv") -> None:
        super().__init__(Path(save_dir) / filename)
        self._columns = list(FIRST_COLUMNS)
        self._rows = 0  # logged so far, those waiting included
        self._good_bytes: int | None = None  # file size up to the last whole row, None: not begun
        self._header_due = True
        self._torn = False  # whether a failed write may have left half a row
        self._waiting: deque[dict[str, str]] = deque(maxlen=MAX_WAITING_ROWS)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Append one row.

        Args:
            metrics: Tag to number; `episode` fills the second column.
            step: Env steps.
        """
        step = env_steps_of(self.clock, metrics, step)
        row = {tag: _text(value) for tag, value in metrics.items()}
        row["step"] = "" if step is None else str(int(step))
        new_columns = [tag for tag in row if tag not in self._columns]
        if new_columns:
            self._columns += new_columns
            self._header_due = True
        if len(self._waiting) < MAX_WAITING_ROWS:  # else the oldest one is dropped for it
            self._rows += 1
        self._waiting.append(row)
        self._write_waiting()

    @rank_zero_only
    def save(self) -> None:
        """Try again to write what is waiting."""
        if self._waiting:
            self._write_waiting()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Try again to write what is waiting; logging may go on afterwards."""
        self.save()

    def state_dict(self) -> dict[str, Any]:
        """Return how much of the file belongs to this moment.

        When a time is first measured depends on when the run was stopped, so columns of measured
        times are not part of it.
        """
        return {"rows": self._rows, "columns": [c for c in self._columns if not _is_volatile(c)]}

    @rank_zero_only
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Cut the existing file back to the rows and columns of a `state_dict`, and continue it."""
        measured = [column for column in _read_columns(self.path) if _is_volatile(column)]
        self._columns = [*state_dict["columns"], *measured]
        self._waiting.clear()
        kept = _read_rows(self.path)[: state_dict["rows"]]
        self._warn_of_lost(len(kept), state_dict["rows"], "rows")
        self._rows = len(kept)
        self._replace_file(kept)

    def _write_waiting(self) -> None:
        try:
            if self._good_bytes is None:
                self._begin()
            if self._header_due:
                rows = _read_rows(self.path)
                self._replace_file(rows)
                self._rows = len(rows) + len(self._waiting)
            self._append()
        except OSError as error:
            self._torn = True
            self._header_due |= isinstance(error, FileNotFoundError)  # somebody removed the file
            self._warn_of_waiting(error.strerror or error, len(self._waiting))

    def _begin(self) -> None:
        """Move a file that no checkpoint speaks for out of the way: it is of another run."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            os.replace(self.path, self.path.with_name(f"superseded-{self.path.name}"))
        self._good_bytes = 0

    def _append(self) -> None:
        lines = [",".join([row.get(tag, "") for tag in self._columns]) for row in self._waiting]
        content = "".join(line + "\n" for line in lines).encode()
        with self.path.open("r+b") as file:  # each time anew: no handle to leak
            if self._torn:
                file.truncate(self._good_bytes)
            file.seek(0, os.SEEK_END)
            file.write(content)
        self._torn = False
        self._good_bytes = (self._good_bytes or 0) + len(content)
        self._waiting.clear()

    def _replace_file(self, rows: list[dict[str, str]]) -> None:
        """Write header and rows to a new file and put it in place of the old one, atomically."""
        text = io.StringIO()
        writer = csv.DictWriter(
            text, self._columns, restval="", extrasaction="ignore", lineterminator="\n"
        )
        writer.writeheader()
        writer.writerows(rows)
        content = text.getvalue().encode()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write_bytes(self.path, content, durable=False)
        self._good_bytes = len(content)
        self._header_due = False


def read_metrics(path: str | Path) -> list[dict[str, int | float]]:
    """Read the rows of a `metrics.csv`.

    Args:
        path: The file; it may still be growing, a torn last line is left out.

    Returns:
        One dictionary per row, without the tags that it does not have; `step` and other whole
        numbers as `int`.

    Raises:
        FileNotFoundError: If there is no such file.
    """
    Path(path).stat()
    return [
        {tag: _number(cell) for tag, cell in row.items() if cell} for row in _read_rows(Path(path))
    ]


def _read_rows(path: Path) -> list[dict[str, str]]:
    """Return the whole rows of the file, none when there is no file."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    whole = text[: text.rfind("\n") + 1]
    return list(csv.DictReader(io.StringIO(whole), restval=""))


def _read_columns(path: Path) -> list[str]:
    """Return the header of the file, nothing when there is no file."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return next(csv.reader(file), [])
    except FileNotFoundError:
        return []


def _is_volatile(column: str) -> bool:
    return column.startswith(VOLATILE_TAGS)


def _text(value: Any) -> str:
    """Return the shortest text that reads back to the same number."""
    if hasattr(value, "item"):  # tensors and NumPy scalars
        value = value.item()
    if isinstance(value, int):  # also writes True as 1
        return str(int(value))
    return repr(float(value))


def _number(cell: str) -> int | float:
    return int(cell) if cell.lstrip("-").isdigit() else float(cell)
