"""Pictures of a sweep: its history, which parameters mattered, and where the good ones lie."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_rl.runs.trial_queue import (
    require_optuna,
)

if TYPE_CHECKING:
    import optuna

SCORE = "mean evaluation return"
LEAST_TRIALS = 3


def draw(folder: Path, study: optuna.Study) -> list[Path]:
    """Write the pictures and return their paths; none of fewer than three complete trials.

    Args:
        folder: Where to.
        study: The sweep's study.
    """
    import matplotlib.pyplot as plt

    require_optuna()
    complete = [
        trial for trial in study.get_trials(deepcopy=False) if trial.state.name == "COMPLETE"
    ]
    if len(complete) < LEAST_TRIALS:
        return []
    drawings = {"history.png": history, "parallel.png": parallel}
    if len({trial.value for trial in complete}) > 1:  # else nothing can have mattered
        drawings["importance.png"] = importance
    paths = []
    for name, drawing in drawings.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "experimental", and of fonts
            axes = drawing(study)
        figure = axes.get_figure()
        figure.savefig(folder / name, dpi=150, bbox_inches="tight")
        plt.close(figure)
        paths.append(folder / name)
    return paths


def history(study: optuna.Study) -> Any:
    """Return the axes with every trial's score and the best so far."""
    axes = _pictures().plot_optimization_history(study, target_name=SCORE)
    axes.set_title("Scores of the trials")
    axes.set_xlabel("trial")
    return axes


def parallel(study: optuna.Study) -> Any:
    """Return the axes with one line per trial through its parameters, coloured by score."""
    axes = _pictures().plot_parallel_coordinate(study, target_name=SCORE)
    axes.set_title("Parameters of the trials, coloured by score")
    axes.get_figure().set_size_inches(9, 5)
    return axes


def importance(study: optuna.Study) -> Any:
    """Return the axes with how much each parameter mattered for reaching the better scores."""
    evaluator = require_optuna().importance.PedAnovaImportanceEvaluator()
    axes = _pictures().plot_param_importances(study, evaluator=evaluator, target_name=SCORE)
    axes.set_title("Importance of the parameters (PED-ANOVA)")
    return axes


def _pictures() -> Any:
    from optuna.visualization import matplotlib as pictures

    return pictures
