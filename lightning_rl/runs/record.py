"""`run.json`, `metrics.json`, `config.yaml` and `training.log`: what a run is and how it went."""

from __future__ import annotations

import logging
import math
import os
import socket
import sys
import time
from datetime import datetime, timezone
from typing import Any

import yaml
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lightning_rl.callbacks.base import Agent, Callback
from lightning_rl.callbacks.episode_statistics import EpisodeStatistics
from lightning_rl.errors import Interrupted
from lightning_rl.runs import provenance
from lightning_rl.runs.directory import RunConfig, RunDirectory
from lightning_rl.runs.plain_json import dumps, loads
from lightning_rl.runs.tracking import Tracking
from lightning_rl.runs.upkeep import AtomicFile, LogFile, Ticker, one_line
from lightning_rl.types import VOLATILE_TAGS, Episode, Statistics

log = logging.getLogger(__name__)

SUMMARY_EVERY_S = 10.0
"""Least time between two writings of `metrics.json` before the end, in seconds."""


class RunRecord(Callback):
    """Keep the record of a run in its directory.

    `run.json` holds status, progress, attempts and what the run was made with; it is replaced
    atomically and at least once a second while training. `metrics.json` is the summary, written
    after evaluations and at the end. `training.log` gets the messages of `lightning_rl` and the
    traceback of a failure.

    A folder that cannot be written any more is reported once and does not end the run: whether its
    state is safe is the business of the checkpoints.

    Attributes:
        training: The `training` part of the `metrics.json` written last.

    Args:
        directory: The run directory, claimed by the caller.
        config: Description, tags and log level.
        config_text: Resolved configuration to be kept as `config.yaml`; None: not written.
        tracking: The run's external loggers, whose names for the run are part of the record.
    """

    def __init__(
        self,
        directory: RunDirectory,
        config: RunConfig | None = None,
        config_text: str | None = None,
        tracking: Tracking | None = None,
    ) -> None:
        self.directory = directory
        self.config = config or RunConfig()
        self.config_text = config_text
        self._tracking = tracking
        self.final: Statistics = {}
        self.evaluations: list[dict[str, float | int]] = []
        self.training: dict[str, Any] = {}
        self._record: dict[str, Any] | None = None  # None: no run is in progress
        self._agent: Agent = None
        self._training = False  # before that, the agent's counters are not those of the run
        self._episodes: EpisodeStatistics | None = None
        self._handler: LogFile | None = None
        self._file = AtomicFile(directory.record)
        self._summary_file = AtomicFile(directory.metrics_json)
        self._next_summary = 0.0
        self._ticker: Ticker | None = None
        if self.config.log_level == "DEBUG":  # an overridden hook costs a call per episode
            self.on_episode_end = self._log_episode  # type: ignore[method-assign]

    # --- the course of a run

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Open the log and write the first record, before anything can fail."""
        if stage != TrainerFn.FITTING.value or not trainer.is_global_zero:
            return
        self._agent = pl_module
        if self._tracking is not None:
            self._tracking.be_patient()
        found = (c for c in getattr(trainer, "callbacks", []) if isinstance(c, EpisodeStatistics))
        self._episodes = next(found, None)
        self._handler = LogFile.attach(self.directory.log, self.config.log_level)
        self._record = self._begin(self._previous())
        if self.config_text is not None:
            AtomicFile(self.directory.config).write(_without_secrets(self.config_text))
        self._write()

    def on_training_begins(self, trainer: Trainer, agent: Agent) -> None:
        """Note where this attempt starts, and keep the record up to date from now on.

        At Lightning's `on_train_start` the agent does not yet stand where its checkpoint was taken.
        """
        if self._record is None:
            return
        self._training = True
        if self._tracking is not None:
            self._tracking.begin(lambda: int(agent.env_steps), self.directory.metrics_csv)
        attempts = self._record["attempts"]
        attempts[-1]["start_env_steps"] = int(agent.env_steps)
        self._write()
        self._ticker = Ticker(self._write)
        log.info(
            "Training %s on %s from env step %d, seed %d, in %s",
            self._record["algorithm"],
            self._record["environment"],
            agent.env_steps,
            agent.seed,
            self.directory.path,
        )
        if agent.compiled:
            log.info("The first update is compiled, which takes 10 to 20 s on an idle machine")

    def on_metrics(
        self, trainer: Trainer, agent: Agent, metrics: Statistics, env_steps: int
    ) -> None:
        """Keep the newest value of every tag, and all evaluations."""
        if self._record is None or trainer.sanity_checking:
            return
        numbers = {tag: getattr(v, "item", lambda v=v: v)() for tag, v in metrics.items()}
        self.final.update(numbers)
        evaluation = {tag: value for tag, value in numbers.items() if tag.startswith("eval/")}
        if "eval/mean_reward" in evaluation:
            row = {"env_steps": int(env_steps), "episode": int(agent.episodes), **evaluation}
            self.evaluations.append(row)

    def on_validation_end(self, trainer: Trainer, agent: Agent) -> None:
        """Bring the summary up to date, if some time has passed."""
        if self._record is not None and time.monotonic() >= self._next_summary:
            self._write_summary()

    def on_fit_end(self, trainer: Trainer, agent: Agent) -> None:
        """Close the record of a run that came to its end."""
        is_spent = agent.budget.is_spent(agent.env_steps, agent.episodes)
        self._finish("finished" if is_spent else "stopped")

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Close the record of a run that was interrupted or failed."""
        signal_name = _signal_of(exception)
        if signal_name is not None:
            self._finish("interrupted", signal_name=signal_name)
        elif self._record is not None:
            if self._handler is not None:
                self._handler.write_traceback(exception)
            self._finish("failed", error=provenance.redact(one_line(exception)))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Close what is still open."""
        self._finish("stopped")

    def state_dict(self) -> dict[str, Any]:
        """Return what `metrics.json` needs; wall clock and attempts stand in `run.json`.

        Trackers get what waits for them: a run that resumes from here goes on behind it.
        """
        if self._tracking is not None:
            self._tracking.hurry()
        final = {
            tag: value for tag, value in self.final.items() if not tag.startswith(VOLATILE_TAGS)
        }
        return {"final": final, "evaluations": [dict(row) for row in self.evaluations]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a state of `state_dict`."""
        self.final = dict(state_dict["final"])
        self.evaluations = [dict(row) for row in state_dict["evaluations"]]

    # --- what is written

    @property
    def best(self) -> dict[str, float | int] | None:
        """The first evaluation with the greatest mean reward."""
        rows = [row for row in self.evaluations if not math.isnan(row["eval/mean_reward"])]
        if not rows:
            return None
        best = max(rows, key=lambda row: row["eval/mean_reward"])
        return {key: best[key] for key in ("env_steps", "episode", "eval/mean_reward")}

    def summary(self, agent: Agent) -> dict[str, Any]:
        """Return the content of `metrics.json`."""
        episodes = self._episodes or EpisodeStatistics()
        epsilon = getattr(agent, "epsilon", None)
        training = {
            **episodes.summary(),
            "final_epsilon": self.final.get("train/epsilon") if epsilon is None else float(epsilon),
            "q_table_size": getattr(agent, "q_table_size", None),
            "env_steps": int(agent.env_steps),
            "wall_time_s": float(agent.elapsed_s),
        }
        return {
            "final": dict(self.final),
            "best": self.best,
            "training": training,
            "evaluations": list(self.evaluations),
            "episodes": {"rewards": list(episodes.rewards), "lengths": list(episodes.lengths)},
        }

    def _previous(self) -> dict[str, Any]:
        """Return the record of the attempts before this one."""
        try:
            record = loads(self.directory.record.read_text())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            log.warning("%s cannot be read (%s) and begins anew.", self.directory.record, error)
            return {}
        usable = isinstance(record, dict) and isinstance(record.get("attempts"), list)
        return record if usable else {}

    def _begin(self, previous: dict[str, Any]) -> dict[str, Any]:
        agent, config = self._agent, self.config
        self._training = False
        attempt = {
            "start_env_steps": None,
            "end_env_steps": None,
            "signal": None,
            "started": _now(),
            "ended": None,
            "hostname": socket.gethostname(),
            "pid": os.getpid(),
        }
        found = provenance.versions()
        known = previous.get("versions", found)
        if known != found:
            changed = [k for k in found if known.get(k) != found[k]]
            differences = ", ".join(f"{k} {known.get(k)} -> {found[k]}" for k in changed)
            log.warning("Versions differ from those of the run so far: %s.", differences)
        environment = getattr(getattr(agent, "env_config", None), "name", None)
        return {
            "status": "running",
            "error": None,
            "env_steps": previous.get("env_steps", 0),
            "algorithm": type(agent).__name__,
            "environment": environment,
            "seed": agent.seed,
            "description": provenance.redact(config.description),
            "tags": [provenance.redact(tag) for tag in config.tags],
            "trackers": previous.get("trackers", {}),
            "created": previous.get("created", attempt["started"]),
            "attempts": [*previous.get("attempts", []), attempt],
            "command": provenance.redacted_command(sys.argv),
            "git_commit": provenance.git_commit(),
            "versions": found,
            "hardware": provenance.hardware(getattr(agent, "device", "cpu")),
        }

    def _write(self) -> None:
        """Write `run.json` as things stand; called from two threads."""
        record, agent = self._record, self._agent
        if record is None:
            return
        if self._training:
            env_steps = int(agent.env_steps)
            record["env_steps"] = record["attempts"][-1]["end_env_steps"] = env_steps
        record["updated"] = _now()
        if self._tracking is not None:
            record["trackers"] = {**record["trackers"], **self._tracking.identities}
        # These are decided only when training starts.
        record["compiled"] = bool(agent.compiled)
        record["env_snapshot_level"] = agent.snapshot_level
        record["budget"] = {
            "total_env_steps": agent.total_env_steps,
            "total_episodes": agent.total_episodes,
            "schedule_env_steps": agent.schedule_env_steps,
        }
        self._file.write(dumps(record) + "\n")

    def _write_summary(self) -> None:
        self._next_summary = time.monotonic() + SUMMARY_EVERY_S
        summary = self.summary(self._agent)
        self.training = summary["training"]
        self._summary_file.write(dumps(summary) + "\n")

    def _finish(
        self, status: str, signal_name: str | None = None, error: str | None = None
    ) -> None:
        """Write everything a last time and close it; only the first call does something."""
        if self._record is None:
            return
        if self._ticker is not None:
            self._ticker.stop()
            self._ticker = None
        record = self._record
        record["status"] = status
        record["error"] = error
        record["attempts"][-1]["signal"] = signal_name
        record["attempts"][-1]["ended"] = _now()
        try:
            self._write_summary()
            self._write()
            log.info("Training %s at env step %d.", status, record["env_steps"])
        finally:
            self._record = None
            if self._handler is not None:
                self._handler.detach()
                self._handler = None

    def _log_episode(self, trainer: Trainer, agent: Agent, episode: Episode) -> None:
        """Log one training episode."""
        log.debug(
            "episode %d: reward %g, length %d, seed %d, %s, env step %d",
            episode.index,
            episode.reward,
            episode.length,
            episode.seed,
            "terminated" if episode.terminated else "truncated",
            episode.env_steps,
        )


def _without_secrets(config_text: str) -> str:
    """Return YAML without secrets; replacing them in its text could end in no YAML."""
    if provenance.redact(config_text) == config_text:
        return config_text
    tree = provenance.redact_tree(yaml.safe_load(config_text))
    return str(yaml.safe_dump(tree, sort_keys=False))


def _signal_of(exception: BaseException) -> str | None:
    """Return the name of the signal that ended the run, None for an error."""
    if isinstance(exception, Interrupted):
        return exception.signal
    if isinstance(exception, KeyboardInterrupt):
        return "SIGINT"
    return "SIGTERM" if isinstance(exception, SIGTERMException) else None


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")
