"""What a study's cell does in its process: train or continue, execute, store the result."""

from __future__ import annotations

import logging
import signal
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback

from lightning_rl.algorithms.base import Algorithm
from lightning_rl.cli.arguments import Request
from lightning_rl.cli.checks import argument_names, model_class
from lightning_rl.cli.parser import RunCLI, resolved_config_yaml
from lightning_rl.cli.resume import SavedRun, continue_documents
from lightning_rl.cli.signatures import signature_of
from lightning_rl.cli.yaml_check import Document
from lightning_rl.errors import Interrupted
from lightning_rl.runs.directory import RunDirectory
from lightning_rl.runs.execution import evaluate_policy
from lightning_rl.runs.plain_json import loads
from lightning_rl.runs.provenance import redact
from lightning_rl.runs.results import ExecutionResult
from lightning_rl.runs.study import Cell, CellResult
from lightning_rl.runs.upkeep import PACKAGE, LogFile, one_line

TRAINED = ("finished", "stopped")  # stopped: by a callback or a limit of the trainer
PROBE_S = 2
"""How long a probe of a cell's speed trains, in seconds."""


def work(cell: Cell) -> None:
    """Bring a cell to its end and store its result; a failure is a result too.

    Raises:
        Interrupted: It was asked to stop and has saved its state; there is no result yet.
        SystemExit: With 1 for a failure.
    """
    # Otherwise every message would go to standard error as well, which is kept for what has no
    # other place.
    logging.getLogger(PACKAGE).addHandler(logging.NullHandler())
    try:
        agent = _train(cell)
        result = _outcome(cell, agent)
    except Interrupted:
        raise
    except KeyboardInterrupt:  # before training began
        raise SystemExit(128 + signal.SIGINT) from None
    except Exception as error:
        _keep_traceback(cell, error)
        result = cell.result(error_message=one_line(error), metrics=_metrics(cell))
        result.hyperparameters = _arguments(cell)
    cell.store(result)
    if not result.success:
        raise SystemExit(1)


def lost(cell: Cell, reason: str) -> CellResult:
    """Store and return the result of a cell whose process ended without leaving one."""
    result = cell.result(error_message=reason, metrics=_metrics(cell))
    result.hyperparameters = _arguments(cell)
    cell.store(result)
    handler = LogFile.attach(cell.run.log, "ERROR")
    if handler is not None:
        handler.handle(
            logging.LogRecord(PACKAGE, logging.ERROR, __file__, 0, "%s", (reason,), None)
        )
        handler.detach()
    return result


def probe(cell: Cell) -> None:
    """Train for a moment, in a directory of its own, to learn how fast that is."""
    logging.getLogger(PACKAGE).addHandler(logging.NullHandler())
    trainer = {
        "max_time": f"00:00:00:{PROBE_S:02}",
        "logger": False,
        "enable_checkpointing": False,
        "eval_every_env_steps": 0,
        "callbacks": None,
    }
    documents = _documents(cell)
    content: dict[str, Any] = {"trainer": trainer}
    if "compile" in argument_names(signature_of(model_class(documents) or "")):
        content["model"] = {"init_args": {"compile": False}}  # no time for that
    try:
        cli = RunCLI([*documents, Document("probe", content)], cell.options)
        cli.trainer.fit(cli.model)
    except Exception as error:
        cell.store(cell.result(error_message=one_line(error)))
        raise


def _documents(cell: Cell) -> list[Document]:
    return [Document(cell.directory.name, content) for content in cell.documents]


def _train(cell: Cell) -> Algorithm:
    """Train, or continue where a cut run stands; return the agent with the weights to execute."""
    train_directory(cell.directory, _documents(cell), cell.options)
    # Never the agent in memory: a cell whose training had ended in an earlier process has none.
    return Algorithm.load_from_checkpoint(_weights(cell))


def train_directory(
    directory: Path,
    documents: Sequence[Document],
    options: Sequence[str],
    callbacks: Sequence[Callback] = (),
) -> None:
    """Train in a run directory, or continue what stands there, unless it has come to its end.

    Args:
        directory: The run directory.
        documents: Configurations, first the weakest, the directory among them.
        options: Command-line options laid over them, as `--key=value`.
        callbacks: What watches this process; not part of the run's configuration.
    """
    run = RunDirectory(directory)
    if _record(run).get("status") in TRAINED:
        return
    resumes = run.has_checkpoint()
    request = Request("resume" if resumes else "fit")
    if resumes:
        request.positionals = [str(directory)]
        continue_documents(request, SavedRun.find(str(directory)))
        cli = RunCLI(request.documents, [])
    else:
        cli = RunCLI(documents, options)
    cli.trainer.callbacks.extend(callbacks)  # type: ignore[attr-defined]
    cli.trainer.config_text = resolved_config_yaml(cli, request.kept_run)
    cli.trainer.fit(cli.model, ckpt_path="last" if resumes else None)


def _weights(cell: Cell) -> Path:
    """Return the checkpoint to execute; the last one where nothing was evaluated."""
    chosen = cell.run.checkpoints / f"{cell.checkpoint}.ckpt"
    return chosen if chosen.is_file() else cell.run.checkpoints / "last.ckpt"


def _outcome(cell: Cell, agent: Algorithm) -> CellResult:
    result = cell.result(hyperparameters=agent.hyperparameters, metrics=_metrics(cell))
    result.success = True
    if cell.execution is None:
        return result
    execution = _execute(cell, agent)
    result.execution = execution
    result.success = execution.success
    if not execution.success:
        result.error_message = f"execution failed: {execution.error_message}"
    return result


def _execute(cell: Cell, agent: Algorithm) -> ExecutionResult:
    handler = LogFile.attach(cell.run.log, "DEBUG")  # a failed execution logs its traceback there
    try:
        options: Any = vars(cell.execution)
        return evaluate_policy(agent, videos=cell.run.videos, **options)
    finally:
        if handler is not None:
            handler.detach()


def _keep_traceback(cell: Cell, error: Exception) -> None:
    """Write the traceback to `training.log`, unless the run's own record has done so."""
    record = _record(cell.run)
    if record.get("status") == "failed" and record.get("error") == redact(one_line(error)):
        return
    handler = LogFile.attach(cell.run.log, "ERROR")
    if handler is not None:
        handler.write_traceback(error)
        handler.detach()


def _record(run: RunDirectory) -> dict[str, Any]:
    """Return `run.json`; empty where there is none."""
    with suppress(OSError, ValueError):
        record: dict[str, Any] = loads(run.record.read_text(encoding="utf-8"))
        return record
    return {}


def _metrics(cell: Cell) -> dict[str, Any]:
    with suppress(OSError, ValueError):
        metrics: dict[str, Any] = loads(cell.run.metrics_json.read_text())["training"]
        return metrics
    return {}


def _arguments(cell: Cell) -> dict[str, Any]:
    """Return the constructor arguments that the configuration gives, where no agent was made."""
    arguments: dict[str, Any] = {}
    for document in cell.documents:
        model = document.get("model")
        if isinstance(model, dict):
            arguments.update(model.get("init_args") or {})
    return arguments
