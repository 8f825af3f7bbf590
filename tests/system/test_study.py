"""Studies in processes: killed workers, killed parents, and what a second call makes of them."""

from __future__ import annotations

import csv
import json
import os
import signal
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from tests.system.fork_server import KILLED, finish, start_command

pytestmark = pytest.mark.system

WAIT_S = 90.0
PPO = {
    "class_path": "PPO",
    "init_args": {"num_steps": 32, "minibatch_size": 32, "update_epochs": 4, "compile": False},
}
DQN = {
    "class_path": "DQN",
    "init_args": {
        **{"learning_starts": 100, "capacity": 1_000, "batch_size": 32, "train_frequency": 4},
        **{"env_steps_per_iteration": 100, "compile": False},
    },
}
STUDY: dict[str, Any] = {
    "name": "small",
    "environments": ["CartPole-v1"],
    "models": [PPO, DQN],
    "seeds": [1, 2],
    "total_env_steps": 1_200,
    "execution": {"num_episodes": 3},
    "trainer": {"logger": False, "eval_episodes": 2, "accelerator": "cpu"},
    "workers": 2,
}
CELLS = tuple(f"{model}-cartpole-v1-seed{seed}" for model in ("ppo", "dqn") for seed in (1, 2))


class Place:
    """A folder in which one study is run, again and again."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        content = {**STUDY, "output_dir": str(folder), **changes}
        (folder / "study.yaml").write_text(yaml.safe_dump(content))

    def start(self, *options: str) -> BaseProcess:
        words = ["study", "--config", str(self.folder / "study.yaml"), *options]
        return start_command(words, self.folder / "output.txt")

    def run(self, *options: str) -> int:
        return finish(self.start(*options))

    def cell(self, name: str) -> Path:
        return self.folder / "small" / name

    def record(self, name: str) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads((self.cell(name) / "run.json").read_text())
        except (OSError, ValueError):
            return {}
        return found

    def running(self) -> dict[str, int]:
        """Return the process of each cell that trains and has saved already."""
        found = {}
        for name in CELLS:
            record = self.record(name)
            saved = any((self.cell(name) / "checkpoints").glob("*.ckpt"))
            if saved and record.get("status") == "running":
                attempt = record["attempts"][-1]
                if attempt["start_env_steps"] is not None:
                    found[name] = attempt["pid"]
        return {name: pid for name, pid in found.items() if psutil.pid_exists(pid)}

    def results(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(
            (self.folder / "small" / "results.json").read_text()
        )
        return found

    def text(self) -> str:
        return (self.folder / "output.txt").read_text()


def until(condition: Callable[[], Any]) -> Any:
    """Wait for a condition to hold and return it."""
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise TimeoutError("it never came to that")


def numbers(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return results without place and wall clock."""
    for result in results:
        result.pop("directory")
        result["metrics"].pop("wall_time_s")
    return results


@pytest.fixture(scope="module")
def never_killed(tmp_path_factory: pytest.TempPathFactory) -> Place:
    place = Place(tmp_path_factory.mktemp("reference"))
    assert place.run() == 0, place.text()
    return place


def test_results_have_one_object_per_cell_in_the_promised_form(never_killed: Place) -> None:
    results = never_killed.results()
    assert [(r["algorithm"], r["environment"], r["seed"]) for r in results] == [
        ("PPO", "CartPole-v1", 1),
        ("PPO", "CartPole-v1", 2),
        ("DQN", "CartPole-v1", 1),
        ("DQN", "CartPole-v1", 2),
    ]
    for result, name in zip(results, CELLS, strict=True):
        assert set(result) == {
            *("environment", "algorithm", "seed", "hyperparameters", "success"),
            *("error_message", "metrics", "execution", "directory"),
        }
        assert (result["success"], result["error_message"]) == (True, None)
        assert result["execution"]["total_episodes"] == 3
        assert result["metrics"]["env_steps"] >= 1_200
        assert result["hyperparameters"]["env"]["id"] == result["environment"]
        assert result["directory"] == str(never_killed.cell(name))
        assert (never_killed.cell(name) / "config.yaml").is_file()
        assert len(never_killed.record(name)["attempts"]) == 1
    with (never_killed.folder / "small" / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["score"]) for row in rows] == [r["execution"]["mean_reward"] for r in results]
    for picture in ("learning_curves.png", "iqm.png", "performance_profiles.png"):
        assert (never_killed.folder / "small" / picture).stat().st_size > 10_000
    assert "[4/4]" in never_killed.text()
    assert "IQM" in never_killed.text()


def test_a_finished_study_is_not_run_again_and_is_held_against_a_reference(
    never_killed: Place, tmp_path: Path
) -> None:
    before = {name: (never_killed.cell(name) / "cell.json").stat().st_mtime_ns for name in CELLS}
    better = never_killed.results()
    for result in better[:2]:
        rewards = result["execution"]["episode_rewards"]
        result["execution"]["episode_rewards"] = [reward + 500.0 for reward in rewards]
    (tmp_path / "better.json").write_text(json.dumps(better))
    assert never_killed.run("--reference", str(tmp_path / "better.json")) == 1
    after = {name: (never_killed.cell(name) / "cell.json").stat().st_mtime_ns for name in CELLS}
    assert after == before
    assert "4 of 4 cells are done already" in never_killed.text()
    assert "regression: PPO on CartPole-v1: -" in never_killed.text()
    assert "no difference: DQN on CartPole-v1" in never_killed.text()


