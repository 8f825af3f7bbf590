"""Results of several runs, on the terminal: table, pictures, comparison with earlier results."""

from __future__ import annotations

import math
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

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


def summarise(results: Sequence[CellResult]) -> list[dict[str, Any]]:
    """Return one object per environment and algorithm: IQM over seeds, 95 % interval, and so on.

    Without `rliable`, and for a single seed, there is no interval.
    """
    from lightning_rl.runs.statistics import interquartile_mean, mean

    scores = scores_by_pair(results)
    summaries = []
    for pair, group in by_pair(results).items():
        own = scores.get(pair)
        seconds = sum(result.metrics.get("wall_time_s") or 0.0 for result in group)
        summaries.append(
            {
                "environment": pair[0],
                "algorithm": pair[1],
                "seeds": len(group),
                "succeeded": len(own or []),
                "iqm": interquartile_mean(own) if own else None,
                "interval": _interval(own or []),
                "mean": mean(own) if own else None,
                "lowest": min(own) if own else None,
                "highest": max(own) if own else None,
                "training_s": seconds,
            }
        )
    return summaries


def show_table(summaries: Sequence[dict[str, Any]]) -> None:
    """Print one line per environment and algorithm."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Mean return per seed, over the seeds")
    for column in ("environment", "algorithm"):
        table.add_column(column)
    for column in ("seeds", "IQM", "95 % interval", "mean", "lowest", "highest", "training"):
        table.add_column(column, justify="right")
    for summary in summaries:
        table.add_row(
            *(summary["environment"], summary["algorithm"]),
            f"{summary['succeeded']} of {summary['seeds']}",
            _shown(summary["iqm"]),
            " to ".join(map(_shown, summary["interval"] or [None])),
            *(_shown(summary[key]) for key in ("mean", "lowest", "highest")),
            f"{summary['training_s']:.0f} s",
        )
    console = Console(file=sys.stdout)
    if not console.is_terminal:
        console = Console(file=sys.stdout, width=PLAIN_WIDTH)
    console.print(table)


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _interval(scores: Sequence[float]) -> list[float] | None:
    from lightning_rl.runs.statistics import interval

    if len(scores) < 2:
        return None
    try:
        return list(interval(scores))
    except ConfigError:
        return None


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


def shared_pairs(asked: Collection[Pair], reference: Sequence[CellResult]) -> list[Pair]:
    """Return the pairs of environment and algorithm that can be compared.

    Raises:
        ConfigError: There is none.
    """
    shared = [pair for pair in scores_by_pair(reference) if pair in asked]
    if not shared:
        names = ", ".join(f"{algorithm} on {environment}" for environment, algorithm in asked)
        raise ConfigError(f"the reference has no environment and algorithm of this study: {names}")
    return shared


def compare_with(results: Sequence[CellResult], reference: Sequence[CellResult]) -> list[str]:
    """Print how results compare with stored ones; return what is worse.

    Worse is a pair of environment and algorithm whose 95 % interval of the difference of IQMs
    lies below zero, or that has no score any more.

    Raises:
        ConfigError: `rliable` is not installed, or no pair is in both.
    """
    from lightning_rl.runs.statistics import difference_interval

    now, before = scores_by_pair(results), scores_by_pair(reference)
    worse = []
    for environment, algorithm in shared_pairs(by_pair(results), reference):
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
