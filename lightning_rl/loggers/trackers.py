"""What is particular to a kind of tracker: what a run is called there and how it is taken up again.

A `Tracker` is asked in the training thread before the run, and on its courier's thread afterwards.
Attributes of Lightning's loggers that begin with an underscore have no public way to be set after
the logger was made; the tests read back what came of each.
"""

from __future__ import annotations

import importlib
import logging
import os
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from lightning.fabric.utilities.logger import _convert_params, _flatten_dict
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

log = logging.getLogger(__name__)

X_AXIS = "env_steps"
FINISH_S = 20.0
"""Longest time in seconds that W&B tries to upload when a run has ended."""
RunEnd: TypeAlias = Literal["finished", "failed", "interrupted"]
"""How an attempt of a run ended."""
TimedRow: TypeAlias = tuple[Mapping[str, float], int | None, float]
"""Metrics, their env step, and when they were logged, in seconds since 1970."""


@dataclass(frozen=True)
class RunDescription:
    """What trackers are told about a run, without secrets.

    Attributes:
        directory: The run directory.
        experiment: Name of the experiment.
        name: Name of the run.
        description: One free sentence.
        tags: Labels.
        start_env_steps: Env step that this attempt starts from.
        hide_command: Whether the command line holds a secret.
    """

    directory: Path
    experiment: str = ""
    name: str = ""
    description: str = ""
    tags: Sequence[str] = ()
    start_env_steps: int = 0
    hide_command: bool = False


