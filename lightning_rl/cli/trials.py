"""What a trial of a sweep does in its process: train its seeds, report, stop when pruned."""

from __future__ import annotations

import logging
import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer

from lightning_rl.callbacks.base import Agent, Callback
from lightning_rl.cli.cells import train_directory
from lightning_rl.cli.checks import model_class
from lightning_rl.cli.sweep_file import option_of
from lightning_rl.cli.yaml_check import Document
from lightning_rl.errors import Interrupted
from lightning_rl.runs.directory import RunDirectory
from lightning_rl.runs.plain_json import loads
from lightning_rl.runs.record import RunRecord
from lightning_rl.runs.search import evaluations
from lightning_rl.runs.sweep import Outcome, Sweep, Trial, total_env_steps
from lightning_rl.runs.trial_queue import (
    open_study,
)
from lightning_rl.runs.upkeep import PACKAGE, one_line

HEARTBEAT_S = 20.0


def work(sweep: Sweep, trial: Trial) -> None:
    """Bring a trial to its end and store what became of it.

    Raises:
        Interrupted: It was asked to stop and has saved its state; there is no outcome yet.
    """
    logging.getLogger(PACKAGE).addHandler(logging.NullHandler())
    reports = Reports(sweep, trial)
    outcome = Outcome("complete")
    with reports.heartbeat():
        try:
            for index, seed in enumerate(sweep.seeds):
                _train_seed(sweep, trial, index, seed, reports)
                if reports.pruned:
                    outcome.state = "pruned"
                    break
        except Interrupted:
            raise
        except KeyboardInterrupt:  # before training began
            raise SystemExit(128 + signal.SIGINT) from None
        except Exception as error:
            logging.getLogger(PACKAGE).exception("trial %d failed", trial.number)
            outcome = Outcome("failed", error_message=one_line(error))
    folders = [seed_folder(trial, seed) for seed in sweep.seeds]
    outcome.env_steps = sum(
        int(_summary(f).get("training", {}).get("env_steps") or 0) for f in folders
    )
    if outcome.state == "complete":
        scores = [score_of(folder, sweep.objective) for folder in folders]
        outcome.score = math.fsum(scores) / len(scores)
        if math.isnan(outcome.score):
            outcome = Outcome("failed", None, outcome.env_steps, "nothing was evaluated")
    outcome.store(trial.folder)


def seed_folder(trial: Trial, seed: int) -> Path:
    """Return the run directory of one seed of a trial."""
    return trial.folder / f"seed-{seed}"


def score_of(folder: Path, objective: str) -> float:
    """Return the mean return of a run's best or last evaluation; NaN where there is none.

    Args:
        folder: The run directory.
        objective: `best` or `last`.
    """
    scores = evaluations(folder)
    if not scores:
        return math.nan
    return max(scores) if objective == "best" else scores[-1]


def _summary(folder: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = loads(RunDirectory(folder).metrics_json.read_text())
    except (OSError, ValueError):
        return {}
    return content


def _train_seed(sweep: Sweep, trial: Trial, index: int, seed: int, reports: Reports) -> None:
    """Train one seed, or continue it from its newest checkpoint."""
    folder = seed_folder(trial, seed)
    documents, options = configuration(sweep, trial, seed)
    reports.start(index, folder)
    train_directory(folder, documents, options, [reports])


def configuration(sweep: Sweep, trial: Trial, seed: int) -> tuple[list[Document], list[str]]:
    """Return the documents of one seed of a trial, and the options laid over them."""
    folder = seed_folder(trial, seed)
    run = {"root": str(folder.parents[1]), "experiment": folder.parent.name, "name": folder.name}
    documents = [Document(f"trial {trial.number}", content) for content in sweep.documents]
    documents.append(Document("sweep", {"run": run, "seed_everything": seed}))
    algorithm = model_class(documents)
    options = [option_of(key, value, algorithm).token for key, value in trial.parameters.items()]
    return documents, options


class Reports(Callback):
    """Tells the storage about every evaluation, and stops a run that the pruner gives up.

    Args:
        sweep: The sweep.
        trial: The trial that this process runs.
    """

    def __init__(self, sweep: Sweep, trial: Trial) -> None:
        self.sweep, self.trial = sweep, trial
        self.study = open_study(sweep)
        self.pruned = False
        self._index = 0
        self._reported = 0
        self._scores: list[float] = []

    def start(self, index: int, folder: Path) -> None:
        """Take note that seed number `index` begins; the ones before it have ended."""
        if index > 0:
            before = seed_folder(self.trial, self.sweep.seeds[index - 1])
            self._scores.append(score_of(before, self.sweep.objective))
        self._index, self._reported = index, 0

    def on_metrics(
        self, trainer: Trainer, agent: Agent, metrics: dict[str, float], env_steps: int
    ) -> None:
        """Report new evaluations; of a resumed run, those before it was cut as well."""
        if "eval/mean_reward" not in metrics or trainer.sanity_checking:
            return
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        record = next(item for item in callbacks if isinstance(item, RunRecord))
        for row in record.evaluations[self._reported :]:
            self._report(int(row["env_steps"]), float(row["eval/mean_reward"]))
        self._reported = len(record.evaluations)
        if self.sweep.pruner != "none" and self._should_stop():
            self.pruned = trainer.should_stop = True

    def _report(self, env_steps: int, score: float) -> None:
        if math.isnan(score):
            return
        budget = total_env_steps(self.sweep) or 0
        scores = [*self._scores, score]
        step = self._index * budget + env_steps
        storage, identifier = self.study._storage, self.trial.trial_id
        storage.set_trial_intermediate_value(identifier, step, math.fsum(scores) / len(scores))

    def _should_stop(self) -> bool:
        frozen = self.study._storage.get_trial(self.trial.trial_id)
        return bool(self.study.pruner.prune(self.study, frozen))

    @contextmanager
    def heartbeat(self) -> Iterator[None]:
        """Tell other machines now and then that this trial is alive."""
        ended = threading.Event()

        def beat() -> None:
            while not ended.wait(HEARTBEAT_S):
                identifier = self.trial.trial_id
                self.study._storage.set_trial_user_attr(identifier, "seen_at", time.time())

        thread = threading.Thread(target=beat, name="sweep-heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
