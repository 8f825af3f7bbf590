"""The run around the learning rule: its clock, its events and Lightning's training hooks."""

from __future__ import annotations

import math
import time
from contextlib import AbstractContextManager
from typing import Any

import torch
from lightning.pytorch import Callback

from lightning_rl.errors import Interrupted
from lightning_rl.experience.agent_state import AgentState
from lightning_rl.experience.budget import Budget
from lightning_rl.experience.evaluation_hooks import EvaluationHooks
from lightning_rl.experience.source import ExperienceSource
from lightning_rl.functional.statistics import StatisticsAccumulator
from lightning_rl.types import Episode, Statistics


class RunHooks(EvaluationHooks):
    """The half of an algorithm that counts, announces, logs and stops.

    Attributes:
        budget: What the run may spend.
        collect_s: Seconds spent collecting, over all attempts.
        gradient_steps: Completed gradient steps.
        iteration: Completed training units.
        logging_s: Seconds that training spent in calls of loggers, in this attempt.
        source: Experience source while training, else None.
        state: What a checkpoint holds beyond Lightning's own entries.
        save_at: When, by `time.monotonic()`, to let callbacks save even within a unit.
        statistics: Training metrics since the last logged row.
        stop_requested: Number of the signal that asked the run to stop, or 0.
    """

    budget: Budget
    state: AgentState

    def __init__(self) -> None:
        super().__init__()
        self.statistics = StatisticsAccumulator()
        self.source: ExperienceSource | None = None
        self.iteration = self.gradient_steps = self.stop_requested = 0
        self.collect_s = self.logging_s = 0.0
        self.save_at = math.inf

    # The clock. Counters of an agent that is not training are those of its last checkpoint.

    @property
    def env_steps(self) -> int:
        """Transitions collected, over all environments and ranks."""
        return self.source.env_steps if self.source is not None else self.state.env_steps

    @property
    def episodes(self) -> int:
        """Training episodes finished, over all environments and ranks."""
        return self.source.episodes if self.source is not None else self.state.episodes

    @property
    def total_env_steps(self) -> int | None:
        """Budget in env steps, or None."""
        return self.budget.env_steps

    @property
    def total_episodes(self) -> int | None:
        """Budget in episodes, or None."""
        return self.budget.episodes

    @property
    def schedule_env_steps(self) -> int | None:
        """Env steps that schedules span, or None with a budget in episodes."""
        return self.budget.schedule_env_steps

    @property
    def progress(self) -> float:
        """How far schedules are, in [0, 1]."""
        return self.budget.progress(self.env_steps, self.episodes)

    @property
    def elapsed_s(self) -> float:
        """Seconds of training, over all attempts."""
        return self.state.elapsed_s

    @property
    def num_ranks(self) -> int:
        """Processes that train together; 1 while no trainer is attached."""
        return self._trainer.world_size if self._trainer is not None else 1

    # Events and metrics.

    def emit(self, hook: str, *args: Any) -> list[Any]:
        """Call `hook(trainer, agent, *args)` of every callback that has it; return the results."""
        trainer = self.trainer
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        hooks = [getattr(callback, hook, None) for callback in callbacks]
        return [call(trainer, self, *args) for call in hooks if call is not None]

    def log_metrics(self, metrics: Statistics) -> None:
        """Log a row at the present env step.

        It goes to every logger, into `trainer.callback_metrics` and to every callback.
        """
        started = time.perf_counter()
        for logger in self.trainer.loggers:
            logger.log_metrics({"episode": self.episodes, **metrics}, step=self.env_steps)
        self.logging_s += time.perf_counter() - started
        tensors = {tag: torch.tensor(value) for tag, value in metrics.items()}
        self.trainer.callback_metrics.update(tensors)
        self.emit("on_metrics", metrics, self.env_steps)

    def announce_unit(self) -> None:
        """Tell callbacks that one unit is complete and the next not begun."""
        if self.trainer.world_size > 1:  # a signal may have reached one rank only
            requested = torch.tensor(self.stop_requested, device=self.device)
            torch.distributed.all_reduce(requested, torch.distributed.ReduceOp.MAX)
            self.stop_requested = int(requested)
            self._stop()
        self.emit("on_unit_boundary")

    def poll(self) -> None:
        """Save when it is time; save and raise `Interrupted` when the run was asked to stop.

        Called between two steps. Several ranks can only save and stop together, and do so between
        two units.
        """
        if self.stop_requested and self.trainer.world_size == 1:
            self._stop()
        elif time.monotonic() >= self.save_at:
            self.save_at = math.inf  # until whoever saves sets the next time
            self._emit_within_unit("on_save_due")

    def _stop(self) -> None:
        if self.stop_requested:
            self._emit_within_unit("on_stop")
            raise Interrupted(self.stop_requested)

    def _emit_within_unit(self, hook: str) -> None:
        self.state.interrupts_validation = self.is_evaluating
        self.emit(hook)
        self.state.interrupts_validation = False

    def on_episode(self, episode: Episode) -> None:
        """Pass a finished training episode on to callbacks, and to loggers that take episodes."""
        self.emit("on_episode_end", episode)
        takers = [logger for logger in self.trainer.loggers if hasattr(logger, "log_episode")]
        if takers:
            started = time.perf_counter()
            for logger in takers:
                logger.log_episode(episode)
            self.logging_s += time.perf_counter() - started

    def count_collecting(self, seconds: float) -> None:
        """Add to the time spent collecting."""
        self.collect_s += seconds

    def precision_context(self) -> AbstractContextManager[Any]:
        """Return the context of the trainer's precision."""
        return self.trainer.precision_plugin.forward_context()

    # Lightning's hooks.

    def on_train_start(self) -> None:
        """Begin the first episodes, or continue exactly where the checkpoint was taken."""
        self.state.begin()

    def on_train_epoch_start(self) -> None:
        """Note where the epoch begins; its length counts from there."""
        if self.source is not None:
            self.source.env_steps_at_epoch_start = self.env_steps

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Announce the update."""
        self.emit("on_update_start")

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Close the unit, and log a row every few units."""
        experience = self.source.finish_unit() if self.source is not None else {}
        scalars = {**experience, **(outputs or {})}
        statistics = {**self.statistics.settle(), **scalars}
        self.statistics.add_scalars(scalars)
        self.iteration += 1
        self.emit("on_update_end", statistics)
        self.emit("on_iteration_end", statistics)
        every: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        if every and self.iteration % every == 0:  # 0 in a barebones trainer
            row = self.statistics.flush()
            for addition in self.emit("metrics"):
                row.update(addition)
            self.log_metrics(row)

    def on_train_epoch_end(self) -> None:
        """Stop when the budget is spent."""
        if self.budget.is_spent(self.env_steps, self.episodes):
            self.trainer.should_stop = True

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the whole state of the run."""
        self.state.save(checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that the checkpoint fits; the run's state is restored when training starts."""
        self.state.load(checkpoint)

    def teardown(self, stage: str) -> None:
        """Close the environments."""
        self.save_at = math.inf
        self.state.rest()
        self.close_evaluation()
