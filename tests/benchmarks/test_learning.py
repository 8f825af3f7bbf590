"""The gates of learning: their statistics, their table, and the plan of runs."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.learning import run as run_module
from benchmarks.learning.gates import GATES, SOURCES, STATISTICS, Gate
from benchmarks.learning.run import Run, RunError, digest, execute, is_current, main
from benchmarks.learning.table import (
    missed,
    regressions,
    render,
    scores,
)
from tests.benchmarks.stored import GATE, store

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("gate", [g for g in GATES if g.reference], ids=lambda gate: gate.config)
def test_every_reference_names_its_source(gate: Gate) -> None:
    assert gate.reference
    assert gate.reference.source in SOURCES


@pytest.mark.parametrize("gate", GATES, ids=lambda gate: gate.config)
def test_shipped_configurations_train_what_their_gate_says(gate: Gate) -> None:
    config = yaml.safe_load((ROOT / "configs" / f"{gate.config}.yaml").read_text())
    arguments = config["model"]["init_args"]
    name = config["model"]["class_path"].rsplit(".", 1)[-1].lower()
    assert name == gate.config.split("/")[0].replace("_", "")
    assert arguments["env"]["id"] == gate.env
    assert 0 < arguments["total_env_steps"] <= gate.env_steps
    assert gate.statistic in STATISTICS


def test_the_cheetah_is_trained_with_normalisation() -> None:
    config = yaml.safe_load((ROOT / "configs/ppo/half_cheetah.yaml").read_text())
    env = config["model"]["init_args"]["env"]
    assert env["normalize_observation"] is True
    assert env["normalize_reward"] is True


def test_a_gate_needs_all_its_seeds() -> None:
    assert GATE.is_met([100.0] * 5)
    assert not GATE.is_met([500.0] * 4)
    assert not GATE.is_met([100.0] * 4 + [99.0])


def test_a_gate_on_the_iqm_forgives_one_bad_seed() -> None:
    scores = [110.0, 110.0, 0.0, 110.0, 110.0]
    assert not GATE.is_met(scores)
    gate = Gate(GATE.config, GATE.env, 100, 1_000, GATE.reference, statistic="IQM")
    assert gate.is_met(scores)


def test_worse_than_earlier_results_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now, earlier = tmp_path / "now", tmp_path / "earlier"
    for folder, first in ((now, 480.0), (earlier, 500.0)):
        folder.mkdir()
        store(folder, "ppo/cartpole", [first] * 5)
        store(folder, "dqn/cartpole", [500.0, 495.0, 490.0, 485.0, 480.0])
    store(earlier, "ppo/acrobot", [-70.0])
    assert regressions(earlier, now) == ["ppo/cartpole: −20.00 to −20.00"]
    assert regressions(now, earlier) == []
    use_folder(monkeypatch, now)
    assert main(["--table", "--only", "ppo/cartpole"]) == 0
    assert main(["--table", "--only", "ppo/cartpole", "--against", str(earlier)]) == 1
    assert "regression: ppo/cartpole" in capsys.readouterr().err


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with one configuration, whose results go into it."""
    (tmp_path / "configs/ppo").mkdir(parents=True)
    (tmp_path / "configs/ppo/toy.yaml").write_text("# A toy.\nmodel: {class_path: PPO}\n")
    monkeypatch.setattr(run_module, "ROOT", tmp_path)
    monkeypatch.setattr(
        run_module, "result_path", lambda config, seed: tmp_path / "results" / f"{seed}.json"
    )
    return tmp_path


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """What the command line was called with; a `fit` leaves a finished run behind."""
    made: list[tuple[str, ...]] = []

    def call(*arguments: str) -> None:
        made.append(arguments)
        options = dict(zip(arguments[1::2], arguments[2::2], strict=False))
        if arguments[0] == "fit":
            folder = Path(options["--run.root"], options["--run.experiment"], options["--run.name"])
            finish(folder)
        if arguments[0] == "test":
            write_test(options["--output"], lengths=[500] * 100)

    monkeypatch.setattr(run_module, "call", call)
    return made


def write_test(output: str, lengths: list[int]) -> None:
    """Write what `test` leaves behind."""
    scores = dict.fromkeys(run_module.KEPT_STATISTICS, 3.0)
    Path(output).write_text(json.dumps({**scores, "episode_lengths": lengths}))


def finish(folder: Path, status: str = "finished") -> None:
    """Write what a run leaves behind."""
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    record = {
        "status": status,
        "env_steps": 1_024,
        "attempts": [{}],
        "compiled": False,
        "git_commit": "abc",
        "versions": {},
        "hardware": {"cpu": "Abacus"},
    }
    (folder / "run.json").write_text(json.dumps(record))
    evaluations = [
        {"env_steps": 512, "episode": 9, "eval/mean_reward": 3.0, "eval/std_reward": 1.0},
        {"env_steps": 1_024, "episode": 17, "eval/mean_reward": 2.0, "eval/std_reward": 1.0},
    ]
    metrics = {
        "training": {"wall_time_s": 1.0},
        "best": {"env_steps": 512},
        "evaluations": evaluations,
    }
    (folder / "metrics.json").write_text(json.dumps(metrics))


def test_comments_do_not_change_a_configuration(checkout: Path) -> None:
    first = digest("ppo/toy")
    path = checkout / "configs/ppo/toy.yaml"
    path.write_text("model:\n  class_path: PPO # the same\n")
    assert digest("ppo/toy") == first
    path.write_text("model: {class_path: DQN}\n")
    assert digest("ppo/toy") != first


