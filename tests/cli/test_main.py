"""The entry point: help, lists, exit codes, and answers within a second."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import lightning_rl
from lightning_rl.cli import commands
from lightning_rl.cli.arguments import OWN_OPTIONS
from lightning_rl.cli.help import COMMANDS
from lightning_rl.cli.main import main
from lightning_rl.errors import CheckpointError, ConfigError, Interrupted, TrainingFailed

Run = Callable[..., Any]


def test_help_lists_every_command(run: Run) -> None:
    for words in (["--help"], ["-h"], ["help"], []):
        outcome = run(*words)
        assert outcome.code == 0
        assert all(f"\n  {name} " in outcome.out for name in COMMANDS)
    assert set(COMMANDS) == set(OWN_OPTIONS) == set(commands.COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_shows_its_options(command: str, run: Run) -> None:
    outcome = run(command, "--help")
    assert outcome.code == 0
    assert all(f"--{name}" in outcome.out for name in OWN_OPTIONS[command])


def test_help_shows_what_can_be_configured(run: Run) -> None:
    text = run("fit", "--model", "dqn", "--help").out
    for option in ("--model.target_update_interval", "--model.env.num_envs", "--run.name"):
        assert option in text
    assert "--trainer.eval_every_env_steps" in text
    assert "--model.env.factory" not in text
    assert "--model.gae_lambda" not in text


def test_version(run: Run) -> None:
    assert run("--version").out == f"lightning-rl {lightning_rl.__version__}\n"


@pytest.mark.parametrize(
    ("topic", "entry"),
    [
        ("algorithms", "PPO"),
        ("algorithms", "ExpectedSARSA"),
        ("configs", "ppo/cartpole"),
        ("environments", "CartPole-v1"),
        ("tags", "eval/mean_reward"),
        ("tags", "train/policy_loss"),
    ],
)
def test_lists(topic: str, entry: str, run: Run) -> None:
    outcome = run("list", topic)
    assert outcome.code == 0
    assert entry in [line.split()[0] for line in outcome.out.splitlines()]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("wrong"), 2),
        (CheckpointError("damaged"), 1),
        (TrainingFailed("diverged"), 1),
        (RuntimeError("two\nlines"), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_errors_become_one_line_and_a_code(
    error: BaseException, code: int, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> int:
        raise error

    monkeypatch.setitem(commands.COMMANDS, "list", fail)
    outcome = run("list", "configs")
    assert outcome.code == code
    assert outcome.message
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_run_ends_with_the_signal_s_code(
    number: int, code: int, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(_: object) -> int:
        raise Interrupted(number)

    monkeypatch.setitem(commands.COMMANDS, "list", stop)
    outcome = run("list", "configs")
    assert outcome.code == code
    assert outcome.err == ""


def test_a_traceback_is_shown_on_request(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHTNING_RL_DEBUG", "1")
    assert "Traceback" in run("fitt").err


QUICK = [
    ["--help"],
    ["--version"],
    ["fitt"],
    ["list", "configs"],
    ["fit", "--help"],
    ["fit", "--config", "wrong.yaml"],
    ["fit", "--model.gama", "1"],
]


def test_quick_answers_import_nothing_heavy(tmp_path: Path) -> None:
    """One process asks for all of them: the time of each is Python's own start plus this."""
    (tmp_path / "wrong.yaml").write_text("model:\n  class_path: PPO\n  init_args:\n    gama: 1\n")
    code = (
        "import sys, time; t = time.perf_counter()\n"
        "from lightning_rl.cli.main import main\n"
        f"codes = [main(words) for words in {QUICK}]\n"
        "heavy = [m for m in ('torch', 'lightning', 'numpy', 'gymnasium') if m in sys.modules]\n"
        "print('ANSWER', codes, heavy, time.process_time() < 2.0)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(lightning_rl.__file__).parents[1])}
    shown = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env=environment,
    )
    assert shown.stdout.splitlines()[-1] == "ANSWER [0, 0, 2, 0, 0, 2, 2] [] True"


def test_python_m_is_the_same(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(lightning_rl.__file__).parents[1])}
    shown = subprocess.run(
        [sys.executable, "-m", "lightning_rl", "fitt"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
        check=False,
    )
    assert shown.returncode == 2
    assert shown.stderr == "lightning-rl: error: unknown command 'fitt'; did you mean 'fit'?\n"


def test_arguments_come_from_the_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["lightning-rl", "--version"])
    assert main() == 0
    assert capsys.readouterr().out.startswith("lightning-rl ")


@pytest.mark.system
def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(lightning_rl.__file__).parents[1])}
    words = ["fit", "--run.name", "stopped", "--model.total_env_steps", "10000000"]
    process = subprocess.Popen(
        [sys.executable, "-m", "lightning_rl", *words, "--trainer.logger", "false"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env=environment,
    )
    folder = tmp_path / "logs" / "ppo-cartpole-v1" / "stopped"
    deadline = time.monotonic() + 120
    while not (folder / "metrics.csv").exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    time.sleep(1.0)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert "continue with: lightning-rl resume logs/ppo-cartpole-v1/stopped" in out
    assert (folder / "checkpoints" / "last.ckpt").exists()
