"""The trainer: Lightning's, with the defaults of reinforcement learning and a run directory."""

from __future__ import annotations

import logging
import os
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Checkpoint as LightningCheckpoint
from lightning.pytorch.callbacks import LambdaCallback
from lightning.pytorch.loggers import Logger, TensorBoardLogger

from lightning_rl.algorithms.base import Algorithm
from lightning_rl.callbacks.checkpoint import Checkpoint
from lightning_rl.callbacks.curves import TrainingCurves
from lightning_rl.callbacks.defaults import missing, monitoring_callbacks
from lightning_rl.callbacks.interruption import GracefulStop
from lightning_rl.callbacks.progress_bar import ProgressBar
from lightning_rl.errors import ConfigError, check_ranges
from lightning_rl.experience.budget import DEFAULT_ENV_STEPS
from lightning_rl.experience.setup import PRECISIONS, check_trainer
from lightning_rl.loggers.csv import CSVMetrics
from lightning_rl.loggers.local import LocalLogger
from lightning_rl.loggers.sqlite import SQLiteLogger
from lightning_rl.loggers.trackers import RunDescription
from lightning_rl.runs.directory import RunConfig, RunDirectory
from lightning_rl.runs.places import copy_rows, link_checkpoints
from lightning_rl.runs.record import RunRecord
from lightning_rl.runs.results import ExecutionResult, save_execution_results
from lightning_rl.runs.tracking import (
    Tracking,
    describe,
    known_trackers,
    resolved_config,
)
from lightning_rl.storage.sealed import remove_temporaries
from lightning_rl.storage.segments import (
    RANK_FOLDER,
    REPLAY_FOLDER,
    checkpoint_env_steps,
    newest_good_checkpoint,
)

logger = logging.getLogger(__name__)

DEFAULT_EVALUATIONS = 10
SMALL_NETWORK = 500_000
"""Parameters below which a second CPU thread costs more than it computes."""


