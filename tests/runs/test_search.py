"""Grid and random search from Python."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from lightning_rl.errors import ConfigError
from lightning_rl.runs.results import RunResult
from lightning_rl.runs.search import SearchResult, grid_search, random_search
from lightning_rl.runs.search_space import loguniform


def valley(config: dict[str, Any]) -> float:
    """Best, with 0, at a learning rate of 1e-3."""
    return -abs(math.log10(config["model"]["init_args"]["learning_rate"]) + 3.0)


def test_a_grid_search_finds_the_best_of_all_points():
    seen = []

    def score(config: dict[str, Any]) -> float:
        seen.append(config)
        return valley(config)

    space = {"model.learning_rate": [1e-4, 1e-3, 1e-2], "model.gamma": [0.9, 0.99]}
    result = grid_search(space, score, {"model": {"class_path": "PPO"}})
    assert len(result.trials) == len(seen) == 6
    assert result.best_parameters == {"model.learning_rate": 1e-3, "model.gamma": 0.9}
    assert result.best_score == pytest.approx(0.0)
    assert all(config["model"]["class_path"] == "PPO" for config in seen)
    assert SearchResult.from_json(result.to_json()) == result


def test_a_random_search_repeats_itself_with_a_seed_only():
    space = {"model.learning_rate": loguniform(1e-6, 1e-1), "model.gamma": lambda: 0.5}
    first, again, other = (random_search(space, 30, valley, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert first.best_score == max(trial["score"] for trial in first.trials)
    assert first.best_score > -0.5
    assert len({trial["score"] for trial in first.trials}) == 30


def test_runs_are_scored_by_their_best_evaluation(tmp_path: Path):
    evaluations = [
        {"eval/mean_reward": 10.0},
        {"eval/mean_reward": 30.0},
        {"eval/mean_reward": 5.0},
    ]
    (tmp_path / "metrics.json").write_text(json.dumps({"evaluations": evaluations}))
    runs = {
        1: RunResult("CartPole-v1", "PPO", directory=str(tmp_path)),
        2: RunResult("CartPole-v1", "PPO", directory=str(tmp_path), success=False),
        3: RunResult("CartPole-v1", "PPO", metrics={"mean_reward": 20.0}),  # nothing evaluated
    }
    result = grid_search({"seed_everything": [1, 2, 3]}, lambda c: runs[c["seed_everything"]])
    scores = [trial["score"] for trial in result.trials]
    assert (scores[0], scores[2]) == (30.0, 20.0)
    assert math.isnan(scores[1])
    assert result.best_parameters == {"seed_everything": 1}


def test_a_search_of_failures_has_no_best():
    result = grid_search({"a": [1, 2]}, lambda config: math.nan)
    assert result.best_parameters == {}
    assert math.isnan(result.best_score)


def test_wrong_arguments_are_said():
    with pytest.raises(ConfigError, match="num_trials to be at least 1"):
        random_search({"a": [1]}, 0, valley)
    with pytest.raises(ConfigError, match="expected a number or a RunResult, got str"):
        grid_search({"a": [1]}, lambda config: "good")
