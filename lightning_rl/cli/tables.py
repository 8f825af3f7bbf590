"""Tables for the terminal, in which a name can neither move the cursor nor change a colour."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lightning_rl.cli.shared import say
from lightning_rl.runs.plain_json import dumps

WIDE = 240
"""Columns of a table that is written to a file or a pipe."""

COLOURS = {
    "running": "cyan",
    "finished": "green",
    "failed": "red",
    "killed": "red",
    "unreadable": "red",
    "interrupted": "yellow",
    "stopped": "yellow",
}


def printable(value: Any) -> str:
    """Return text with every control character written out, an escape as backslash, x, 1, b."""
    text = str(value)
    if text.isprintable():
        return text
    return "".join(
        part if part.isprintable() else part.encode("unicode_escape").decode() for part in text
    )


def say_json(value: Any, indent: int | None = 2) -> int:
    """Print a value as JSON; what no encoding holds (a name that is not UTF-8) is written out."""
    return say(dumps(value, indent).encode(errors="backslashreplace").decode())


def cell(value: Any) -> str:
    """Return a value as a table shows it."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.2f}" if abs(value) >= 0.1 or value == 0 else f"{value:.3g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(cell(item) for item in value) or "-"
    return printable(value) or "-"


def seconds(value: float | None) -> str:
    """Return a duration as `1:02:03`."""
    if value is None or not math.isfinite(value):
        return "-"
    whole = round(value)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"


def show_table(
    columns: Sequence[str], rows: Iterable[Sequence[Any]], title: str | None = None
) -> None:
    """Print a table; numbers stand at the right, a status in its colour."""
    rows = [list(row) for row in rows]
    table = Table(
        box=box.SIMPLE_HEAD,
        title=title and printable(title),
        title_justify="left",
        show_header=any(columns),
    )
    for index, column in enumerate(columns):
        is_number = all(row[index] is None or isinstance(row[index], (int, float)) for row in rows)
        table.add_column(column, justify="right" if is_number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell(value), style=_style(value)) for value in row))
    terminal = sys.stdout.isatty()
    Console(file=sys.stdout, width=None if terminal else WIDE, highlight=False).print(table)


def _style(value: Any) -> str:
    return COLOURS.get(value, "") if isinstance(value, str) else ""
