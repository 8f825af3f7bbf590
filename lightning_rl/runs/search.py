"""Grid and random search from Python, one evaluation after the other.

For several processes, pruning and storage there is `lightning-rl sweep` (`runs/sweep.py`).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lightning_rl.errors import ConfigError, check_ranges
from lightning_rl.runs.directory import RunDirectory
from lightning_rl.runs.plain_json import loads
from lightning_rl.runs.results import Json, RunResult
from lightning_rl.runs.search_space import Sampler, draw, grid, place

log = logging.getLogger(__name__)

Evaluation = Callable[[dict[str, Any]], Any]
"""From a configuration to a score (higher is better) or a `RunResult`."""


@dataclass
class SearchResult(Json):
    """What a search has found.

    Attributes:
        best_parameters: Path to value of the best trial; empty when all failed.
        best_score: Its score; NaN when all failed.
        trials: `{parameters, score}` of every trial, in order.
    """

    best_parameters: dict[str, Any] = field(default_factory=dict)
    best_score: float = math.nan
    trials: list[dict[str, Any]] = field(default_factory=list)


def random_search(
    space: Mapping[str, Sampler],
    num_trials: int,
    evaluation_fn: Evaluation,
    config: Mapping[str, Any] | None = None,
    seed: int | None = None,
) -> SearchResult:
    """Evaluate configurations drawn at random.

    Args:
        space: Dotted path to a distribution, a list of values, or a function that draws a value.
        num_trials: Number of configurations, at least 1.
        evaluation_fn: From a configuration to its score, or to a `RunResult`, of which the best
            evaluation counts.
        config: What the drawn values are laid over.
        seed: Of the distributions; default drawn.
    """
    check_ranges({"num_trials": (num_trials, 1, None)})
    generator = np.random.default_rng(seed)
    return _search((draw(space, generator) for _ in range(num_trials)), evaluation_fn, config)


def grid_search(
    space: Mapping[str, Any],
    evaluation_fn: Evaluation,
    config: Mapping[str, Any] | None = None,
) -> SearchResult:
    """Evaluate every combination of values; arguments as in `random_search`."""
    return _search(grid(space), evaluation_fn, config)


def _search(
    candidates: Iterable[dict[str, Any]],
    evaluation_fn: Evaluation,
    config: Mapping[str, Any] | None,
) -> SearchResult:
    result = SearchResult()
    for parameters in candidates:
        score = score_of(evaluation_fn(place(config or {}, parameters)))
        result.trials.append({"parameters": parameters, "score": score})
        log.info("trial %d: %s scores %s", len(result.trials), parameters, score)
        if not math.isnan(score) and not score <= result.best_score:
            result.best_parameters, result.best_score = parameters, score
    return result


def score_of(outcome: Any) -> float:
    """Return the number that an evaluation came to; NaN for a failed run.

    Raises:
        ConfigError: It is neither a number nor a `RunResult`.
    """
    if isinstance(outcome, RunResult):
        if not outcome.success:
            return math.nan
        evaluated = best_evaluation(outcome.directory) if outcome.directory else math.nan
        trained = float(outcome.metrics.get("mean_reward", math.nan))
        return trained if math.isnan(evaluated) else evaluated
    if isinstance(outcome, (int, float, np.floating, np.integer)):
        return float(outcome)
    raise ConfigError(
        f"evaluation_fn: expected a number or a RunResult, got {type(outcome).__name__}"
    )


def evaluations(directory: str | Path) -> list[float]:
    """Return the mean returns of a run's evaluations in order; those that are NaN left out."""
    try:
        content = loads(RunDirectory(Path(directory)).metrics_json.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    scores = [float(row["eval/mean_reward"]) for row in content.get("evaluations", [])]
    return [score for score in scores if not math.isnan(score)]


def best_evaluation(directory: str | Path) -> float:
    """Return the greatest mean return of a run's evaluations; NaN where nothing was evaluated."""
    return max(evaluations(directory), default=math.nan)
