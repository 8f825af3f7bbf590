"""The Python front door: train and execute in one call each, with results as data."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Trainer as LightningTrainer

from lightning_rl import algorithms
from lightning_rl.algorithms.base import Algorithm
from lightning_rl.errors import ConfigError, did_you_mean
from lightning_rl.runs.directory import RunConfig, RunDirectory
from lightning_rl.runs.execution import evaluate_policy, evaluate_policy_many
from lightning_rl.runs.record import RunRecord
from lightning_rl.runs.results import ExecutionConfig, ExecutionResult, RunResult
from lightning_rl.runs.trainer import Trainer
from lightning_rl.runs.upkeep import one_line
from lightning_rl.trust import import_object

__all__ = [
    "evaluate_policy",
    "evaluate_policy_many",
    "make",
    "run",
    "run_training_and_execution",
]

log = logging.getLogger(__name__)


def make(name: str, **hyperparameters: Any) -> Algorithm:
    """Return a new agent.

    Args:
        name: Algorithm, upper or lower case, or the import path of one.
        **hyperparameters: Its constructor's arguments.

    Raises:
        ConfigError: There is no such algorithm (the nearest is named), or an argument is wrong.
    """
    kind = _algorithm_class(name)
    try:
        return kind(**hyperparameters)
    except TypeError as error:  # an unknown or missing argument
        raise ConfigError(f"{kind.__name__}: {error}") from error


def run(
    agent: Algorithm,
    *,
    run: RunConfig | Mapping[str, Any] | None = None,
    trainer: LightningTrainer | Mapping[str, Any] | None = None,
    resume: bool = False,
) -> RunResult:
    """Train an agent in a run directory of its own.

    What goes wrong becomes data: `success` is False, `error_message` says why in one line, and the
    traceback stands in the run's `training.log`. Only interruptions (Ctrl-C, SIGTERM) propagate.

    Args:
        agent: The agent; it holds the environment and the budget.
        run: Where the run is kept and how it is described.
        trainer: Options of the `Trainer`, or a trainer.
        resume: Continue the run of that directory from its newest checkpoint.

    Raises:
        ConfigError: `run` or `trainer` is not what it should be.
    """
    if isinstance(trainer, LightningTrainer):
        if run is not None:
            raise ConfigError("run: a ready trainer has its own; give it to Trainer(run=...)")
        chosen = trainer
    else:
        chosen = _trainer(_run_config(run), dict(trainer or {}))
    result = RunResult(
        environment=agent.env_config.name,
        algorithm=type(agent).__name__,
        hyperparameters=agent.hyperparameters,
        seed=agent.seed,
    )
    try:
        chosen.fit(agent, ckpt_path="last" if resume else None)
    except Exception as error:
        result.success = False
        result.error_message = one_line(error)
        log.error("The run failed: %s", result.error_message)
    _add_outcome(result, chosen)
    result.hyperparameters = agent.hyperparameters  # `compile` is decided when training starts
    return result


def run_training_and_execution(
    agent: Algorithm, execution: ExecutionConfig | None = None, **options: Any
) -> tuple[RunResult, ExecutionResult | None]:
    """Train an agent, then execute it with the weights it ends with.

    Args:
        agent: The agent.
        execution: How to execute it; default: ten greedy episodes.
        **options: Options of `run`.

    Returns:
        Both results; no execution when training failed.
    """
    result = run(agent, **options)
    if not result.success:
        return result, None
    return result, evaluate_policy(agent, **vars(execution or ExecutionConfig()))


def _algorithm_class(name: str) -> type[Algorithm]:
    names = {choice.lower(): choice for choice in algorithms.__all__ if choice != "Algorithm"}
    plain = name.lower().replace("_", "")
    if plain in names:
        return getattr(algorithms, names[plain])  # type: ignore[no-any-return]
    if "." not in name:
        hint = did_you_mean(name, names.values())
        known = ", ".join(sorted(names.values()))
        raise ConfigError(f"unknown algorithm {name!r}{hint}; expected one of {known}")
    found = import_object(name)
    if not (isinstance(found, type) and issubclass(found, Algorithm)):
        raise ConfigError(f"expected the import path of an algorithm, got {name!r}")
    return found


def _run_config(run: RunConfig | Mapping[str, Any] | None) -> RunConfig:
    if isinstance(run, RunConfig):
        return run
    known = [item.name for item in dataclasses.fields(RunConfig)]
    for key in run or {}:
        if key not in known:
            hint = did_you_mean(str(key), known)
            raise ConfigError(f"unknown key 'run.{key}'{hint}; expected among {', '.join(known)}")
    return RunConfig(**(run or {}))


def _trainer(config: RunConfig, options: dict[str, Any]) -> Trainer:
    try:
        return Trainer(run=config, **options)
    except TypeError as error:
        raise ConfigError(f"trainer: {error}") from error


def _add_outcome(result: RunResult, trainer: LightningTrainer) -> None:
    """Add directory, checkpoint and metrics, as far as the run got."""
    path = getattr(trainer, "run_dir", None)
    if path is not None:
        directory = RunDirectory(path)
        result.directory = str(directory.path)
        found = (directory.checkpoints / name for name in ("best.ckpt", "last.ckpt"))
        result.best_checkpoint = next((str(file) for file in found if file.is_file()), None)
    records = (callback for callback in trainer.callbacks if isinstance(callback, RunRecord))  # type: ignore[attr-defined]
    record = next(records, None)
    if record is not None:
        result.metrics = record.training
