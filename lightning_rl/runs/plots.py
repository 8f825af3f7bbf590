"""Pictures of several runs: learning curves, performance profiles, interquartile means.

Each function returns a figure, which a caller may change and save; `draw_results` writes all of
them for the results of a study. Colours are Okabe and Ito's, told apart with any colour vision, and
every algorithm has a marker and a line style of its own besides.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lightning_rl.errors import ConfigError
from lightning_rl.runs.plain_json import loads
from lightning_rl.runs.statistics import (
    bands,
    interquartile_mean,
    interquartile_means,
    interval,
    rliable_library,
)
from lightning_rl.runs.study import CellResult
from lightning_rl.storage.sealed import atomic_write_bytes
from lightning_rl.types import Array

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# https://jfly.uni-koeln.de/color/, without the yellow that is too pale for lines on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES = ("-", "--", "-.", ":")
CURVE_RESAMPLES = 1_000
"""Bootstrap resamples of a band or profile: its ends are drawn, not read off."""
CURVE_POINTS = 100
PROFILE_POINTS = 101
MAX_COLUMNS = 3
CURVE_LABEL = "IQM over seeds, 95 % bootstrap interval"
MEANS_LABEL = "IQM over seeds (mark), 95 % bootstrap interval (bar), single runs (ticks)"


class Curve(NamedTuple):
    """The evaluations of one run.

    Attributes:
        env_steps: When, ascending, `(n,)`.
        returns: Mean undiscounted return, `(n,)`.
    """

    env_steps: Array
    returns: Array


Curves = Mapping[str, Mapping[str, Sequence[Curve]]]
"""Environment → algorithm → one curve per run."""
Scores = Mapping[str, Mapping[str, Sequence[float]]]
"""Environment → algorithm → one score per run."""


def draw_results(folder: Path, results: Sequence[CellResult]) -> list[Path]:
    """Draw everything that the results allow; return the files.

    Args:
        folder: Where to: `learning_curves.png`, `iqm.png`, `performance_profiles.png`.
        results: Cells of a study; failed ones are left out.

    Raises:
        ConfigError: `rliable` is not installed.
    """
    rliable_library()
    curves, scores = curves_of(results), scores_of(results)
    figures: dict[str, Figure] = {}
    if curves:
        figures["learning_curves.png"] = learning_curves(curves)
    if scores:
        figures["iqm.png"] = interquartile_means_figure(scores)
        figures["performance_profiles.png"] = performance_profiles(scores)
    paths = []
    for name, figure in figures.items():
        save(figure, folder / name)
        paths.append(folder / name)
    return paths


def learning_curves(curves: Curves) -> Figure:
    """Return one panel per environment: interquartile mean over runs with its interval.

    Runs are compared at the env steps that all of an algorithm's runs have reached; between two
    evaluations a curve is interpolated.

    Args:
        curves: At least one curve.
    """
    figure, axes = _panels(len(curves))
    style = _Styles(algorithm for panel in curves.values() for algorithm in panel)
    for axis, (environment, panel) in zip(axes, curves.items(), strict=False):
        for algorithm, runs in panel.items():
            steps, values = aligned(runs)
            _draw_curve(axis, style, algorithm, steps, values)
        axis.set_title(environment)
        axis.set_xlabel("env steps")
        axis.set_ylabel("undiscounted return of an evaluation")
        axis.xaxis.set_major_formatter(short_number)
    _legend(figure, style, CURVE_LABEL)
    return figure


def interquartile_means_figure(scores: Scores) -> Figure:
    """Return one panel per environment: each algorithm's IQM and interval; above one, all of them.

    The panel of all environments scales each environment's scores from 0 (the lowest of all runs)
    to 1 (the highest).

    Args:
        scores: At least one score.
    """
    tables = scaled_tables(scores) if len(scores) > 1 else {}
    figure, axes = _panels(len(scores) + bool(tables), height=2.6)
    style = _Styles(algorithm for panel in scores.values() for algorithm in panel)
    for axis, (environment, panel) in zip(axes, scores.items(), strict=False):
        tables_of_one = {name: np.asarray(runs)[:, None] for name, runs in panel.items()}
        _draw_means(axis, style, tables_of_one)
        axis.set_title(environment)
        axis.set_xlabel("undiscounted return")
        axis.locator_params(axis="x", nbins=4)  # numbers such as −13.25 would run together
    if tables:
        _draw_means(axes[len(scores)], style, tables)
        axes[len(scores)].set_title("all environments")
        axes[len(scores)].set_xlabel("scaled return (0 lowest run, 1 highest)")
    _legend(figure, style, MEANS_LABEL)
    return figure


def performance_profiles(scores: Scores) -> Figure:
    """Return the share of runs above each scaled score, over all environments, with its interval.

    Args:
        scores: At least one score; see `scaled_tables` for how they are scaled.
    """
    figure, axes = _panels(1)
    axis, tables = axes[0], scaled_tables(scores)
    style = _Styles(tables)
    thresholds = np.linspace(0.0, 1.0, PROFILE_POINTS)
    for algorithm, table in tables.items():
        share = shares_above(table, thresholds)
        axis.step(thresholds, share, where="post", **style.line(algorithm))
        if len(table) > 1:
            low, high = bands(
                table, lambda sample: shares_above(sample, thresholds), CURVE_RESAMPLES
            )
            axis.fill_between(
                thresholds, low, high, step="post", color=style.colour(algorithm), alpha=0.2, lw=0
            )
    runs = sorted({len(table) for table in tables.values()})
    number = f"{len(scores)} environments" if len(scores) > 1 else "1 environment"
    axis.set_title(f"{number}, {' or '.join(map(str, runs))} runs of each")
    axis.set_xlabel("scaled return τ (0 lowest run, 1 highest of an environment)")
    axis.set_ylabel("share of runs with return ≥ τ")
    axis.set_ylim(-0.02, 1.02)
    _legend(figure, style, "share, 95 % bootstrap interval")
    return figure


def shares_above(table: Array, thresholds: Array) -> Array:
    """Return which share of a table's entries is at least each threshold, `(thresholds,)`."""
    entries = np.sort(np.asarray(table, dtype=float).ravel())
    # A hair's breadth for scores that scaling has rounded.
    below = np.searchsorted(entries, thresholds - 1e-9, side="left")
    return np.asarray(1.0 - below / len(entries))


