"""Hindsight replay is what solves the bundled goal environment: without it the agent fails."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.learning import run

CONFIG, ENV = "sac/point_reach", "LightningRL/PointReach-v0"


def success_rate(folder: Path, *options: str) -> float:
    """Return the share of episodes that the best checkpoint of a whole run ends at the goal."""
    run.call(
        *("fit", "--config", CONFIG, *options, "--seed_everything", "1"),
        *("--run.root", str(folder), "--run.experiment", "reach", "--run.name", "run"),
        *("--trainer.enable_progress_bar", "false"),
    )
    scores = run.test(folder / "reach" / "run" / "checkpoints" / "best.ckpt", ENV)
    return float(scores["mean_reward"])


@pytest.mark.slow
def test_the_same_agent_without_hindsight_hardly_ever_gets_there(tmp_path: Path) -> None:
    assert success_rate(tmp_path / "without", "--model.replay", "null") <= 0.2


@pytest.mark.slow
def test_with_hindsight_it_gets_there(tmp_path: Path) -> None:
    assert success_rate(tmp_path / "with") >= 0.95
