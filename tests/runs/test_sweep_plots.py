"""The pictures of a sweep, read back from the figures."""

from __future__ import annotations

from pathlib import Path

import pytest

from lightning_rl.runs.sweep_plots import draw, history, importance, parallel

optuna = pytest.importorskip("optuna")


@pytest.fixture(scope="module")
def study() -> optuna.Study:
    """Return twelve complete trials, one pruned and one lost, whose score is the learning rate."""
    kinds = optuna.distributions
    space = {
        "model.learning_rate": kinds.FloatDistribution(1e-4, 1e-2, log=True),
        "model.num_steps": kinds.IntDistribution(8, 64),
        "model.hidden_sizes": kinds.CategoricalDistribution(["json:[32]", "json:[64, 64]"]),
    }
    found = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(1))
    for _ in range(12):
        trial = found.ask(space)
        found.tell(trial, 1e4 * trial.params["model.learning_rate"])
    found.tell(found.ask(space), state=optuna.trial.TrialState.PRUNED)
    lost = found.ask(space)
    lost.set_user_attr("lost", True)
    found.tell(lost, state=optuna.trial.TrialState.FAIL)
    return found


def test_history_shows_every_trial_and_the_best_so_far(study: optuna.Study) -> None:
    (axis,) = history(study).axes
    best, complete, pruned = axis.lines
    scores = [trial.value for trial in study.trials if trial.value is not None]
    assert list(complete.get_ydata()) == scores
    assert best.get_ydata()[-1] == max(scores)
    assert list(pruned.get_xdata()) == [12]
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("trial", "mean evaluation return")
    texts = [text.get_text() for legend in axis.figure.legends for text in legend.texts]
    assert texts == ["best so far", "complete trial", "pruned trial (no score)"]


def test_parallel_lines_stand_where_the_values_are(study: optuna.Study) -> None:
    axis, bar = parallel(study).axes
    lines = [line for line in axis.lines if len(line.get_xdata()) == 3]
    assert len(lines) == 12
    heights = [line.get_ydata()[0] for line in lines]  # sorted by score, which is that parameter
    assert heights == sorted(heights)
    assert 0.0 <= min(heights) < max(heights) <= 1.0
    labels = [label.get_text() for label in axis.get_xticklabels()]
    assert labels == ["learning rate", "num steps", "hidden sizes"]
    texts = {text.get_text() for text in axis.texts}
    assert {"0.0001", "0.001", "0.01", "8", "36", "64", "[32]", "[64, 64]"} == texts
    assert bar.get_ylabel() == "mean evaluation return"


def test_importance_names_what_decided(study: optuna.Study) -> None:
    (axis,) = importance(study).axes
    widths = [patch.get_width() for patch in axis.patches]
    assert axis.get_yticklabels()[0].get_text() == "learning rate"
    assert widths == sorted(widths, reverse=True)
    assert sum(widths) == pytest.approx(1.0)
    assert "share" in axis.get_xlabel()


def test_pictures_are_written_and_small(study: optuna.Study, tmp_path: Path) -> None:
    paths = draw(tmp_path, study)
    assert [path.name for path in paths] == ["history.png", "parallel.png", "importance.png"]
    assert all(5_000 < path.stat().st_size < 150_000 for path in paths)


def test_equal_scores_have_no_importance_and_few_trials_no_picture(tmp_path: Path) -> None:
    space = {"a": optuna.distributions.FloatDistribution(0.0, 1.0)}
    # Values of a narrow middle, whose ends lie outside of what is drawn.
    few = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=17))
    for expected in ([], [], ["history.png", "parallel.png"]):
        few.tell(few.ask(space), 1.0)
        assert [path.name for path in draw(tmp_path, few)] == expected
