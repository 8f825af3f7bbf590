"""What is said of an environment whose state cannot be restored, and how to refuse it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lightning_rl.storage.sealed import load_sealed

Run = Callable[..., Any]
# Gymnasium's own batch of cart poles resets its rows itself and cannot be saved.
OPAQUE = ["--model.env.vectorization=vector", "--model.total_env_steps=256", "--run.name=x"]
QUIET = [
    "--trainer.logger=false",
    "--trainer.enable_progress_bar=false",
    "--trainer.eval_episodes=1",
]
DIRECTORY = Path("logs/ppo-cartpole-v1/x")


def test_the_level_is_said_everywhere(run: Run) -> None:
    assert run("fit", *OPAQUE, *QUIET).code == 0
    assert "cannot be saved mid-episode" in (DIRECTORY / "training.log").read_text()
    assert json.loads((DIRECTORY / "run.json").read_text())["env_snapshot_level"] == "boundary"
    saved = load_sealed(DIRECTORY / "checkpoints/last.ckpt")["lightning_rl"]
    assert saved["snapshot_level"] == saved["source"]["collector"]["level"] == "boundary"
    more = "--model.total_env_steps=512"
    outcome = run("resume", str(DIRECTORY), "--require-exact", more, *QUIET)
    assert outcome.code == 2
    assert "received CartPole-v1 (level boundary)" in outcome.err


@pytest.mark.parametrize("option", ["--require-exact", "--run.require_exact=true"])
def test_it_can_be_refused_before_any_step(option: str, run: Run) -> None:
    outcome = run("fit", *OPAQUE, *QUIET, option)
    assert outcome.code == 2
    assert "run.require_exact: expected an environment whose state can be restored" in outcome.err
    assert "Traceback" not in outcome.err
    assert not list(DIRECTORY.glob("checkpoints/*.ckpt"))
    assert json.loads((DIRECTORY / "run.json").read_text())["env_steps"] == 0


def test_what_can_be_restored_is_let_through(run: Run) -> None:
    words = ["--model.total_env_steps=256", "--run.name=x", *QUIET, "--require-exact"]
    assert run("fit", *words).code == 0
    assert json.loads((DIRECTORY / "run.json").read_text())["env_snapshot_level"] == "exact"