def test_killed_worker_killed_parent_and_two_more_calls(
    never_killed: Place, tmp_path: Path
) -> None:
    place = Place(tmp_path / "killed")

    # A worker dies: its cell is recorded, the others go on.
    first = place.start()
    victim, pid = until(lambda: next(iter(place.running().items()), None))
    os.kill(pid, signal.SIGKILL)
    assert finish(first) == 1
    by_directory = {Path(r["directory"]).name: r for r in place.results()}
    assert set(by_directory) == set(CELLS)
    failed = [name for name, result in by_directory.items() if not result["success"]]
    assert failed == [victim]
    assert "killed by SIGKILL" in by_directory[victim]["error_message"]
    assert "killed by SIGKILL" in (place.cell(victim) / "training.log").read_text()
    assert by_directory[victim]["execution"] is None

    # The parent dies while it continues that cell: so does its worker, at once.
    second = place.start()
    again = until(lambda: next((p for n, p in place.running().items() if n == victim), None))
    assert again != pid
    second.kill()
    assert finish(second) == KILLED
    gone = time.monotonic()
    until(lambda: not psutil.pid_exists(again))
    assert time.monotonic() - gone < 2.0
    assert place.record(victim)["status"] == "running", "it was cut before its end"

    # A third call does what is left and nothing else, and it all comes to the same.
    assert place.run() == 0, place.text()
    attempts = {name: len(place.record(name)["attempts"]) for name in CELLS}
    assert attempts == {name: 3 if name == victim else 1 for name in CELLS}
    starts = [a["start_env_steps"] for a in place.record(victim)["attempts"]]
    assert starts[0] == 0
    assert starts[1] > 0
    assert numbers(place.results()) == numbers(never_killed.results())


def test_a_stopped_study_saves_and_goes_on(never_killed: Place, tmp_path: Path) -> None:
    place = Place(tmp_path / "stopped", seeds=[2])
    process = place.start()
    pids = list(until(place.running).values())
    os.kill(process.pid or 0, signal.SIGTERM)
    assert finish(process) == 128 + signal.SIGTERM
    assert not any(psutil.pid_exists(pid) for pid in pids)
    assert "stopped by SIGTERM" in place.text()
    interrupted = [name for name in CELLS if place.record(name).get("status") == "interrupted"]
    assert interrupted
    unfinished = [result for result in place.results() if not result["success"]]
    assert all("run the study again" in result["error_message"] for result in unfinished)
    assert place.run() == 0
    expected = [result for result in never_killed.results() if result["seed"] == 2]
    assert numbers(place.results()) == numbers(expected)


def test_fit_of_several_seeds(tmp_path: Path) -> None:
    model = {"class_path": "PPO", "init_args": {**PPO["init_args"], "total_env_steps": 128}}
    content = {"model": model, "trainer": {**STUDY["trainer"], "test_episodes": 4}}
    (tmp_path / "fit.yaml").write_text(yaml.safe_dump(content))
    words = ["fit", "--config", str(tmp_path / "fit.yaml"), "--run.root", str(tmp_path)]
    words += ["--run.experiment", "e", "--run.name", "r", "--run.seeds", "2", "--workers", "2"]
    assert finish(start_command([*words, "--seed_everything", "5"], tmp_path / "output.txt")) == 0
    folder = tmp_path / "e" / "r"
    results = json.loads((folder / "results.json").read_text())
    assert [r["seed"] for r in results] == [5, 6]
    assert [r["execution"]["total_episodes"] for r in results] == [4, 4]
    scores = [r["execution"]["mean_reward"] for r in results]
    (summary,) = json.loads((folder / "summary.json").read_text())
    assert summary["iqm"] == pytest.approx(sum(scores) / 2)
    assert summary["interval"] == pytest.approx(sorted(scores))
    text = (tmp_path / "output.txt").read_text()
    assert f"{min(scores):.2f} to {max(scores):.2f}" in text
    for seed in (5, 6):
        saved = yaml.safe_load((folder / f"seed{seed}" / "config.yaml").read_text())
        assert (saved["seed_everything"], saved["run"]["seeds"]) == (seed, 1)
        assert saved["run"]["name"] == f"seed{seed}"


def test_failures_are_contained(tmp_path: Path) -> None:
    place = Place(
        tmp_path / "failing",
        environments=[
            "NoSuchEnvironment-v1",
            {"id": "CartPole-v1", "kwargs": {"no_such_argument": 1}, "name": "wrong"},
            {"id": "CartPole-v1", "overrides": {"total_env_steps": 64}},
        ],
        models=[PPO],
        seeds=[1],
    )
    assert place.run() == 1
    unknown, wrong, good = place.results()
    assert unknown["error_message"].startswith("unknown environment 'NoSuchEnvironment-v1'")
    assert "no_such_argument" in wrong["error_message"]
    for result in (unknown, wrong):
        assert result["success"] is False
        assert result["execution"] is None
        assert result["hyperparameters"]["num_steps"] == 32
        log = (Path(result["directory"]) / "training.log").read_text()
        assert "Traceback (most recent call last)" in log
        assert result["error_message"] in log
    assert good["success"] is True
    assert good["metrics"]["env_steps"] == 64
    assert "failed: PPO on NoSuchEnvironment-v1, seed 1: unknown environment" in place.text()
