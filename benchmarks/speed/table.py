"""Turn measured runs into Markdown tables; measures nothing.

python -m benchmarks.speed.table benchmarks/speed/results/DATE.json > docs/performance_table.md
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

from benchmarks.speed.cases import CASES, Case
from benchmarks.speed.libraries import LIBRARIES

Row = dict[str, Any]
REFERENCE = "sb3"
OWN = "lightning_rl"

TIMED_HEADER = (
    "library", "version", "env steps/s", "range", "× fastest peer", "env steps/s with warm-up",
    "optimizer steps", "parameters", "return (last 100)", "peak RSS MB", "runs",
)  # fmt: skip
PROCESS_HEADER = (
    "library", "version", "seconds", "range", "× SB3's time", "of it training s",
    "optimizer steps", "parameters", "return (last 100)", "peak RSS MB", "runs",
)  # fmt: skip


def markdown(header: tuple[str, ...], lines: list[list[str]]) -> str:
    """Return a Markdown table."""
    rule = ["---"] * len(header)
    return (
        "\n".join("| " + " | ".join(cells) + " |" for cells in [list(header), rule, *lines]) + "\n"
    )


def median_of(rows: list[Row], key: str) -> float:
    """Return the median of what the rows hold under `key`."""
    return float(statistics.median(row[key] for row in rows))


def spread(rows: list[Row], key: str, digits: int) -> str:
    """Return "low-high" of what the rows hold under `key`."""
    values = [row[key] for row in rows]
    return f"{min(values):,.{digits}f}-{max(values):,.{digits}f}"


def count(rows: list[Row], key: str, described: int, case: Case) -> str:
    """Return a counted number, with the described one beside it where they should be equal."""
    seen = sorted({row[key] for row in rows})
    text = ", ".join(f"{value:,}" for value in seen)
    equal = case.library_defaults or seen == [described]
    return text if equal else f"{text} (described: {described:,})"


def grouped(runs: list[Row], case: str) -> dict[str, list[Row]]:
    """Return the good runs of a case by library, in the order of first appearance."""
    groups: dict[str, list[Row]] = {}
    for row in runs:
        if row["case"] == case and "error" not in row:
            groups.setdefault(row["name"], []).append(row)
    return groups


def reference_value(groups: dict[str, list[Row]], case: Case) -> float | None:
    """Return what ratios are taken to: the fastest peer's rate, SB3's time or our own rate.

    None if that was not run.
    """
    if case.whole_process:
        return median_of(groups[REFERENCE], "wall_s") if REFERENCE in groups else None
    if case.own_only:
        return median_of(groups[OWN], "steps_per_s") if OWN in groups else None
    peers = [rows for name, rows in groups.items() if LIBRARIES[name].is_peer]
    return max((median_of(rows, "steps_per_s") for rows in peers), default=None)


def line(name: str, rows: list[Row], case: Case, reference: float | None) -> list[str]:
    """Return the cells of one library's row."""
    key, digits = ("wall_s", 1) if case.whole_process else ("steps_per_s", 0)
    value = median_of(rows, key)
    if case.whole_process:
        second = f"{median_of(rows, 'total_s'):.1f}"
    else:
        second = f"{statistics.median(row['steps'] / row['total_s'] for row in rows):,.0f}"
    returns = [
        row["mean_return_last_100"] for row in rows if row["mean_return_last_100"] is not None
    ]
    noisy = sum(bool(row["noise"]) for row in rows)
    return [
        name,
        rows[0]["version"],
        f"**{value:,.{digits}f}**",
        spread(rows, key, digits),
        "-" if reference is None else f"{value / reference:.2f}",
        second,
        count(rows, "gradient_steps", case.updates(), case),
        count(rows, "parameters", case.parameters, case),
        f"{statistics.fmean(returns):,.1f}" if returns else "-",
        f"{median_of(rows, 'peak_rss_mb'):,.0f}",
        f"{len(rows)}" + (f" ({noisy} not quiet)" if noisy else ""),
    ]


def case_table(runs: list[Row], case: Case) -> str:
    """Return the section of one case: heading, table, and the failures."""
    groups = grouped(runs, case.name)
    reference = reference_value(groups, case)
    header = PROCESS_HEADER if case.whole_process else TIMED_HEADER
    if case.own_only:
        header = tuple(f"× {OWN}" if cell == "× fastest peer" else cell for cell in header)
    key, sign = ("wall_s", 1) if case.whole_process else ("steps_per_s", -1)
    names = sorted(groups, key=lambda name: sign * median_of(groups[name], key))
    text = f"### {case.name}\n\n"
    if case.library_defaults:
        text += "Each library's own default hyperparameters: the work is *not* equal.\n\n"
    text += markdown(header, [line(name, groups[name], case, reference) for name in names])
    failed = [row for row in runs if row["case"] == case.name and "error" in row]
    for row in failed:
        text += f"\n{row['name']} failed: {row['error']}\n"
    return text


def render(result: dict[str, Any]) -> str:
    """Return the whole document of a benchmark run."""
    machine = result["machine"]
    head = (
        f"Measured {result['date']} at {result['commit']} on {machine['processor']}, one core of "
        f"{machine['cores']}, one thread, {machine['system']}, Python {machine['python']}. "
        "Medians; runs of the libraries alternate.\n"
    )
    measured = {row["case"] for row in result["runs"]}
    tables = [case_table(result["runs"], case) for case in CASES.values() if case.name in measured]
    return "\n".join([head, *tables])


def main() -> None:
    """Write the tables of the results file named on the command line to standard output."""
    print(render(json.loads(Path(sys.argv[1]).read_text())), end="")


if __name__ == "__main__":
    main()
