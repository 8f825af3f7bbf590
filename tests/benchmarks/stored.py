"""Stored results as the learning benchmark writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.learning.gates import Gate, Reference
from benchmarks.learning.table import result_path

REFERENCE = Reference(120.0, 5.0, "CartPole-v1", 1_000, 10)
GATE = Gate("ppo/toy", "CartPole-v1", 100, 1_000, REFERENCE)


def result(best: float, seed: int, config: str = "ppo/cartpole") -> dict[str, Any]:
    """Return a result as `benchmarks.learning.run` stores it."""
    score = {"mean_reward": best, "std_reward": 1.0, "env_steps": 700}
    last = {"mean_reward": best - 10, "std_reward": 2.0, "env_steps": 1_024}
    return {
        "config": config,
        "config_sha256": "0",
        "seed": seed,
        "env_steps": 1_024,
        "training_s": 12.3,
        "cpu": "Abacus",
        "system": "Linux",
        "versions": {"torch": "2.13.0"},
        "git_commit": "0123456789",
        "package_sha256": "fedcba9876",
        "best": score,
        "last": last,
    }


def store(folder: Path, config: str, scores: list[float]) -> None:
    """Store one result per seed."""
    for seed, score in enumerate(scores, 1):
        path = result_path(config, seed, folder)
        path.write_text(json.dumps(result(score, seed, config)))
