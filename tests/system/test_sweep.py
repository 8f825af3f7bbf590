"""Sweeps in processes: killed trials, killed parents, the best configuration, other storages."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Collection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import optuna
import psutil
import pytest
import yaml
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args
from wandb.sdk.lib.config_util import save_config_file_from_dict

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
        """Return the processes of trials that have saved a checkpoint and were never cut."""
        found = []
        for record in self.own.glob("trial-*/seed-*/run.json"):
            try:
                content = json.loads(record.read_text())
            except ValueError:
                continue
            attempts = content["attempts"]
            pid = attempts[-1]["pid"]
            saved = any((record.parent / "checkpoints").glob("*.ckpt"))
            going_on = content["status"] == "running" and len(attempts) == 1
            if saved and going_on and psutil.pid_exists(pid):
                found.append(pid)
        return found

    def wait_for_training(self, but: Collection[int] = ()) -> int:
        """Wait for a process as of `training`, other than those of `but`."""
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            running = [pid for pid in self.training() if pid not in but]
            if running:
                return running[0]
            time.sleep(0.01)
        raise TimeoutError("no trial trains")

    def score_of_the_best_again(self) -> float:
        """Run the best configuration by itself and return its score."""
        root = self.folder / "again"
        words = ["fit", "--config", str(self.own / "best.yaml"), f"--run.root={root}"]
        assert finish(start_command(words, self.folder / "again.txt")) == 0
        (summary,) = root.glob("*/*/metrics.json")
        return float(json.loads(summary.read_text())["best"]["eval/mean_reward"])

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
    assert never_killed.score_of_the_best_again() == never_killed.results()[0]["score"]


def test_a_finished_sweep_has_nothing_left_to_do_but_can_be_enlarged(never_killed: Place) -> None:
    before = never_killed.scores()
    assert never_killed.run("--trials", "6") == 0
    assert before.items() < never_killed.scores().items()
    assert len(never_killed.results()) == 6


@pytest.mark.parametrize(("trials", "kills"), [(5, 2), pytest.param(20, 5, marks=pytest.mark.slow)])
def test_killed_trials_go_on_and_end_as_if_they_had_not_been(
    trials: int, kills: int, never_killed: Place, tmp_path: Path
) -> None:
    assert never_killed.run("--trials", str(max(trials, len(never_killed.results())))) == 0
    place = Place(tmp_path, trials=trials)
    process, killed = place.start(), set[int]()
    for _ in range(kills):
        pid = place.wait_for_training(but=killed)
        os.kill(pid, signal.SIGKILL)
        killed.add(pid)
    assert finish(process) == 0, place.text()
    assert place.scores().items() <= never_killed.scores().items()
    assert len(place.results()) == len(place.scores()) == trials
    states = place.states()
    assert states.count("COMPLETE") == trials
    assert states.count("FAIL") == len(states) - trials == kills
    attempts = [json.loads(path.read_text())["attempts"] for path in place.own.rglob("run.json")]
    resumed = [a for a in attempts if len(a) > 1]
    assert len(resumed) == kills
    assert all(a[1]["start_env_steps"] > 0 for a in resumed)
    assert place.score_of_the_best_again() == place.results()[0]["score"]


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


def agent_command(exported: Path, chosen: dict[str, Any]) -> list[str]:
    """Return what `wandb agent` runs for these values: its `_command_run`, without the server."""
    sweep = yaml.safe_load(exported.read_text())
    command = {"args": {key: {"value": value} for key, value in chosen.items()}}
    values = {**create_sweep_command_args(command), "env": ["/usr/bin/env"]}
    words = []
    for word in create_sweep_command(sweep["command"]):
        is_variable = word.startswith("${") and word.endswith("}")
        words += values[word[2:-1]] if is_variable else [word]
    return words


def test_the_command_of_a_wandb_agent_trains_and_reports(tmp_path: Path) -> None:
    """Offline, as a process of its own, in the environment that the agent gives it."""
    place = Place(tmp_path)
    assert place.run("--export_wandb", str(tmp_path / "exported.yaml")) == 0
    chosen = {"model.learning_rate": 0.002, "model.gamma": 0.9}
    words = agent_command(tmp_path / "exported.yaml", chosen)
    parameters = tmp_path / "config-abc12345.yaml"
    save_config_file_from_dict(parameters, {key: {"value": v} for key, v in chosen.items()})
    own = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    own |= {"WANDB_MODE": "offline", "WANDB_SWEEP_ID": "s1", "WANDB_RUN_ID": "abc12345"}
    own |= {"WANDB_SWEEP_PARAM_PATH": str(parameters)}
    own |= {f"WANDB_{kind}_DIR": str(tmp_path / kind) for kind in ("DATA", "CACHE", "CONFIG")}
    done = subprocess.run(
        words, cwd=tmp_path, env={**os.environ, **own}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (run,) = (tmp_path / "logs").glob("*/*")
    assert json.loads((run / "metrics.json").read_text())["training"]["env_steps"] == 1_280
    record = json.loads((run / "run.json").read_text())
    assert record["trackers"]["WandbLogger"]["id"] == "abc12345"
    arguments = yaml.safe_load((run / "config.yaml").read_text())["model"]["init_args"]
    assert (arguments["learning_rate"], arguments["gamma"]) == (0.002, 0.9)
    (offline,) = run.glob("wandb/offline-run-*/run-abc12345.wandb")
    content = offline.read_bytes()
    assert content.count(b"eval/mean_reward") >= 5
    assert b"model.learning_rate" in content  # what the sweep's own charts go by
