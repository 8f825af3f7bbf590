"""Optuna's side of a sweep: proposals, lost trials, storages, what must not change."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lightning_rl.errors import ConfigError
from lightning_rl.runs.search_space import Distribution, choice, loguniform, randint
from lightning_rl.runs.sweep import Outcome, Sweep, Trial, decode, encode
from lightning_rl.runs.trial_queue import (
    MAX_RETRIES,
    STALE_S,
    TrialQueue,
    ended_trials,
    open_study,
    results,
)

SPACE = {"model.learning_rate": loguniform(1e-5, 1e-1), "model.num_steps": randint(8, 64)}


def make(folder: Path, space: dict[str, Distribution] = SPACE, **changes: Any) -> Sweep:
    budget = {"model": {"init_args": {"total_env_steps": 900}}}
    folder.mkdir(exist_ok=True)
    return Sweep("s", folder, space, [budget], **{"num_trials": 4, "sampler": "random", **changes})


def queue_of(sweep: Sweep) -> TrialQueue:
    return TrialQueue(sweep, open_study(sweep))


def score(trial: Trial) -> float:
    """Best at a learning rate of 1e-3."""
    return -abs(math.log10(trial.parameters["model.learning_rate"]) + 3.0)


def complete(queue: TrialQueue, trial: Trial, value: float | None = None) -> None:
    Outcome("complete", score(trial) if value is None else value, 900).store(trial.folder)
    assert queue.finish(trial, 0) is not None


def run_all(queue: TrialQueue) -> list[Trial]:
    trials = []
    while (trial := queue.next()) is not None:
        complete(queue, trial)
        trials.append(trial)
    return trials


def test_as_many_trials_as_asked_for_with_values_of_the_space(tmp_path: Path) -> None:
    trials = run_all(queue_of(make(tmp_path)))
    assert [trial.number for trial in trials] == [0, 1, 2, 3]
    for trial in trials:
        assert 1e-5 <= trial.parameters["model.learning_rate"] <= 1e-1
        assert type(trial.parameters["model.num_steps"]) is int
    assert len({trial.folder for trial in trials}) == 4


def test_the_seed_decides_the_proposals_and_a_second_process_goes_on(tmp_path: Path) -> None:
    whole = run_all(queue_of(make(tmp_path / "a")))
    first = queue_of(make(tmp_path / "b", num_trials=2))
    halves = run_all(first) + run_all(queue_of(make(tmp_path / "b")))
    other = run_all(queue_of(make(tmp_path / "c", seed=2)))
    assert [t.parameters for t in whole] == [t.parameters for t in halves]
    assert [t.parameters for t in whole] != [t.parameters for t in other]


def test_a_lost_trial_is_tried_again_with_the_same_values_in_the_same_folder(
    tmp_path: Path,
) -> None:
    expected = [t.parameters for t in run_all(queue_of(make(tmp_path / "a")))]
    queue = queue_of(make(tmp_path / "b"))
    lost = queue.next()
    assert queue.finish(lost, -9) is None
    again = queue.next()
    assert (again.parameters, again.folder) == (lost.parameters, lost.folder)
    assert again.number != lost.number
    complete(queue, again)
    assert [again.parameters, *(t.parameters for t in run_all(queue))] == expected
    assert len(ended_trials(queue.study)) == 4


def test_what_is_killed_again_and_again_fails_in_the_end(tmp_path: Path) -> None:
    queue = queue_of(make(tmp_path, num_trials=1))
    outcomes = []
    while (trial := queue.next()) is not None:
        outcomes.append(queue.finish(trial, -9))
    assert outcomes[:-1] == [None] * MAX_RETRIES
    assert outcomes[-1].state == "failed"
    (row,) = results(queue.study)
    assert (row["state"], row["error_message"]) == ("failed", "its process ended with -9")


def test_trials_of_a_dead_parent_are_taken_over(tmp_path: Path) -> None:
    dead = queue_of(make(tmp_path))
    cut, ended = dead.next(), dead.next()
    Outcome("complete", 1.0, 900).store(ended.folder)  # its parent died before it could tell
    queue = queue_of(make(tmp_path))
    assert queue.take_over() == 1
    again = queue.next()
    assert again.folder == cut.folder
    assert [trial.value for trial in ended_trials(queue.study)] == [1.0]


def test_a_trial_of_another_machine_is_taken_over_when_it_is_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lightning_rl.runs import trial_queue

    monkeypatch.setattr(trial_queue.socket, "gethostname", lambda: "elsewhere")
    queue_of(make(tmp_path)).next()
    monkeypatch.setattr(trial_queue.socket, "gethostname", lambda: "here")
    queue = queue_of(make(tmp_path))
    assert queue.take_over() == 0
    now = trial_queue.time.time()
    monkeypatch.setattr(trial_queue.time, "time", lambda: now + STALE_S + 1)
    assert queue.take_over() == 1


def test_a_grid_runs_every_point_once_whatever_is_lost(tmp_path: Path) -> None:
    space = {"model.learning_rate": choice(1e-3, 1e-2), "model.hidden_sizes": choice([8], [8, 8])}
    queue = queue_of(make(tmp_path, space=space, sampler="grid"))
    assert queue.finish(queue.next(), -9) is None
    seen = [trial.parameters for trial in run_all(queue)]
    assert len(seen) == 4
    assert {tuple(p["model.hidden_sizes"]) for p in seen} == {(8,), (8, 8)}
    assert len({str(p) for p in seen}) == 4
    assert queue_of(make(tmp_path, space=space, sampler="grid")).next() is None


def test_failed_and_pruned_trials_count_and_are_shown_behind_the_others(tmp_path: Path) -> None:
    queue = queue_of(make(tmp_path))
    ends = [
        Outcome("pruned", None, 300),
        Outcome("failed", None, 10, "why"),
        Outcome("complete", 2.0, 900),
        Outcome("complete", math.nan, 900),
    ]
    for outcome in ends:
        trial = queue.next()
        outcome.store(trial.folder)
        queue.finish(trial, 0)
    rows = results(queue.study)
    assert [row["state"] for row in rows] == ["complete", "pruned", "failed", "failed"]
    assert [row["env_steps"] for row in rows] == [900, 300, 10, 900]
    assert queue.next() is None


@pytest.mark.parametrize("sampler", ["tpe", "cmaes"])
def test_samplers_learn(tmp_path: Path, sampler: str) -> None:
    """The later half of the proposals is better than the first, which is random."""
    trials = run_all(queue_of(make(tmp_path, sampler=sampler, num_trials=30)))
    scores = [score(trial) for trial in trials]
    assert sum(scores[15:]) / 15 > sum(scores[:10]) / 10


def test_settings_must_not_change(tmp_path: Path) -> None:
    open_study(make(tmp_path))
    open_study(make(tmp_path, num_trials=50, workers=3))
    with pytest.raises(ConfigError, match=r"other settings \(changed: space\)"):
        open_study(make(tmp_path, space={"model.gamma": choice(0.9)}))


def test_storages(tmp_path: Path) -> None:
    journal = make(tmp_path / "a", storage=str(tmp_path / "deep" / "s.journal"))
    run_all(queue_of(journal))
    assert (tmp_path / "deep" / "s.journal").is_file()
    assert len(ended_trials(open_study(journal))) == 4
    with pytest.raises(ConfigError, match="cannot be opened"):
        open_study(make(tmp_path / "b", storage="sqlite:////nowhere/at/all.db"))


def test_a_storage_whose_driver_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg2", None)
    sweep = make(tmp_path, storage="postgresql://me:pass@host/db")
    message = r"postgresql://me:\*\*\*@host/db: .* pip install psycopg2-binary"
    with pytest.raises(ConfigError, match=message):
        open_study(sweep)


@pytest.mark.parametrize("pruner", ["median", "asha", "hyperband"])
def test_a_pruner_needs_a_budget(tmp_path: Path, pruner: str) -> None:
    open_study(make(tmp_path, pruner=pruner))
    without = replace(make(tmp_path / "b", pruner=pruner), documents=[{}])
    with pytest.raises(ConfigError, match="total_env_steps"):
        open_study(without)


@pytest.mark.parametrize("value", [[64, 64], "relu", None, 3, 0.5, True, {"a": 1}])
def test_values_survive_the_storage(value: Any) -> None:
    assert decode(encode(value)) == value
