"""What fails while a command runs: one clear line, the exit code that says so, nothing lost."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lightning_rl.storage import checkpoint_io
from lightning_rl.storage.sealed import load_sealed

Run = Callable[..., Any]
QUIET = ["--trainer.logger=false", "--trainer.enable_progress_bar=false"]
SMALL = ["--model.num_steps=32", "--model.minibatch_size=32", "--trainer.eval_episodes=1"]
NAMED = ["--run.experiment=e", "--run.name=r", "--model.total_env_steps=640"]
FAULT = [
    *("--model=PPO", "--model.env.id=LightningRL/Fault-v0"),
    "--model.env.imports=[lightning_rl.envs.probes]",
]
DIRECTORY = Path("logs/e/r")


def fit(run: Run, *words: str) -> Any:
    return run("fit", *FAULT, *QUIET, *SMALL, *NAMED, *words)


def errors(outcome: Any) -> list[str]:
    return [line for line in outcome.err.splitlines() if line.startswith("lightning-rl: error: ")]


# (fault, what the one line says); at call 5 the look before training sees it, at 300 training does.
FAULTS = {
    "raise_at": "RuntimeError: FaultEnv raises at step",
    "nan_at": "observation",
    "nan_reward_at": "reward",
    "bad_shape_at": "shape",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_environment_is_found_before_training(fault: str, run: Run) -> None:
    outcome = fit(run, f"--model.env.kwargs.{fault}=5")
    (line,) = errors(outcome)
    assert outcome.code == 2
    assert "step 5: " in line
    assert FAULTS[fault] in line
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize("fault", FAULTS)
def test_an_environment_that_breaks_in_training_loses_nothing(fault: str, run: Run) -> None:
    outcome = fit(run, f"--model.env.kwargs.{fault}=300")
    (line,) = errors(outcome)
    assert outcome.code == 1
    assert "environment LightningRL/Fault-v0 (row 0)" in line
    assert FAULTS[fault] in line
    assert "Traceback" not in outcome.err
    record = json.loads((DIRECTORY / "run.json").read_text())
    assert record["status"] == "failed"
    assert record["error"] in line
    saved = max(DIRECTORY.glob("checkpoints/*.ckpt"), key=lambda p: p.stat().st_mtime)
    assert load_sealed(saved)["lightning_rl"]["env_steps"] >= 256
    key = f"model.env.kwargs.{fault}"
    again = run("resume", str(saved), f"--{key}=null", "--allow-change", key)
    assert again.code == 0, again.err
    assert json.loads((DIRECTORY / "run.json").read_text())["env_steps"] >= 640


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """A disk that takes three checkpoints; `left` says how many more it would."""
    begin, room = checkpoint_io.begin_sealed, {"left": 3}

    def refuse(*arguments: Any) -> Any:
        room["left"] -= 1
        if room["left"] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return begin(*arguments)

    monkeypatch.setattr(checkpoint_io, "begin_sealed", refuse)
    return room


def test_a_full_disk_is_said_and_the_last_checkpoint_stays_good(
    run: Run, full_disk: dict[str, int]
) -> None:
    outcome = fit(run)
    assert outcome.code == 1
    assert "No space left on device" in errors(outcome)[0]
    assert "free space and resume" in errors(outcome)[0]
    assert "Traceback" not in outcome.err
    saved = load_sealed(DIRECTORY / "checkpoints" / "last.ckpt")["lightning_rl"]["env_steps"]
    assert 0 < saved < 640
    full_disk["left"] = 100
    assert run("resume", str(DIRECTORY)).code == 0
    assert load_sealed(DIRECTORY / "checkpoints/last.ckpt")["lightning_rl"]["env_steps"] == 640


def test_an_output_directory_that_cannot_be_is_one_line(run: Run) -> None:
    Path("file").write_text("in the way")
    outcome = run("fit", *QUIET, *SMALL, "--model.total_env_steps=256", "--run.root=file")
    assert outcome.code == 2
    assert "choose another folder with --run.root" in outcome.message
    assert Path("file").read_text() == "in the way"
