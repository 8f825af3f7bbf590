"""The study command without training: mistakes, help, what is shown, comparison."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from lightning_rl.cli import cells, report
from lightning_rl.cli.report import compare_with, scores_by_pair, show_table, summarise
from lightning_rl.cli.study import duration, run_plan, show_plan
from lightning_rl.cli.study_file import Plan
from lightning_rl.errors import ConfigError
from lightning_rl.runs import statistics
from lightning_rl.runs.results import ExecutionResult
from lightning_rl.runs.study import Cell, CellResult

Run = Callable[..., Any]
STUDY = {
    "name": "demo",
    "environments": ["CartPole-v1"],
    "models": ["PPO"],
    "total_env_steps": 1_000,
}


def result(algorithm: str, seed: int, score: float | None, environment: str = "E-v0") -> CellResult:
    if score is None:
        return CellResult(environment, algorithm, seed, error_message="broken", directory="d")
    execution = ExecutionResult([score, score], [1, 1])
    metrics = {"wall_time_s": 2.0}
    return CellResult(
        environment, algorithm, seed, success=True, execution=execution, metrics=metrics
    )


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([], "study: expected one file, as in `lightning-rl study --config FILE`"),
        (["s.yaml"], "study: expected one file"),
        (["--config", "t.yaml"], "no such file or shipped configuration"),
        (["--config", "s.yaml", "--worker", "2"], "unknown option --worker; did you mean 'worke"),
        (["--config", "s.yaml", "--workers", "two"], "workers: expected a whole number"),
        (["--config", "s.yaml", "--seeds", "0"], "seeds: expected a whole number of at least 1"),
        (["--config", "s.yaml", "--name", "a/b"], "name: expected the name of one folder"),
        (["--config", "s.yaml", "--reference", "no.json"], "no.json: cannot be read"),
        (["--config", "s.yaml", "--reference", "none.json"], "study: PPO on CartPole-v1"),
        (
            ["--config", "s.yaml", "--reference", "odd.json"],
            "odd.json: CellResult: expected entries among",
        ),
        (["--config", "s.yaml", "--output_dir", "/proc/x"], "cannot write to /proc/x/demo: "),
        (["--config", "s.yaml", "--ckpt_path", "x"], "is an option of fit"),
    ],
)
def test_mistakes(run: Run, tokens: list[str], message: str) -> None:
    Path("s.yaml").write_text(yaml.safe_dump(STUDY))
    Path("none.json").write_text("[]")
    Path("odd.json").write_text('[{"a": 1}]')
    outcome = run("study", *tokens)
    assert outcome.code == 2
    assert message in outcome.message
    assert not Path("logs").exists()


def test_a_mistake_in_the_file_has_its_line(run: Run) -> None:
    Path("s.yaml").write_text(yaml.safe_dump(STUDY) + "seed: 3\n")
    outcome = run("study", "--config", "s.yaml")
    assert outcome.code == 2
    assert "s.yaml:7: seed: unknown key 'seed' of a study; did you mean 'seeds'?" in outcome.message


def test_help(run: Run) -> None:
    outcome = run("study", "--help")
    assert outcome.code == 0
    for option in ("--config", "--workers", "--dry_run", "--reference", "--run.root"):
        assert option in outcome.out


def finished_plan(folder: Path, scores: list[float]) -> Plan:
    """A study of which all but the last cell are done."""
    cells = []
    for seed in range(1, len(scores) + 2):
        documents = [{}, {"model": {"init_args": {"total_env_steps": 600}}}]
        cells.append(Cell("E-v0", "PPO", seed, folder / "demo" / str(seed), documents))
    for cell, score in zip(cells, scores, strict=False):
        stored = result("PPO", cell.seed, score)
        stored.metrics = {"env_steps": 600, "wall_time_s": 120.0}
        cell.store(stored)
    return Plan("demo", folder / "demo", cells)


def test_a_dry_run_estimates_from_what_is_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = finished_plan(tmp_path, [1.0, 2.0])
    assert show_plan(plan) == 0
    first, _, last, count, total = capsys.readouterr().out.splitlines()
    assert first.endswith("PPO on E-v0, seed 1: done")
    assert last.endswith("PPO on E-v0, seed 3: to run, about 2 min")
    assert count == "3 cells, 1 to run, 1 at a time"
    assert total == "estimated time: 2 min"


def test_a_dry_run_tries_cells_that_nothing_is_known_of(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cells, "PROBE_S", 1)
    models = ["QLearning", "DQN"]  # a table has no `compile` to switch off
    study = {**STUDY, "models": models, "environments": [{"id": "CliffWalking-v1"}]}
    Path("s.yaml").write_text(yaml.safe_dump({**study, "total_env_steps": 10_000_000}))
    outcome = run("study", "--config", "s.yaml", "--dry_run")
    assert outcome.code == 0
    table, network = (line for line in outcome.out.splitlines() if ": to run, about" in line)
    assert "QLearning on" in table
    assert "DQN on" in network
    assert re.search(r"about \d+ min|about \d+ h", table), "10^7 env steps are no matter of seconds"
    assert "estimated time: " in outcome.out
    assert not Path("logs").exists(), "what was tried leaves nothing behind"


def test_a_dry_run_says_what_will_fail(run: Run) -> None:
    Path("s.yaml").write_text(yaml.safe_dump({**STUDY, "environments": ["NoSuch-v0"]}))
    outcome = run("study", "--config", "s.yaml", "--dry_run")
    assert ": to run, but fails: unknown environment 'NoSuch-v0'" in outcome.out


def test_a_study_goes_on_when_nobody_reads_its_output(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = {**STUDY, "environments": ["NoSuch-v0"], "seeds": 2}
    Path("s.yaml").write_text(yaml.safe_dump(study))
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as unread, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", unread)
        assert run("study", "--config", "s.yaml").code == 1
    results = json.loads(Path("logs/demo/results.json").read_text())
    messages = [cell["error_message"] for cell in results]
    assert ["unknown environment" in message for message in messages] == [True, True]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0.4 s"), (42, "42 s"), (150, "2 min"), (7_500, "2 h 5 min")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_run_directory_is_no_place_for_a_study(tmp_path: Path) -> None:
    plan = finished_plan(tmp_path, [1.0])
    (tmp_path / "demo" / "run.json").write_text("{}")
    with pytest.raises(ConfigError, match="holds a run; give the study another name"):
        run_plan(plan)


def test_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    results = [result("PPO", seed, float(seed)) for seed in (1, 2, 3)]
    results += [result("DQN", 1, None), result("DQN", 2, 8.0), result("SAC", 1, None)]
    show_table(summarise(results))
    lines = [line.split("│")[1:-1] for line in capsys.readouterr().out.splitlines() if "│" in line]
    cells = [[cell.strip() for cell in line] for line in lines]
    assert cells == [
        ["E-v0", "PPO", "3 of 3", "2.00", "1.00 to 3.00", "2.00", "1.00", "3.00", "6 s"],
        ["E-v0", "DQN", "1 of 2", "8.00", "-", "8.00", "8.00", "8.00", "2 s"],
        ["E-v0", "SAC", "0 of 1", "-", "-", "-", "-", "-", "0 s"],
    ]


def test_without_rliable_a_study_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(statistics.importlib.util, "find_spec", lambda _name: None)
    results = [result("PPO", 1, 1.0), result("PPO", 2, 2.0)]
    show_table(summarise(results))
    report.draw(tmp_path, results)
    out = capsys.readouterr().out
    assert "1.50" in out
    assert out.splitlines()[-1] == (
        "no pictures: intervals and performance profiles need a package: "
        "pip install 'lightning-rl[results]'"
    )
    plan = finished_plan(tmp_path, [1.0])
    (tmp_path / "r.json").write_text("[]")
    plan.reference = tmp_path / "r.json"
    with pytest.raises(ConfigError, match="lightning-rl"):
        run_plan(plan)


def test_comparison(capsys: pytest.CaptureFixture[str]) -> None:
    def cells(algorithm: str, *scores: float | None) -> list[CellResult]:
        return [result(algorithm, seed, score) for seed, score in enumerate(scores)]

    reference = [
        *cells("PPO", 5.0, 6.0, 7.0),
        *cells("DQN", 5.0, 6.0, 7.0),
        *cells("SAC", 5.0, 6.0, 7.0),
        *cells("TD3", 5.0, 6.0),
        *cells("C51", 5.0, 6.0),
    ]
    now = [
        *cells("PPO", 1.0, 2.0, 3.0),
        *cells("DQN", 5.5, 6.0, 7.5),
        *cells("SAC", 15.0, 16.0, 17.0),
        *cells("TD3", None, None),
    ]
    assert compare_with(now, reference) == ["PPO on E-v0", "TD3 on E-v0"]
    words = [line.split(":")[0] for line in capsys.readouterr().out.splitlines()]
    assert words == ["regression", "no difference", "better", "regression"]
    with pytest.raises(ConfigError, match="no environment and algorithm of this study"):
        compare_with(now, cells("PQN", 1.0))


def test_scores_leave_out_what_failed_or_is_not_finite() -> None:
    results = [result("A", 1, 1.0), result("A", 2, None), result("A", 3, float("nan"))]
    assert scores_by_pair(results) == {("E-v0", "A"): [1.0]}


def test_the_reasons_for_which_a_process_left_no_result() -> None:
    from lightning_rl.cli.study import _reason

    assert "killed by SIGKILL (the kernel" in _reason(-signal.SIGKILL)
    assert _reason(-signal.SIGSEGV) == "its process was killed by SIGSEGV"
    assert _reason(143) == "stopped by SIGTERM after saving its state"
    assert _reason(3) == "its process ended with exit code 3 and no result"


def test_a_failed_process_is_recorded_with_its_arguments(tmp_path: Path) -> None:
    from lightning_rl.cli.cells import lost

    documents: list[dict[str, Any]] = [{}, {"model": {"init_args": {"gamma": 0.5}}}]
    cell = Cell("E-v0", "PPO", 1, tmp_path / "cell", documents)
    cell.store(None)
    stored = lost(cell, "its process was killed by SIGKILL")
    assert cell.stored_result() == stored
    assert stored.hyperparameters == {"gamma": 0.5}
    assert "ERROR lightning_rl: its process was killed" in cell.run.log.read_text()
    content = json.loads((cell.directory / "cell.json").read_text())
    assert content["result"]["error_message"] == "its process was killed by SIGKILL"
