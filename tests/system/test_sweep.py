"""Sweeps in processes: killed trials, killed parents, the best configuration, other storages."""

from __future__ import annotations

import json
import os
import signal
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import optuna
import psutil
import pytest
import yaml

from lightning_rl.cli.yaml_check import parse_document
from tests.system.fork_server import KILLED, finish, start_command

pytestmark = pytest.mark.system

WAIT_S = 90.0
SWEEP: dict[str, Any] = {
    "name": "small",
    "config": [],
    "model": {
        "class_path": "PPO",
        "init_args": {
            "env": {"id": "CartPole-v1", "num_envs": 2},
            **{"num_steps": 32, "minibatch_size": 64, "update_epochs": 6, "compile": False},
            "total_env_steps": 1_280,
        },
    },
    "trainer": {
        "logger": False, "eval_episodes": 2, "accelerator": "cpu", "eval_every_env_steps": 256,
    },
    "space": {
        "model.learning_rate": {"log_uniform": [1e-4, 1e-2]},
        "model.gamma": [0.9, 0.99],
    },
    "sampler": "random",
    "trials": 5,
    "workers": 2,
}  # fmt: skip


class Place:
    """A folder in which one sweep is run, again and again."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        self.folder, self.own = folder, folder / "small"
        folder.mkdir(exist_ok=True)
        content = {**SWEEP, "output_dir": str(folder), **changes}
        (folder / "sweep.yaml").write_text(yaml.safe_dump(content))

    def start(self, *options: str) -> BaseProcess:
        words = ["sweep", "--config", str(self.folder / "sweep.yaml"), *options]
        return start_command(words, self.folder / "output.txt")

    def run(self, *options: str) -> int:
        return finish(self.start(*options))

    def results(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads((self.own / "results.json").read_text())
        return found

    def scores(self) -> dict[str, float | None]:
        """Return the score of every configuration."""
        return {json.dumps(row["parameters"]): row["score"] for row in self.results()}

    def states(self) -> list[str]:
        """Return the states in the storage, lost tries included."""
        storage = f"sqlite:///{self.own / 'sweep.db'}"
        study = optuna.load_study(study_name="small", storage=storage)
        return [trial.state.name for trial in study.get_trials()]

    def training(self) -> list[int]:
        """Return the processes of trials that have saved a checkpoint and go on."""
        found = []
        for record in self.own.glob("trial-*/seed-*/run.json"):
            try:
                content = json.loads(record.read_text())
            except ValueError:
                continue
            pid = content["attempts"][-1]["pid"]
            saved = any((record.parent / "checkpoints").glob("*.ckpt"))
            if saved and content["status"] == "running" and psutil.pid_exists(pid):
                found.append(pid)
        return found

    def wait_for_training(self) -> int:
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            running = self.training()
            if running:
                return running[0]
            time.sleep(0.01)
        raise TimeoutError("no trial trains")

    def text(self) -> str:
        return (self.folder / "output.txt").read_text()


@pytest.fixture(scope="module")
def never_killed(tmp_path_factory: pytest.TempPathFactory) -> Place:
    place = Place(tmp_path_factory.mktemp("reference"))
    assert place.run() == 0, place.text()
    return place


def test_a_sweep_runs_its_trials_and_shows_them(never_killed: Place) -> None:
    rows = never_killed.results()
    assert [row["state"] for row in rows] == ["complete"] * 5
    scores = [row["score"] for row in rows]
    assert scores == sorted(scores, reverse=True)
    assert all(row["env_steps"] == 1_280 for row in rows)
    assert len({row["parameters"]["model.learning_rate"] for row in rows}) == 5
    assert never_killed.states() == ["COMPLETE"] * 5
    assert "Best of 5 trials" in never_killed.text()
    assert (never_killed.own / "history.png").stat().st_size > 10_000
    config = never_killed.own / rows[0]["folder"] / "seed-1" / "config.yaml"
    arguments = parse_document(config.read_text(), "config.yaml").data["model"]["init_args"]
    assert arguments["learning_rate"] == rows[0]["parameters"]["model.learning_rate"]


def test_the_best_configuration_gives_the_same_score_again(never_killed: Place) -> None:
    best = never_killed.results()[0]["score"]
    root = never_killed.folder / "again"
    words = ["fit", "--config", str(never_killed.own / "best.yaml"), f"--run.root={root}"]
    assert finish(start_command(words, never_killed.folder / "again.txt")) == 0
    (summary,) = root.glob("*/*/metrics.json")
    assert json.loads(summary.read_text())["best"]["eval/mean_reward"] == best


def test_a_finished_sweep_has_nothing_left_to_do_but_can_be_enlarged(never_killed: Place) -> None:
    before = never_killed.scores()
    assert never_killed.run("--trials", "6") == 0
    assert before.items() < never_killed.scores().items()
    assert len(never_killed.results()) == 6


def test_killed_trials_go_on_and_end_as_if_they_had_not_been(
    never_killed: Place, tmp_path: Path
) -> None:
    place = Place(tmp_path)
    process, killed = place.start(), set()
    while len(killed) < 2:
        pid = place.wait_for_training()
        if pid not in killed:
            os.kill(pid, signal.SIGKILL)
            killed.add(pid)
    assert finish(process) == 0, place.text()
    expected = never_killed.scores()
    assert place.scores().items() <= expected.items()
    assert len(place.results()) == 5
    states = place.states()
    assert states.count("COMPLETE") == 5
    assert states.count("FAIL") == len(states) - 5 == 2
    attempts = [json.loads(path.read_text())["attempts"] for path in place.own.rglob("run.json")]
    resumed = [a for a in attempts if len(a) > 1]
    assert len(resumed) == 2
    assert all(a[1]["start_env_steps"] > 0 for a in resumed)


def test_a_killed_sweep_is_continued_by_the_same_command(
    never_killed: Place, tmp_path: Path
) -> None:
    place = Place(tmp_path)
    process = place.start()
    child = psutil.Process(place.wait_for_training())
    process.kill()
    assert finish(process) == KILLED
    child.wait(WAIT_S)  # it does not outlive its parent
    assert "RUNNING" in place.states()
    assert place.run() == 0, place.text()
    assert "they are continued" in place.text()
    assert "RUNNING" not in place.states()
    assert place.scores().items() <= never_killed.scores().items()
    assert len(place.results()) == 5


def test_a_pruner_stops_what_falls_behind(tmp_path: Path) -> None:
    space = {"model.learning_rate": [1e-9, 3e-3], "seed_everything": [1, 2, 3]}
    place = Place(tmp_path, space=space, sampler="grid", pruner="asha", workers=1)
    assert place.run() == 0, place.text()
    rows = place.results()
    states = [row["state"] for row in rows]
    assert len(rows) == 6
    assert "pruned" in states
    assert "complete" in states
    assert all(row["env_steps"] < 1_280 for row in rows if row["state"] == "pruned")


def test_a_journal_file_serves_as_storage_and_failures_are_contained(tmp_path: Path) -> None:
    """A configuration that cannot be trained fails its trial only."""
    place = Place(
        tmp_path,
        model={"class_path": "DQN", "init_args": {"total_env_steps": 512}},
        space={"model.env.id": ["CartPole-v1", "Pendulum-v1"]},
        sampler="grid",
        workers=1,
        storage=str(tmp_path / "sweep.journal"),
    )
    assert place.run() == 0, place.text()
    by_env = {row["parameters"]["model.env.id"]: row for row in place.results()}
    assert by_env["CartPole-v1"]["state"] == "complete"
    assert by_env["Pendulum-v1"]["state"] == "failed"
    assert "Discrete" in by_env["Pendulum-v1"]["error_message"]
    assert (tmp_path / "sweep.journal").is_file()
    assert not (place.own / "sweep.db").exists()