class Tracker:
    """A tracker about which nothing is known: it gets metrics, configuration and the end.

    Args:
        logger: The Lightning logger that writes to it.
    """

    names_are_local = True
    """Whether `name` and `version` of the logger are known without asking the tracker."""
    loses_rows = True
    """Whether rows that were on their way when a run was killed may not have arrived."""
    rows_at_once = 1
    """Most rows that `log_rows` gets; more than one only if it takes all of them or none."""

    def __init__(self, logger: Any) -> None:
        self.logger = logger
        self.saves = type(logger).save is not Logger.save
        """Whether `save` does anything."""

    def prepare(self, run: RunDescription, known: Mapping[str, Any]) -> None:
        """Set what the logger is opened with, as far as its user left that open.

        Args:
            run: The run.
            known: Its `identity` in earlier attempts, empty in the first.
        """

    def open(self) -> Any:
        """Connect, begin or continue the run there, and return the logger's `experiment`."""
        return getattr(self.logger, "experiment", None)

    @property
    def identity(self) -> dict[str, str]:
        """What a later attempt needs to continue the same run, as far as it is known."""
        return {}

    def row(self, metrics: Mapping[str, float], step: int | None) -> Mapping[str, float]:
        """Return what is logged for a row at env step `step`."""
        return metrics

    def log_rows(self, rows: Sequence[TimedRow]) -> None:
        """Log rows."""
        for metrics, step, _ in rows:
            self.logger.log_metrics(metrics, step)

    def config(self, config: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return what of the configuration is to be logged."""
        return config

    def save(self, save: Callable[[], None]) -> None:
        """Write what the tracker holds back.

        Args:
            save: The logger's own way.
        """
        save()

    def log_artifacts(self, best: Path | None, files: Sequence[Path]) -> None:
        """Keep the best checkpoint and other files of the run directory."""

    def finish(self, end: RunEnd) -> None:
        """Mark the run as ended, after everything else."""


class TensorBoardTracker(Tracker):
    """Event files: a resumed run hides the points behind its checkpoint."""

    loses_rows = False  # they are written at once

    def prepare(self, run: RunDescription, known: Mapping[str, Any]) -> None:
        """Continue in the same folder."""
        # Imported by the training thread: environments are forked while the courier runs, and a
        # child would wait for ever for an import lock that the courier held.
        importlib.import_module("torch.utils.tensorboard")
        self._run = run
        logger = self.logger
        if logger._root_dir == ".":
            logger._root_dir = str(run.directory)
        if "log_dir" in known and logger._version is None:
            logger._version = Path(known["log_dir"]).name.removeprefix("version_")
            logger._version = int(logger._version) if logger._version.isdigit() else None
        if run.start_env_steps:
            # TensorBoard drops the points *at* this step too, and one at the start stays.
            logger._kwargs.setdefault("purge_step", run.start_env_steps + 1)

    def open(self) -> Any:
        """Make the event file, with description and labels as texts."""
        experiment = self.logger.experiment
        texts = {"description": self._run.description, "tags": ", ".join(self._run.tags)}
        for name, text in texts.items():
            if text:
                experiment.add_text(f"run/{name}", text, self._run.start_env_steps)
        return experiment

    def save(self, save: Callable[[], None]) -> None:
        """Flush; in the run directory without Lightning's `hparams.yaml`: it has `config.yaml`."""
        if Path(self.logger.log_dir) == self._run.directory:
            self.logger.experiment.flush()
        else:
            save()

    @property
    def identity(self) -> dict[str, str]:
        """The folder of the event files."""
        return {"log_dir": str(self.logger.log_dir)}


class WandbTracker(Tracker):
    """Weights & Biases, online or offline: one run id for all attempts."""

    def prepare(self, run: RunDescription, known: Mapping[str, Any]) -> None:
        """Choose id, folder, names and labels, unless a run is already under way."""
        wandb = importlib.import_module("wandb")
        logger = self.logger
        self._is_ours = logger._experiment is None and wandb.run is None
        self._experiment: Any = None
        self._url: str | None = None
        if not self._is_ours:
            return
        given = {key: value for key, value in logger._wandb_init.items() if value is not None}
        given.pop("anonymous", None)  # has no effect any more but a warning
        defaults = {
            # An agent of a W&B sweep has chosen the id of the run that it starts.
            "id": known.get("id") or os.environ.get("WANDB_RUN_ID") or uuid.uuid4().hex[:8],
            "name": run.name,
            "group": run.experiment,
            "notes": run.description,
            "tags": list(run.tags),
            "resume": "allow",
        }
        if given.get("dir") in (None, "."):
            given["dir"] = str(run.directory)
        settings: dict[str, Any] = {"console": "off"}  # what the console shows may hold secrets
        if run.hide_command:
            settings["x_disable_meta"] = True
        if "finish_timeout" in wandb.Settings.model_fields:  # since 0.30: else it waits for ever
            settings["finish_timeout"] = FINISH_S
        if not isinstance(given.get("settings"), wandb.Settings):
            given["settings"] = {**settings, **given.get("settings", {})}
        logger._wandb_init = {**defaults, **given}
        if not (logger._offline or _has_account(wandb, logger._wandb_init.get("mode"))):
            # Asking for an account, as wandb would, is nothing for a thread in the background.
            logger._wandb_init["mode"] = "offline"
            log.warning(
                "W&B has no account here (`wandb login`): it logs offline in %s/wandb, "
                "and `wandb sync` uploads that later.",
                logger._wandb_init["dir"],
            )
        logger._id, logger._name = logger._wandb_init["id"], logger._wandb_init["name"]
        logger._save_dir = logger._wandb_init["dir"]

    def open(self) -> Any:
        """Begin or continue the run; its x-axis is env steps."""
        self._experiment = experiment = self.logger.experiment
        self._url = None if experiment.offline else experiment.url
        experiment.define_metric(X_AXIS)
        experiment.define_metric("*", step_metric=X_AXIS, step_sync=True)
        return experiment

    @property
    def identity(self) -> dict[str, str]:
        """Id of the run, and its address when it is online."""
        identity = {"id": self.logger.version, "url": self._url}
        return {key: str(value) for key, value in identity.items() if value}

    def row(self, metrics: Mapping[str, float], step: int | None) -> Mapping[str, float]:
        """Add the x-axis to the row: W&B's own step counts calls."""
        return metrics if step is None else {**metrics, X_AXIS: step}

    def log_artifacts(self, best: Path | None, files: Sequence[Path]) -> None:
        """Keep the best checkpoint as the artifact `model-<id>` with the alias `best`."""
        if best is None:
            return
        wandb = importlib.import_module("wandb")
        artifact = wandb.Artifact(f"model-{self._experiment.id}", type="model")
        artifact.add_file(str(best.resolve()), name="best.ckpt")
        for file in files:
            artifact.add_file(str(file), name=file.name)
        self._experiment.log_artifact(artifact, aliases=["best"])

    def finish(self, end: RunEnd) -> None:
        """End the run, so that the next one of this process gets its own."""
        if self._is_ours:
            if end == "interrupted":
                self._experiment.mark_preempting()
            self._experiment.finish(exit_code=0 if end == "finished" else 1)
            self.logger._experiment = None  # used again, the logger resumes the same run


def _has_account(wandb: Any, mode: str | None) -> bool:
    """Return whether there is an account, as far as one is needed; nobody is asked for one."""
    if (mode or wandb.setup().settings.mode) not in ("online", "shared"):
        return True
    return bool(wandb.login(prompt=False, verify=False))


MLFLOW_ROWS, MLFLOW_METRICS = 50, 1_000
"""Rows for one call, and the most metrics that MLflow takes in one."""


def _mlflow_name(tag: str) -> str:
    """Return a tag without characters that MLflow refuses, as Lightning's logger does."""
    return re.sub("[^a-zA-Z0-9_/. -]+", "", tag)


class MLflowTracker(Tracker):
    """An MLflow server or local store: one run id for all attempts."""

    names_are_local = False

    def __init__(self, logger: Any) -> None:
        super().__init__(logger)
        if type(logger).log_metrics is MLFlowLogger.log_metrics:  # and no user's own way
            self.rows_at_once = MLFLOW_ROWS

    def prepare(self, run: RunDescription, known: Mapping[str, Any]) -> None:
        """Choose run id, names, description and labels."""
        importlib.import_module("mlflow")
        logger = self.logger
        store = str(logger._tracking_uri)
        if store.startswith("sqlite:///") and logger._artifact_location is None:
            # Else it is ./mlruns, wherever that is.
            folder = Path(store.removeprefix("sqlite:///")).absolute().parent
            logger._artifact_location = (folder / "mlartifacts").as_uri()
        self._given = logger._run_id
        logger._run_id = logger._run_id or known.get("run_id")
        logger._run_name = logger._run_name or run.name or None
        if logger._experiment_name == "lightning_logs" and run.experiment:
            logger._experiment_name = run.experiment
        tags = dict.fromkeys(run.tags, "true")
        if run.description:
            tags["mlflow.note.content"] = run.description
        logger.tags = {**tags, **(logger.tags or {})}

    def open(self) -> Any:
        """Begin the run, or continue it as running."""
        logger = self.logger
        resumed = logger._run_id
        if resumed is not None:
            self._check_exists(resumed)
        client = logger.experiment
        if logger._run_id == resumed:
            client.update_run(resumed, status="RUNNING")
            for key, value in logger.tags.items():
                client.set_tag(resumed, key, value)
        return client

    def _check_exists(self, run_id: str) -> None:
        """Begin a new run where the one of an earlier attempt was deleted."""
        from mlflow.exceptions import MlflowException

        try:
            self.logger._mlflow_client.get_run(run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST" or self._given:
                raise
            self.logger._run_id = None

    @property
    def identity(self) -> dict[str, str]:
        """Id of the run, once the store has given it."""
        run_id = self.logger._run_id
        return {"run_id": run_id, "tracking_uri": self._address} if run_id else {}

    @property
    def _address(self) -> str:
        address = str(self.logger._tracking_uri)
        scheme, separator, rest = address.partition("://")
        return f"{scheme}{separator}{rest.rpartition('@')[2]}"  # without a password

    def log_rows(self, rows: Sequence[TimedRow]) -> None:
        """Log rows in as few transactions as MLflow allows: each costs as much as 20 metrics."""
        if self.rows_at_once == 1:
            super().log_rows(rows)
            return
        entities = importlib.import_module("mlflow.entities")
        prefix = f"{self.logger._prefix}{self.logger.LOGGER_JOIN_CHAR}" * bool(self.logger._prefix)
        batch = [
            entities.Metric(_mlflow_name(prefix + tag), value, int(logged * 1000), step or 0)
            for metrics, step, logged in rows
            for tag, value in metrics.items()
        ]
        client, run_id = self.logger.experiment, self.logger.run_id
        # Of a batch that fails in its middle, MLflow passes over what it already has.
        for start in range(0, len(batch), MLFLOW_METRICS):
            part = batch[start : start + MLFLOW_METRICS]
            client.log_batch(run_id, metrics=part, **self.logger._log_batch_kwargs)

    def config(self, config: Mapping[str, Any]) -> Mapping[str, Any]:
        """Leave out what an earlier attempt has logged: MLflow refuses a second value."""
        logged = self.logger.experiment.get_run(self.logger.run_id).data.params
        flat = _flatten_dict(_convert_params(dict(config)))
        return {key: value for key, value in flat.items() if key not in logged}

    def log_artifacts(self, best: Path | None, files: Sequence[Path]) -> None:
        """Keep the best checkpoint under `checkpoints`, other files beside it."""
        client, run_id = self.logger.experiment, self.logger.run_id
        for file in files:
            client.log_artifact(run_id, str(file))
        if best is not None:
            client.log_artifact(run_id, str(best), "checkpoints")

    def finish(self, end: RunEnd) -> None:
        """Set the final status."""
        status = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}[end]
        self.logger.experiment.set_terminated(self.logger.run_id, status)


_KINDS: dict[type[Logger], type[Tracker]] = {
    TensorBoardLogger: TensorBoardTracker,
    WandbLogger: WandbTracker,
    MLFlowLogger: MLflowTracker,
}


def tracker_of(logger: Logger) -> Tracker:
    """Return what is known about the tracker of a logger."""
    kinds = (kind for known, kind in _KINDS.items() if isinstance(logger, known))
    return next(kinds, Tracker)(logger)