def aligned(runs: Sequence[Curve]) -> tuple[Array, Array]:
    """Return common env steps `(n,)` and the curves there `(runs, n)`.

    The steps are those of the evaluations where all runs share them, else a regular grid over what
    all have in common.
    """
    first = np.asarray(runs[0].env_steps, dtype=float)
    start = max(float(run.env_steps[0]) for run in runs)
    end = min(float(run.env_steps[-1]) for run in runs)
    if all(np.array_equal(run.env_steps, first) for run in runs):
        steps = first
    else:
        steps = np.linspace(min(start, end), end, CURVE_POINTS)
    return steps, np.stack([np.interp(steps, run.env_steps, run.returns) for run in runs])


def scaled_tables(scores: Scores) -> dict[str, Array]:
    """Return each algorithm's scores as `(runs, environments)`, scaled to [0, 1] per environment.

    An algorithm with no run on some environment is left out; one with more runs on some than on
    others counts as many of each as it has everywhere. Where all runs of an environment are equal,
    their scaled score is 1.
    """
    complete = [
        algorithm
        for algorithm in dict.fromkeys(name for panel in scores.values() for name in panel)
        if all(panel.get(algorithm) for panel in scores.values())
    ]
    tables = {}
    for algorithm in complete:
        runs = min(len(panel[algorithm]) for panel in scores.values())
        columns = [_scale(panel, panel[algorithm][:runs]) for panel in scores.values()]
        tables[algorithm] = np.stack(columns, axis=1)
    return tables


def _scale(panel: Mapping[str, Sequence[float]], runs: Sequence[float]) -> Array:
    everything = [score for scores in panel.values() for score in scores]
    low, high = min(everything), max(everything)
    if low == high:
        return np.ones(len(runs))
    return (np.asarray(runs, dtype=float) - low) / (high - low)


def curves_of(results: Iterable[CellResult]) -> dict[str, dict[str, list[Curve]]]:
    """Return the evaluations that the runs of successful cells have kept in `metrics.json`."""
    found: dict[str, dict[str, list[Curve]]] = {}
    for result in results:
        rows = _evaluations(result) if result.success else []
        if rows:
            steps, returns = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
            panel = found.setdefault(result.environment, {})
            panel.setdefault(result.algorithm, []).append(Curve(steps, returns))
    return found