class Trainer(pl.Trainer):
    """Lightning's trainer with evaluation in env steps and everything of a run on disk.

    Args:
        run: Where the run is kept and how it is described.
        eval_every_env_steps: Env steps between two evaluations, rounded to whole training units;
            default a tenth of the budget; 0 for none. Without effect beside `val_check_interval`.
        eval_episodes: Episodes of an evaluation.
        test_episodes: Episodes of `test`.
        num_threads: CPU threads of torch; default one for networks below half a million parameters,
            which more threads only slow down, unless OMP_NUM_THREADS is set.
        accelerator: As in Lightning.
        max_epochs: As in Lightning; -1 because the budget ends a run.
        log_every_n_steps: Training units between two logged rows.
        callbacks: Added to the default ones; one of the same class replaces the default.
        logger: Added to `metrics.csv` and `metrics.db`; true for TensorBoard, false for none.
        enable_checkpointing: Write checkpoints.
        enable_progress_bar: Show progress in the terminal.
        enable_model_summary: As in Lightning.
        num_sanity_val_steps: As in Lightning.
        val_check_interval: As in Lightning, in training units.
        **kwargs: Everything else that Lightning's trainer takes.

    Attributes:
        run_directory: Directory of the present or last run; None when nothing is to be kept
            (`fast_dev_run`, `barebones`).
        config_text: Resolved configuration, to be kept as `config.yaml`.
    """

    def __init__(
        self,
        *,
        run: RunConfig | Mapping[str, Any] | None = None,
        eval_every_env_steps: int | None = None,
        eval_episodes: int = 20,
        test_episodes: int = 100,
        num_threads: int | None = None,
        accelerator: str = "auto",
        max_epochs: int | None = -1,
        log_every_n_steps: int | None = 10,
        callbacks: list[pl.Callback] | pl.Callback | None = None,
        logger: Logger | Iterable[Logger] | bool | None = None,
        enable_checkpointing: bool | None = None,
        enable_progress_bar: bool | None = None,
        enable_model_summary: bool | None = False,
        num_sanity_val_steps: int | None = 0,
        val_check_interval: int | float | str | timedelta | dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        check_ranges(
            {
                "trainer.eval_every_env_steps": (eval_every_env_steps, 0, None),
                "trainer.eval_episodes": (eval_episodes, 1, None),
                "trainer.test_episodes": (test_episodes, 1, None),
                "trainer.num_threads": (num_threads, 1, None),
            }
        )
        _check_precision(kwargs.get("precision"))
        self.run_config = _one_run(run if isinstance(run, RunConfig) else RunConfig(**(run or {})))
        self.eval_every_env_steps = eval_every_env_steps
        self.eval_episodes, self.test_episodes = eval_episodes, test_episodes
        self.num_threads = num_threads
        self.run_directory: RunDirectory | None = None
        self.config_text: str | None = None
        self._resumed_directory: Path | None = None
        self._fitted: Callable[[], Algorithm | None] = lambda: None
        self._evaluates_by_env_steps = val_check_interval is None
        self._keeps_run = not (kwargs.get("barebones") or kwargs.get("fast_dev_run"))
        self._adds_tensorboard = logger is None or logger is True
        own = [callbacks] if isinstance(callbacks, pl.Callback) else list(callbacks or [])
        if not kwargs.get("barebones"):
            own += missing(self._default_callbacks(enable_checkpointing, enable_progress_bar), own)
            own.append(LambdaCallback(on_fit_start=self._schedule_evaluations))
        _quieten_lightning()
        super().__init__(
            accelerator=accelerator,
            max_epochs=max_epochs,
            log_every_n_steps=log_every_n_steps,
            callbacks=own,
            logger=False if isinstance(logger, bool) or logger is None else logger,
            enable_checkpointing=enable_checkpointing,
            enable_progress_bar=enable_progress_bar,
            enable_model_summary=enable_model_summary,
            num_sanity_val_steps=num_sanity_val_steps,
            val_check_interval=val_check_interval,
            **kwargs,
        )

    @property
    def run_dir(self) -> Path | None:
        """Path of the run directory, if there is one."""
        return self.run_directory.path if self.run_directory else None

    def fit(self, model: Algorithm, *args: Any, **kwargs: Any) -> None:  # type: ignore[override]
        """Train an agent until its budget is spent, in a run directory of its own.

        Args:
            model: The agent.
            *args: As in Lightning.
            **kwargs: As in Lightning. `ckpt_path` may be `last`, `best`, a file or None; `last` and
                `best` continue the run of `run.experiment` and `run.name` in place.
        """
        check_trainer(self)  # a spawning strategy fails before it reaches the agent's own check
        if kwargs.get("ckpt_path") in ("last", "best"):
            kwargs["ckpt_path"] = self._continue_in_place(model, kwargs["ckpt_path"])
        self._choose_threads(model)
        self._fitted = weakref.ref(model)
        with self._open_run_directory(model, kwargs.get("ckpt_path")):
            super().fit(model, *args, **kwargs)

    def validate(  # type: ignore[override]
        self, model: Algorithm | None = None, *, verbose: bool = True, **kwargs: Any
    ) -> list[dict[str, float]]:
        """Play the evaluation episodes; return and, if `verbose`, report their statistics."""
        with self._harmless_loggers():
            super().validate(model, verbose=False, **kwargs)
        return self._evaluation_results(verbose)

    def test(  # type: ignore[override]
        self, model: Algorithm | None = None, *, verbose: bool = True, **kwargs: Any
    ) -> list[dict[str, float]]:
        """Play the test episodes, whose seeds nothing was chosen by; return as `validate`.

        Of the agent that this trainer has trained, `results.json` in the run directory keeps them.
        """
        with self._harmless_loggers():
            super().test(model, verbose=False, **kwargs)
        agent = self._fitted()
        if self.run_dir and agent and agent is self.lightning_module and self.is_global_zero:
            played = agent.evaluation
            results = ExecutionResult(played["rewards"], played["lengths"])
            save_execution_results(results, self.run_dir, RunDirectory(self.run_dir).results.name)
        return self._evaluation_results(verbose)

    def _evaluation_results(self, verbose: bool) -> list[dict[str, float]]:
        agent: Any = self.lightning_module
        results = {f"eval/{k}": v for k, v in agent.evaluation.items() if isinstance(v, float)}
        if verbose:
            logger.info("%s", ", ".join(f"{tag} {value:.2f}" for tag, value in results.items()))
        return [results]

    def resume_from(self, directory: RunDirectory | Path | None, checkpoint: Path | None) -> None:
        """Make the next `fit` continue the run of `directory` in place; None starts a new one."""
        path = directory.path if isinstance(directory, RunDirectory) else directory
        self._resumed_directory = path

    def _default_callbacks(
        self, enable_checkpointing: bool | None, enable_progress_bar: bool | None
    ) -> list[pl.Callback]:
        defaults: list[pl.Callback] = [*monitoring_callbacks([]), GracefulStop()]
        if self._keeps_run:
            defaults.append(TrainingCurves())
        if enable_progress_bar is not False:
            defaults.append(ProgressBar())
        if enable_checkpointing is not False:
            defaults.append(Checkpoint())
        return defaults

    def _choose_threads(self, agent: Algorithm) -> None:
        """Set torch's threads; nothing is changed where the user has chosen by OMP_NUM_THREADS."""
        size = sum(parameter.numel() for parameter in agent.parameters())
        if self.num_threads is not None:
            torch.set_num_threads(self.num_threads)
        elif "OMP_NUM_THREADS" not in os.environ and size < SMALL_NETWORK:
            torch.set_num_threads(1)

    def _schedule_evaluations(self, trainer: pl.Trainer, agent: Algorithm) -> None:
        """Turn env steps into a whole number of training units.

        Only at the start of a fit, since a checkpoint decides what the schedules span.
        """
        if not self._evaluates_by_env_steps:
            return
        every = self.eval_every_env_steps
        if every == 0:
            self.limit_val_batches = 0
            return
        if every is None:
            every = (agent.budget.schedule_env_steps or DEFAULT_ENV_STEPS) // DEFAULT_EVALUATIONS
        unit = agent.unit_env_steps * self.world_size
        self.val_check_interval = max(1, round(every / unit))
        # Counted over the whole run and not per epoch: an extended run goes on in rhythm.
        self.check_val_every_n_epoch = None

    def _continue_in_place(self, agent: Algorithm, which: str) -> str:
        path = RunDirectory.resolve(
            self.run_config, type(agent).__name__, agent.env_config.name, agent.seed
        )
        checkpoints = RunDirectory(path).checkpoints
        if not checkpoints.is_dir():
            raise ConfigError(f"no run to continue in {path}; give its run.experiment and run.name")
        named = checkpoints / f"{which}.ckpt"
        chosen, bad = newest_good_checkpoint(checkpoints, named if which == "best" else None)
        for damaged, reason in bad:
            logger.warning("%s is passed over: %s; using %s", damaged, reason, chosen.name)
        self._resumed_directory = path
        return str(chosen)

    @contextmanager
    def _open_run_directory(
        self, agent: Algorithm, checkpoint: str | Path | None
    ) -> Iterator[None]:
        """Claim the run directory for the time of a fit, with its loggers and its record."""
        if not self._keeps_run:
            yield
            return
        resumed, self._resumed_directory = self._resumed_directory, None
        path = resumed or RunDirectory.resolve(
            self.run_config, type(agent).__name__, agent.env_config.name, agent.seed
        )
        if not self.is_global_zero:
            self.run_directory = RunDirectory(path)
            yield
            return
        # A generated name that is taken (two starts in one second) is not the user's mistake.
        generated = self.run_config.new_version or self.run_config.name is None
        take_next = generated and resumed is None
        with RunDirectory.claim(path, resumed is not None, take_next) as directory:
            self.run_directory = directory
            self._link_checkpoints(directory, checkpoint)
            folder = directory.checkpoints
            replay = folder / REPLAY_FOLDER
            ranks = replay.glob(RANK_FOLDER.format(rank="*"))
            for place in (directory.path, folder, replay, *ranks):
                remove_temporaries(place)  # a killed attempt's: the lock says nobody is writing
            start = checkpoint_env_steps(Path(checkpoint)) if checkpoint else 0
            if resumed is not None:
                directory.supersede(start)
            elif checkpoint:
                copy_rows(Path(checkpoint), directory)
            tracking = self._install(directory, start)
            tracking.log_config(resolved_config(self.config_text, agent))
            for item in self.loggers:
                if isinstance(item, LocalLogger):
                    item.clock = lambda: agent.env_steps
            with _closing(tracking):
                yield

    def _link_checkpoints(self, directory: RunDirectory, checkpoint: str | Path | None) -> None:
        callbacks: list[pl.Callback] = self.callbacks  # type: ignore[has-type]
        own = [item.dirpath for item in callbacks if isinstance(item, Checkpoint)]
        folders = [Path(path).expanduser() for path in own if path is not None]
        if folders and len(folders) == len(own):
            link_checkpoints(directory, folders, Path(checkpoint) if checkpoint else None)

    @contextmanager
    def _harmless_loggers(self) -> Iterator[None]:
        """Isolate the user's loggers for the time of an evaluation, and put those of the run aside.

        What the run directory says about training does not change when its agent is tested.
        """
        folder = Path(self.run_dir or self.default_root_dir)
        every = self.loggers
        self.loggers = [item for item in every if not _is_of_run_directory(item)]
        external = self.loggers if self.is_global_zero else []
        try:
            with _closing(Tracking(external, RunDescription(folder)), keep_artifacts=False):
                yield
        finally:
            self.loggers = every

    def _install(self, directory: RunDirectory, start: int) -> Tracking:
        """Give the trainer this directory's loggers and record instead of the last one's.

        Args:
            directory: The claimed run directory.
            start: Env step that training starts from; TensorBoard hides later points of the past.

        Returns:
            The external loggers, isolated.
        """
        own = [item for item in self.loggers if not getattr(item, "of_run_directory", False)]
        added: list[Logger] = []
        if self._adds_tensorboard:
            folder = str(directory.path)
            added.append(TensorBoardLogger(folder, name="", version="", default_hp_metric=False))
        added.append(CSVMetrics(directory.path))
        given = [item for item in own if isinstance(item, SQLiteLogger)]
        for database in given:
            database.place_in(directory.path)
        if not any(database.path == directory.metrics_db for database in given):
            added.append(SQLiteLogger(directory.metrics_db))
        for item in added:
            item.of_run_directory = True  # type: ignore[attr-defined]
        # The user's own come first: `trainer.logger` is the one that `trainer.logger.experiment` is
        # expected of.
        self.loggers = [*own, *added]
        run = describe(directory, self.run_config, start)
        tracking = Tracking(self.loggers, run, known_trackers(directory))
        record = RunRecord(directory, self.run_config, self.config_text, tracking)
        callbacks: list[pl.Callback] = self.callbacks  # type: ignore[has-type]
        others = [item for item in callbacks if not isinstance(item, RunRecord)]
        # Lightning keeps `Checkpoint` callbacks last, so that they save what the others have done.
        last = [item for item in others if isinstance(item, LightningCheckpoint)]
        self.callbacks = [*(item for item in others if item not in last), record, *last]
        return tracking


def _is_of_run_directory(item: Logger) -> bool:
    return isinstance(item, LocalLogger) or getattr(item, "of_run_directory", False)


@contextmanager
def _closing(tracking: Tracking, keep_artifacts: bool = True) -> Iterator[None]:
    """Close the external loggers at the end, whatever it is."""
    error: BaseException | None = None
    try:
        yield
    except BaseException as caught:
        error = caught
        raise
    finally:
        tracking.close(error, keep_artifacts)


def _check_precision(precision: Any) -> None:
    if str(precision) in ("16", "16-mixed"):
        # On a CPU Lightning would take bf16-mixed in its place.
        raise ConfigError(f"expected precision among {PRECISIONS}, received '16-mixed'")


def _one_run(config: RunConfig) -> RunConfig:
    if config.seeds > 1:
        raise ConfigError(
            f"run.seeds: a trainer makes one run, got {config.seeds}; "
            "`lightning-rl fit --run.seeds N` makes several"
        )
    return config


def _quieten_lightning() -> None:
    """Keep Lightning's remarks about hardware and other products out of the terminal."""
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric.utilities.seed").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", ".*isinstance\\(treespec, LeafSpec\\).*")
