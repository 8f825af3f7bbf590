"""Which runs are made, in which order, and what becomes of their output; nothing is measured."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from benchmarks.speed import make_envs, run
from benchmarks.speed.libraries import ENVIRONMENTS, Library


@pytest.fixture
def _installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every peer's interpreter exist."""
    monkeypatch.setattr(Library, "interpreter", lambda self: Path(__file__))


@pytest.mark.usefixtures("_installed")
def test_libraries_take_turns_within_a_case() -> None:
    options = run.parse(["--cases", "ppo_cartpole", "--libraries", "sb3", "sbx", "--repeats", "2"])
    assert run.plan(options) == [
        ("ppo_cartpole", "sb3"),
        ("ppo_cartpole", "sbx"),
        ("ppo_cartpole", "sb3"),
        ("ppo_cartpole", "sbx"),
    ]


@pytest.mark.usefixtures("_installed")
def test_what_cannot_run_is_skipped_with_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    options = run.parse(["--cases", "process_start", "--libraries", "tianshou", "cleanrl", "sb3"])
    assert {name for _, name in run.plan(options)} == {"sb3"}
    lines = capsys.readouterr().err
    assert "tianshou has no process_start" in lines
    assert "--cleanrl PATH" in lines


def test_a_missing_environment_names_the_remedy(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Library, "interpreter", lambda self: Path("/nowhere/python"))
    assert run.plan(run.parse(["--libraries", "sb3"])) == []
    assert "benchmarks.speed.make_envs" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("done", "row"),
    [
        (subprocess.CompletedProcess([], 0, 'noise\n{"steps": 3}\n', ""), {"steps": 3}),
        (
            subprocess.CompletedProcess([], 1, "", "Trace\nKeyError: 1\n\n"),
            {"error": "KeyError: 1"},
        ),
        (subprocess.CompletedProcess([], -9, "", ""), {"error": "exit code -9"}),
    ],
)
def test_a_runner_gives_its_line_or_its_last_word(done, row) -> None:
    assert run.parse_output(done) == row


@pytest.mark.usefixtures("_installed")
def test_a_noisy_run_is_repeated_once(monkeypatch: pytest.MonkeyPatch) -> None:
    shares = iter([0.5, 0.99, 0.99])
    monkeypatch.setattr(
        run,
        "measure",
        lambda *_: {"core_share": next(shares), "elsewhere": 0.0, "calibration_ms": 1.0},
    )
    row = run.measure_quietly("sb3", "ppo_cartpole", run.parse([]), usual_ms=1.0)
    assert row["core_share"] == 0.99
    assert row["noise"] == []
    assert next(shares) == 0.99


def test_torch_is_installed_before_the_peer() -> None:
    python = Path("/venv/bin/python")
    commands = make_envs.install_commands(python, ENVIRONMENTS["sb3"], "https://index")
    assert [command[-1] for command in commands] == [
        "torch==2.13.0",
        "gymnasium[mujoco]==1.4.0",
        "import sb3_contrib",
    ]
    assert {"stable-baselines3==2.9.2", "sb3-contrib==2.9.2"} < set(commands[1])
    assert all("https://index" in command for command in commands[:-1])