def test_a_run_is_trained_and_tested_once(checkout: Path, calls: list[tuple[str, ...]]) -> None:
    run = Run(GATE, 2, checkout / "logs")
    execute(run)
    assert [arguments[0] for arguments in calls] == ["fit", "test", "test"]
    assert calls[0][1:5] == ("--config", "ppo/toy", "--seed_everything", "2")
    assert [Path(arguments[2]).name for arguments in calls[1:]] == ["best.ckpt", "last.ckpt"]
    assert {arguments[6] for arguments in calls[1:]} == {"100"}
    stored = json.loads(run.result.read_text())
    assert stored["best"]["env_steps"] == 512
    assert stored["last"]["env_steps"] == 1_024
    assert stored["evaluations"] == [[512, 3.0], [1_024, 2.0]]
    execute(run)
    assert len(calls) == 3


def test_a_changed_configuration_is_trained_again(
    checkout: Path, calls: list[tuple[str, ...]]
) -> None:
    run = Run(GATE, 1, checkout / "logs")
    execute(run)
    assert is_current(run)
    (checkout / "configs/ppo/toy.yaml").write_text("model: {class_path: PPO, more: 1}\n")
    assert not is_current(run)
    execute(run)
    assert [arguments[0] for arguments in calls] == ["fit", "test", "test"] * 2


def test_a_trained_run_without_result_is_only_tested(
    checkout: Path, calls: list[tuple[str, ...]]
) -> None:
    run = Run(GATE, 1, checkout / "logs")
    execute(run)
    run.result.unlink()
    calls.clear()
    execute(run)
    assert [arguments[0] for arguments in calls] == ["test", "test"]


def test_an_exact_gate_is_judged_by_the_greedy_policys_value(
    checkout: Path, calls: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "greedy_value", lambda path: 0.5 + (path.stem == "best"))
    run = Run(dataclasses.replace(GATE, measure="exact"), 1, checkout / "logs")
    execute(run)
    stored = json.loads(run.result.read_text())
    assert (stored["best"]["exact_value"], stored["last"]["exact_value"]) == (1.5, 0.5)
    assert stored["best"]["mean_reward"] == 3.0
    assert scores(run.gate, [stored]) == [1.5]


@pytest.mark.parametrize("lengths", [[500] * 99, [500] * 99 + [501], [10_000] * 100])
def test_a_result_that_cannot_be_is_refused(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, lengths: list[int]
) -> None:
    monkeypatch.setattr(run_module, "call", lambda *arguments: write_test(arguments[4], lengths))
    run = Run(GATE, 1, checkout / "logs")
    finish(run.directory)
    with pytest.raises(RunError, match="expected 100 episodes of at most 500 steps"):
        run_module.collect(run)


def test_a_run_during_which_the_package_changes_is_refused(
    checkout: Path, calls: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(GATE, 1, checkout / "logs")
    module = checkout / "lightning_rl/new.py"
    module.parent.mkdir()
    call = run_module.call

    def call_and_edit(*arguments: str) -> None:
        call(*arguments)
        module.write_text(f"value = {len(calls)}\n")

    monkeypatch.setattr(run_module, "call", call_and_edit)
    with pytest.raises(RunError, match="source changed"):
        execute(run)
    assert not run.result.exists()
    monkeypatch.setattr(run_module, "call", call)
    calls.clear()
    execute(run)
    assert [arguments[0] for arguments in calls] == ["fit", "test", "test"]


def test_a_run_that_was_cut_is_resumed(tmp_path: Path) -> None:
    run = Run(GATE, 1, tmp_path)
    finish(run.directory, status="running")
    (run.directory / "checkpoints/env_steps=512.ckpt").touch()
    assert run.training_command() == ["resume", str(tmp_path / "ppo/toy/1")]


def test_a_run_that_was_cut_before_its_first_checkpoint_starts_again(tmp_path: Path) -> None:
    run = Run(GATE, 1, tmp_path)
    finish(run.directory, status="running")
    assert (run.training_command() or [])[0] == "fit"
    assert not run.directory.exists()


@pytest.mark.parametrize(("scores", "code"), [([500.0] * 5, 0), ([400.0] * 5, 1)])
def test_the_exit_code_tells_of_a_missed_gate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scores: list[float], code: int
) -> None:
    store(tmp_path, "ppo/cartpole", scores)
    use_folder(monkeypatch, tmp_path)
    assert main(["--table", "--only", "ppo/cartpole"]) == code


def test_a_failed_run_is_reported_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store(tmp_path, "ppo/cartpole", [500.0] * 5)
    use_folder(monkeypatch, tmp_path)
    seen = []

    def fail_first(run: Run) -> None:
        seen.append(run.seed)
        if run.seed == 1:
            raise RunError("exit 1: out of luck")

    monkeypatch.setattr(run_module, "execute", fail_first)
    assert main(["--only", "ppo/cartpole", "--seeds", "2"]) == 1
    assert seen == [1, 2]
    assert "out of luck" in capsys.readouterr().err


def use_folder(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Let `main` read its results from `folder` and leave the document alone."""
    replaced: dict[str, Callable[[], Any]] = {
        "missed": lambda: missed(folder),
        "render": lambda: render(folder),
        "update_document": lambda: None,
        "draw": lambda *_: None,
        "regressions": lambda earlier: regressions(earlier, folder),
    }
    for name, function in replaced.items():
        monkeypatch.setattr(run_module, name, function)
