"""Cells of a study, their states on disk, and the files of results."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lightning_rl.errors import ConfigError
from lightning_rl.runs.results import ExecutionConfig, ExecutionResult
from lightning_rl.runs.study import (
    Cell,
    CellResult,
    State,
    check_folders,
    check_unchanged,
    folder_name,
    outcome,
    read_results,
    write_results,
)


@pytest.fixture
def cell(tmp_path: Path) -> Cell:
    documents = [{"trainer": {"max_epochs": -1}}, {"model": {"init_args": {"gamma": 0.9}}}]
    execution = ExecutionConfig(3)
    return Cell("E-v0", "PPO", 1, tmp_path / "ppo-e-v0-seed1", documents, execution=execution)


def good(cell: Cell, **values: Any) -> CellResult:
    execution = ExecutionResult([1.0, math.inf], [4, 5])
    return cell.result(success=True, execution=execution, metrics={"env_steps": 9}, **values)


def test_a_cell_goes_from_new_to_done(cell: Cell) -> None:
    assert cell.state() is State.NEW
    cell.store(None)
    assert cell.state() is State.NEW
    cell.run.checkpoints.mkdir()
    (cell.run.checkpoints / "last.ckpt").touch()
    assert cell.state() is State.CUT
    cell.store(cell.result(error_message="no luck"))
    assert cell.state() is State.FAILED
    cell.store(good(cell))
    assert cell.state() is State.DONE
    assert cell.stored_result() == good(cell)


def test_an_unfinished_cell_has_an_outcome_too(cell: Cell) -> None:
    assert outcome(cell).error_message == "not run yet; run the study again to continue"
    cell.run.checkpoints.mkdir(parents=True)
    (cell.run.checkpoints / "last.ckpt").touch()
    assert outcome(cell).error_message == "cut before its end; run the study again to continue"
    assert not outcome(cell).success
    cell.store(good(cell))
    assert outcome(cell) == good(cell)


def test_other_settings_are_refused_once_there_is_something(cell: Cell) -> None:
    other = replace(cell, documents=[{"trainer": {}}, {"model": {"init_args": {"gamma": 0.5}}}])
    cell.store(None)
    check_unchanged([other])
    cell.store(cell.result(error_message="failed before its first checkpoint"))
    check_unchanged([other])
    cell.store(good(cell))
    check_unchanged([cell])
    with pytest.raises(ConfigError, match=r"model\.init_args\.gamma: 0\.9 -> 0\.5") as caught:
        check_unchanged([cell, other])
    assert "trainer.max_epochs: -1 -> None" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_where_a_study_lies_is_no_setting(cell: Cell) -> None:
    moved = [*cell.documents[:1], {**cell.documents[1], "run": {"root": "elsewhere"}}]
    cell.store(good(cell))
    assert not replace(cell, documents=moved).changed()
    assert replace(cell, checkpoint="last").changed()
    assert replace(cell, execution=None).changed()
    assert replace(cell, options=["--model.gamma=1"]).changed()


def test_a_damaged_cell_file_is_named(cell: Cell) -> None:
    cell.store(None)
    (cell.directory / "cell.json").write_text("{")
    with pytest.raises(ConfigError, match=r"cell\.json cannot be read .*remove it"):
        cell.state()


def test_folders(cell: Cell) -> None:
    assert folder_name("PPO", "ALE/Pong-v5", 3) == "ppo-ale-pong-v5-seed3"
    assert folder_name("big net", "my:Env-v0", 0) == "big-net-my-env-v0-seed0"
    with pytest.raises(ConfigError, match="share the folder ppo-e-v0-seed1; give one of them"):
        check_folders([cell, replace(cell, environment="E_v0")])


def test_results_as_json_and_csv(cell: Cell, tmp_path: Path) -> None:
    failed = CellResult("F-v0", "DQN", 2, error_message="a, b", directory="logs/x")
    results = [good(cell, hyperparameters={"gamma": 0.9}), failed]
    write_results(tmp_path / "out", results)
    content = json.loads((tmp_path / "out" / "results.json").read_text())
    keys = (
        *("environment", "algorithm", "seed", "hyperparameters", "success", "error_message"),
        *("metrics", "execution", "directory"),
    )
    assert [tuple(entry) for entry in content] == [keys, keys]
    assert content[0]["execution"]["episode_rewards"] == [1.0, "Infinity"]
    assert content[0]["execution"]["mean_length"] == 4.5
    assert content[1]["execution"] is None
    assert read_results(tmp_path / "out" / "results.json") == results
    with (tmp_path / "out" / "results.csv").open() as file:
        first, second = csv.DictReader(file)
    assert (first["algorithm"], first["score"], first["training_env_steps"]) == ("PPO", "inf", "9")
    assert first["execution_mean_length"] == "4.5"
    assert (second["error_message"], second["success"]) == ("a, b", "False")
    assert second["execution_mean_length"] == ""


def test_a_score_without_execution_is_the_trainings() -> None:
    assert CellResult("E", "A", 1, metrics={"mean_reward": 7.0}).score == 7.0
    assert math.isnan(CellResult("E", "A", 1).score)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read"),
        ("[", "expected the results.json of a study"),
        ("3", "expected a list with one object per cell"),
        ("[3]", "expected a list with one object per cell"),
        ('[{"environment": "E"}]', "expected a list with one object per cell"),
        ('[{"environmen": "E"}]', "did you mean 'environment'"),
    ],
)
def test_a_file_that_holds_no_results(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "r.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_results(path)
