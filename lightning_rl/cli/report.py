"""Results of several runs, on the terminal: table, pictures, comparison with earlier results."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path

from lightning_rl.cli.shared import say
from lightning_rl.errors import ConfigError
from lightning_rl.runs.study import CellResult

PLAIN_WIDTH = 120
Pair = tuple[str, str]


def by_pair(results: Sequence[CellResult]) -> dict[Pair, list[CellResult]]:
    """Return the results by (environment, algorithm), in their order."""
    found: dict[Pair, list[CellResult]] = {}
    for result in results:
        found.setdefault((result.environment, result.algorithm), []).append(result)
    return found


def scores_by_pair(results: Sequence[CellResult]) -> dict[Pair, list[float]]:
    """Return the finite scores of the successful cells by (environment, algorithm)."""
    found = {}
    for pair, group in by_pair(results).items():
        scores = [result.score for result in group if result.success]
        found[pair] = [score for score in scores if math.isfinite(score)]
    return {pair: scores for pair, scores in found.items() if scores}


def show_table(results: Sequence[CellResult]) -> None:
    """Print one line per environment and algorithm."""
    from rich.console import Console
    from rich.table import Table

    from lightning_rl.runs.statistics import interquartile_mean, mean

    table = Table(title="Mean return per seed, over the seeds")
    for column in ("environment", "algorithm"):
        table.add_column(column)
    intervals = _intervals(results)
    columns = ("seeds", "IQM", "95 % interval", "mean", "lowest", "highest", "training")
    for column in columns:
        table.add_column(column, justify="right")
    scores = scores_by_pair(results)
    for pair, group in by_pair(results).items():
        own = scores.get(pair, [])
        seconds = sum(result.metrics.get("wall_time_s") or 0.0 for result in group)
        numbers = ["-"] * 5
        if own:
            values = (interquartile_mean(own), mean(own), min(own), max(own))
            middle, average, low, high = (f"{value:.2f}" for value in values)
            numbers = [middle, intervals.get(pair, "-"), average, low, high]
        table.add_row(*pair, f"{len(own)} of {len(group)}", *numbers, f"{seconds:.0f} s")
    console = Console(file=sys.stdout)
    if not console.is_terminal:
        console = Console(file=sys.stdout, width=PLAIN_WIDTH)
    console.print(table)


def _intervals(results: Sequence[CellResult]) -> dict[Pair, str]:
    """Return the bootstrap intervals as text; none where rliable is missing."""
    from lightning_rl.runs.statistics import interval

    found = {}
    for pair, scores in scores_by_pair(results).items():
        if len(scores) < 2:
            continue
        try:
            low, high = interval(scores)
        except ConfigError:
            return {}
        found[pair] = f"{low:.2f} to {high:.2f}"
    return found


def draw(folder: Path, results: Sequence[CellResult]) -> None:
    """Draw the pictures of the results into a folder; say so in one line where that fails."""
    from lightning_rl.runs.plots import draw_results

    try:
        paths = draw_results(folder, results)
    except ConfigError as error:
        say(f"no pictures: {error}")
        return
    for path in paths:
        say(f"picture: {path}")


def compare_with(results: Sequence[CellResult], reference: Sequence[CellResult]) -> list[str]:
    """Print how results compare with stored ones; return what is worse.

    Worse is a pair of environment and algorithm whose 95 % interval of the difference of IQMs
    lies below zero, or that has no score any more.

    Raises:
        ConfigError: `rliable` is not installed, or no pair is in both.
    """
    from lightning_rl.runs.statistics import difference_interval

    now, before = scores_by_pair(results), scores_by_pair(reference)
    asked = set(by_pair(results))
    shared = [pair for pair in before if pair in asked]
    if not shared:
        raise ConfigError("the reference has no environment and algorithm of this study")
    worse = []
    for environment, algorithm in shared:
        name = f"{algorithm} on {environment}"
        pair = (environment, algorithm)
        if pair not in now:
            worse.append(name)
            say(f"regression: {name}: no run succeeded, the reference has {len(before[pair])}")
            continue
        low, high = difference_interval(now[pair], before[pair])
        verdict = "regression" if high < 0 else "better" if low > 0 else "no difference"
        if high < 0:
            worse.append(name)
        say(f"{verdict}: {name}: {low:+.2f} to {high:+.2f} against the reference (95 %)")
    return worse
