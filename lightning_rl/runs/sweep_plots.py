"""Pictures of a sweep: its history, which parameters mattered, and where the good ones lie."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_rl.runs.plots import COLOURS, save
from lightning_rl.runs.sweep import decode
from lightning_rl.runs.trial_queue import ended_trials, require_optuna
from lightning_rl.types import Array

if TYPE_CHECKING:
    import optuna
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from optuna.trial import FrozenTrial

SCORE = "mean evaluation return"
LEAST_TRIALS = 3
BLUE, ORANGE = COLOURS[:2]
GREY = "#999999"
COLOUR_MAP = "cividis_r"  # the best are dark, for any colour vision


def draw(folder: Path, study: optuna.Study) -> list[Path]:
    """Write the pictures and return their paths; none of fewer than three complete trials.

    Args:
        folder: Where to.
        study: The sweep's study.
    """
    complete = _complete(study)
    if len(complete) < LEAST_TRIALS:
        return []
    drawings = {"history.png": history, "parallel.png": parallel}
    if len({trial.value for trial in complete}) > 1:  # else nothing can have mattered
        drawings["importance.png"] = importance
    for name, drawing in drawings.items():
        save(drawing(study), folder / name)
    return [folder / name for name in drawings]


def history(study: optuna.Study) -> Figure:
    """Return every trial's score, the best so far, and where trials were pruned."""
    from matplotlib.ticker import MaxNLocator

    figure, axis = _figure((6.4, 4.0))
    complete = _complete(study)
    numbers = [trial.number for trial in complete]
    scores = np.array([trial.value for trial in complete])
    last = max(trial.number for trial in ended_trials(study))
    steps, best = [*numbers, last], np.maximum.accumulate(scores)
    axis.step(steps, [*best, best[-1]], where="post", color=ORANGE, label="best so far")
    axis.plot(numbers, scores, "o", color=BLUE, label="complete trial")
    pruned = [t.number for t in ended_trials(study) if t.state.name == "PRUNED"]
    if pruned:
        floor = float(scores.min()) - 0.06 * float(np.ptp(scores) or 1.0)
        axis.plot(pruned, [floor] * len(pruned), "x", color=GREY, label="pruned trial (no score)")
    axis.set(title="Scores of the trials", xlabel="trial", ylabel=SCORE)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return figure


def parallel(study: optuna.Study) -> Figure:
    """Return one line per complete trial through its parameters, coloured by score."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    complete = sorted(_complete(study), key=lambda trial: trial.value or 0.0)  # the best on top
    names = list(dict.fromkeys(name for trial in complete for name in trial.params))
    figure, axis = _figure((max(6.4, 1.7 * len(names)), 4.4))
    columns = [_Column(complete, name) for name in names]
    scores = [float(trial.value or 0.0) for trial in complete]
    widening = 0.5 if min(scores) == max(scores) else 0.0
    colours = ScalarMappable(Normalize(min(scores) - widening, max(scores) + widening), COLOUR_MAP)
    rgba = colours.to_rgba(np.array(scores))
    for row in range(len(complete)):
        heights = [column.heights[row] for column in columns]
        axis.plot(range(len(names)), heights, "o-", ms=4, color=rgba[row], alpha=0.85)
    for place, column in enumerate(columns):
        axis.axvline(place, color=GREY, lw=0.8, zorder=0)
        for height, text in column.ticks:
            box = {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.8}
            axis.text(place + 0.03, height, text, va="center", fontsize="small", bbox=box)
    labels = [name.removeprefix("model.").replace("_", " ") for name in names]
    axis.set_xticks(range(len(names)), labels)
    axis.set_xlim(-0.15, len(names) - 0.55)
    axis.set_ylim(-0.06, 1.06)  # texts outside of it would be given room, all there is
    axis.set_yticks([])
    axis.grid(visible=False)
    axis.spines["left"].set_visible(False)
    axis.set_title("Parameters of the complete trials")
    figure.colorbar(colours, ax=axis, label=SCORE)
    return figure


def importance(study: optuna.Study) -> Figure:
    """Return how much each parameter mattered for reaching the better scores."""
    optuna = require_optuna()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "experimental"
        evaluator = optuna.importance.PedAnovaImportanceEvaluator()
        shares = optuna.importance.get_param_importances(study, evaluator=evaluator)
    names = [name.removeprefix("model.").replace("_", " ") for name in shares]
    figure, axis = _figure((6.4, 1.4 + 0.5 * len(names)))
    bars = axis.barh(names, list(shares.values()), color=BLUE, height=0.6)
    axis.bar_label(bars, fmt="{:.2f}", padding=3)
    axis.invert_yaxis()
    axis.margins(x=0.12)
    axis.set(title="Importance of the parameters", xlabel="share of the importance (PED-ANOVA)")
    return figure


class _Column:
    """One parameter of the trials, from 0 to 1, with the texts of a few places.

    Args:
        trials: The trials.
        name: The parameter.
    """

    def __init__(self, trials: list[FrozenTrial], name: str) -> None:
        kind: Any = trials[0].distributions[name]
        values: list[Any] = [trial.params.get(name) for trial in trials]
        choices = getattr(kind, "choices", None)
        if choices is not None:
            size = max(1, len(choices) - 1)
            self.heights = np.array([choices.index(value) / size for value in values])
            self.ticks = [(i / size, f"{decode(choice)}") for i, choice in enumerate(choices)]
            return
        numbers = np.array(values, dtype=float)
        ends = np.array([kind.low, kind.high], dtype=float)
        scale: Any = np.log if kind.log else np.asarray
        self.heights = _between(scale(numbers), *scale(ends))
        middle = np.exp(np.log(ends).mean()) if kind.log else ends.mean()
        marks = zip((0.0, 0.5, 1.0), (ends[0], middle, ends[1]), strict=True)
        self.ticks = [(height, f"{value:.3g}") for height, value in marks]


def _between(values: Array, low: float, high: float) -> Array:
    return (values - low) / ((high - low) or 1.0)


def _complete(study: optuna.Study) -> list[FrozenTrial]:
    return [trial for trial in ended_trials(study) if trial.state.name == "COMPLETE"]


def _figure(size: tuple[float, float]) -> tuple[Figure, Axes]:
    """Return an empty figure of one panel, without pyplot, whose state is the user's."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axis: Any = figure.subplots()
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    axis.set_axisbelow(True)
    return figure, axis
