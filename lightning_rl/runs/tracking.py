"""The external loggers of a run: isolated from training, told about the run, ended in time."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lightning_rl.errors import Interrupted
from lightning_rl.loggers.axis import Clock
from lightning_rl.loggers.csv import read_metrics
from lightning_rl.loggers.isolation import PATIENCE_S, isolate, release
from lightning_rl.loggers.local import LocalLogger
from lightning_rl.loggers.trackers import RunDescription, RunEnd
from lightning_rl.runs.directory import RunConfig, RunDirectory
from lightning_rl.runs.plain_json import loads
from lightning_rl.runs.provenance import redact, redact_tree, redacted_command
from lightning_rl.runs.upkeep import LogFile

log = logging.getLogger(__name__)

CLOSE_S = 20.0
"""Longest time in seconds that the end of a run waits for trackers that work."""
TROUBLED_CLOSE_S = 5.0
"""The same for one that had trouble before, and after the signal that stopped the run."""


class Tracking:
    """The external loggers among `loggers`, each with a courier of its own until `close`.

    Args:
        loggers: Those of a trainer.
        run: What they are told about the run.
        known: Identities in earlier attempts of the run, as returned by `identities`.
    """

    def __init__(
        self,
        loggers: Iterable[Logger],
        run: RunDescription,
        known: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self._run = run
        self._known = known or {}
        self._loggers: dict[str, Any] = {}
        self._rows_before: dict[str, int] = {}  # of earlier attempts, that need not be sent
        for logger in loggers:
            if isinstance(logger, LocalLogger):
                continue
            kind = type(logger).__name__
            count = sum(1 for name in self._loggers if name.partition("-")[0] == kind)
            name = f"{kind}-{count + 1}" if count else kind
            self._loggers[name] = isolate(logger, run, self._known.get(name, {}))

    @property
    def identities(self) -> dict[str, dict[str, Any]]:
        """What each tracker calls the run, as far as it is known, and the rows that it has."""
        return {
            name: {
                **logger._tracker.identity,
                "rows": self._rows_before.get(name, 0) + logger._courier.rows,
            }
            for name, logger in self._loggers.items()
        }

    def be_patient(self) -> None:
        """Let readers of `experiment` wait from now on, in all at most `PATIENCE_S` each."""
        for logger in self._loggers.values():
            logger._patience_s = PATIENCE_S

    def hurry(self) -> None:
        """Have what waits delivered now, as far as the trackers take it; waits for nothing."""
        for logger in self._loggers.values():
            logger._courier.hurry()

    def log_config(self, config: Mapping[str, Any]) -> None:
        """Tell every tracker the resolved configuration."""
        for logger in self._loggers.values():
            logger.log_hyperparams(config)

    def begin(self, clock: Clock, metrics_csv: Path) -> None:
        """Send what earlier attempts logged and a tracker has not received.

        Rows wait in memory when a run is killed, and a tracker may be new to the run.

        Args:
            clock: Env steps of the run, for rows that come without.
            metrics_csv: The run's rows up to where it goes on.
        """
        rows = read_metrics(metrics_csv) if metrics_csv.exists() else []
        for name, logger in self._loggers.items():
            known = self._known.get(name, {})
            sent = min(int(known.get("rows", 0)), len(rows))
            if known and not logger._tracker.loses_rows:
                sent = len(rows)
            self._rows_before[name] = sent
            for row in rows[sent:]:
                step = row.get("step")
                metrics = {tag: value for tag, value in row.items() if tag != "step"}
                logger.log_metrics(metrics, None if step is None else int(step))
            logger._clock = clock

    def close(self, error: BaseException | None, keep_artifacts: bool = True) -> None:
        """Deliver what waits, keep artifacts, end the runs and give the loggers back.

        Args:
            error: What ended the run, None for nothing.
            keep_artifacts: Send best checkpoint and files, unless a signal ended the run.
        """
        end = _end(error)
        stopped = end == "interrupted"
        deadline = time.monotonic() + (TROUBLED_CLOSE_S if stopped else CLOSE_S)
        for logger in self._loggers.values():
            if keep_artifacts and not stopped:
                logger._courier.send(lambda item=logger: self._log_artifacts(item))
            logger._courier.send(lambda item=logger: item._tracker.finish(end))
        # The run's record has closed its log by now.
        file = RunDirectory(self._run.directory).log
        log_file = LogFile.attach(file, "WARNING") if self._loggers and file.exists() else None
        try:
            for logger in self._loggers.values():
                left = deadline - time.monotonic()
                troubled = logger._courier.troubled
                logger._courier.close(max(0.0, min(left, TROUBLED_CLOSE_S if troubled else left)))
        except KeyboardInterrupt:
            log.warning("No longer waiting for trackers.")
        finally:
            if log_file is not None:
                log_file.detach()
            for logger in self._loggers.values():
                release(logger)

    def _log_artifacts(self, logger: Any) -> None:
        directory = RunDirectory(self._run.directory)
        best = directory.checkpoints / "best.ckpt"
        files = [directory.config, directory.record, directory.metrics_json, directory.curves]
        logger._tracker.log_artifacts(
            best if best.exists() else None, [file for file in files if file.is_file()]
        )


def known_trackers(directory: RunDirectory) -> dict[str, dict[str, Any]]:
    """Return what `run.json` says about the trackers of earlier attempts."""
    try:
        known = loads(directory.record.read_text(encoding="utf-8")).get("trackers", {})
        return {name: dict(identity) for name, identity in known.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def describe(directory: RunDirectory, config: RunConfig, start_env_steps: int) -> RunDescription:
    """Return what trackers are told about a run."""
    return RunDescription(
        directory=directory.path,
        experiment=directory.path.absolute().parent.name,
        name=directory.path.absolute().name,
        description=redact(config.description),
        tags=tuple(redact(tag) for tag in config.tags),
        start_env_steps=start_env_steps,
        hide_command=redacted_command(sys.argv) != sys.argv,
    )


def resolved_config(config_text: str | None, agent: Any) -> dict[str, Any]:
    """Return the configuration of a run without secrets; of one made in Python, its agent's."""
    if config_text is not None:
        config = yaml.safe_load(config_text)
    else:
        model = {"class_path": agent.class_path, "init_args": agent.hyperparameters}
        config = {"seed_everything": agent.seed, "model": model}
    return dict(redact_tree(config))


def _end(error: BaseException | None) -> RunEnd:
    if error is None:
        return "finished"
    stops = (Interrupted, KeyboardInterrupt, SIGTERMException)
    return "interrupted" if isinstance(error, stops) else "failed"