def scores_of(results: Iterable[CellResult]) -> dict[str, dict[str, list[float]]]:
    """Return the finite scores of successful cells."""
    found: dict[str, dict[str, list[float]]] = {}
    for result in results:
        if result.success and math.isfinite(result.score):
            panel = found.setdefault(result.environment, {})
            panel.setdefault(result.algorithm, []).append(result.score)
    return found


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, replacing the file atomically."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write_bytes(path, picture.getvalue(), durable=False)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror or error}") from error


def short_number(value: float, _position: float | None = None) -> str:
    """Return a number of env steps as an axis shows it: `250 k`, `1.5 M`."""
    for size, suffix in ((1e6, " M"), (1e3, " k")):
        if abs(value) >= size:
            return f"{value / size:g}{suffix}"
    return f"{value:g}"


def _evaluations(result: CellResult) -> list[tuple[float, float]]:
    with suppress(OSError, ValueError, KeyError, TypeError):
        summary = loads((Path(result.directory or "") / "metrics.json").read_text())
        rows = [(row["env_steps"], row["eval/mean_reward"]) for row in summary["evaluations"]]
        return [(float(step), float(value)) for step, value in rows if math.isfinite(value)]
    return []


class _Styles:
    """One colour, marker and line per algorithm, the same in all panels."""

    def __init__(self, algorithms: Iterable[str]) -> None:
        self.algorithms = list(dict.fromkeys(algorithms))

    def colour(self, algorithm: str) -> str:
        return COLOURS[self.algorithms.index(algorithm) % len(COLOURS)]

    def marker(self, algorithm: str) -> str:
        return MARKERS[self.algorithms.index(algorithm) % len(MARKERS)]

    def line(self, algorithm: str) -> dict[str, Any]:
        turn, index = divmod(self.algorithms.index(algorithm), len(COLOURS))
        shape = LINES[(index + turn) % len(LINES)]  # another one in each round of the colours
        return {"color": self.colour(algorithm), "linestyle": shape, "label": algorithm}


def _panels(number: int, height: float = 3.6) -> tuple[Figure, list[Axes]]:
    # The figure API alone: pyplot has global state that belongs to the user's own plots.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = 2 if number == 4 else min(number, MAX_COLUMNS)
    rows = math.ceil(number / columns)
    figure = Figure(
        figsize=(max(5.2, 4.2 * columns), height * rows + 0.8), dpi=110, layout="constrained"
    )
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis in axes[number:]:
        axis.remove()
    for axis in axes[:number]:
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes[:number]


def _draw_curve(axis: Axes, style: _Styles, algorithm: str, steps: Array, values: Array) -> None:
    middle = interquartile_means(values)
    every = max(1, len(steps) // 10)
    marker: dict[str, Any] = {
        "marker": style.marker(algorithm),
        "markersize": 4.5,
        "markevery": every,
    }
    axis.plot(steps, middle, **style.line(algorithm), **marker)
    if len(values) > 1:
        low, high = bands(
            values[:, None, :], lambda sample: interquartile_means(sample[:, 0]), CURVE_RESAMPLES
        )
        axis.fill_between(steps, low, high, color=style.colour(algorithm), alpha=0.2, lw=0)


def _draw_means(axis: Axes, style: _Styles, tables: Mapping[str, Array]) -> None:
    """Draw one row per algorithm, the first on top, with every run as a small mark below it."""
    for row, (algorithm, table) in enumerate(tables.items()):
        colour, middle = style.colour(algorithm), interquartile_mean(table)
        axis.plot(table.ravel(), np.full(table.size, row + 0.25), "|", color=colour, alpha=0.6)
        if len(table) > 1:
            axis.plot(
                interval(table),
                [row, row],
                color=colour,
                lw=6,
                alpha=0.35,
                solid_capstyle="butt",
            )
        axis.plot([middle], [row], style.marker(algorithm), color=colour, label=algorithm)
    axis.set_yticks(range(len(tables)), list(tables))
    axis.set_ylim(len(tables) - 0.4, -0.6)
    axis.margins(x=0.08)


def _legend(figure: Figure, style: _Styles, title: str) -> None:
    """Put one legend for all panels below them."""
    handles: dict[str, Artist] = {}
    for axis in figure.axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    names = [name for name in style.algorithms if name in handles]
    figure.legend(
        handles=[handles[name] for name in names],
        labels=names,
        loc="outside lower center",
        ncols=min(len(names), 5),
        title=title,
        frameon=False,
    )
