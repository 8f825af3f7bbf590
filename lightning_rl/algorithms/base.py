"""The base of all algorithms: budget, clock, events and Lightning plumbing; no learning rule.

An algorithm builds its networks in `__init__` and its experience source in `build_source`, acts in
`begin_rollout` and `act`, and learns in `training_step`.
"""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_rl.envs.config import EnvConfig, EnvLike
from lightning_rl.errors import Interrupted
from lightning_rl.experience.agent_state import AgentState, agent_from_checkpoint
from lightning_rl.experience.budget import Budget
from lightning_rl.experience.collector import Act, Collector
from lightning_rl.experience.evaluation_hooks import EvaluationHooks
from lightning_rl.experience.random_streams import RandomStreams, resolve_seed, seeded
from lightning_rl.experience.setup import make_collector, prepare_trainer
from lightning_rl.experience.source import ExperienceSource, sized_loader
from lightning_rl.functional.parameters import FlatParameters, clip_by_global_norm
from lightning_rl.functional.statistics import StatisticsAccumulator, combine_moments
from lightning_rl.networks.normalization import Moments
from lightning_rl.storage.checkpoint_io import SealedCheckpointIO
from lightning_rl.trust import encode
from lightning_rl.types import Episode, SnapshotLevel, Statistics


class Algorithm(EvaluationHooks):
    """A reinforcement-learning algorithm as a `LightningModule` that owns its environment.

    Args:
        env: Environment id, `EnvConfig`, mapping of its fields, or a class or factory.
        total_env_steps: Budget in env steps over all environments and ranks; default 100,000.
        total_episodes: Budget in finished episodes instead.
        schedule_env_steps: Env steps that schedules span; default the first `total_env_steps`.
        seed: Default: the value of `seed_everything`, else drawn and recorded.

    Attributes:
        iteration: Completed training units.
        gradient_steps: Completed gradient steps.
        statistics: Training metrics since the last logged row.
        compiled: Whether the update is compiled.
        snapshot_level: How exactly the environment can be saved; None before training.
        stop_requested: Number of the signal that asked the run to stop, or 0.
    """

    default_callbacks: Callable[[Trainer], list[Callback]] = staticmethod(lambda trainer: [])
    """Set by `lightning_rl.callbacks`, which knows algorithms and is not known by them."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Algorithm:
        """Record the constructor's arguments: with the class path they rebuild the agent."""
        agent = super().__new__(cls)
        bound = inspect.signature(cls.__init__).bind_partial(agent, *args, **kwargs)
        bound.apply_defaults()
        object.__setattr__(agent, "_arguments", dict(list(bound.arguments.items())[1:]))
        return agent

    def __init__(
        self,
        env: EnvLike,
        total_env_steps: int | None = None,
        total_episodes: int | None = None,
        schedule_env_steps: int | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.env_config = EnvConfig.coerce(env)
        self.budget = Budget.create(total_env_steps, total_episodes, schedule_env_steps)
        self.seed = resolve_seed(seed)
        self.observation_space, self.action_space = self.env_config.spaces()
        self.streams = RandomStreams(self.seed)
        self.statistics = StatisticsAccumulator()
        self.state = AgentState(self)
        self.source: ExperienceSource | None = None
        self.snapshot_level: SnapshotLevel | None = None
        self.compiled = False
        self.iteration = self.gradient_steps = self.stop_requested = 0
        self.collect_s = 0.0
        for name, value in self._arguments.items():  # refuse now what no checkpoint could hold
            encode(self.env_config if name == "env" else value, name)

    @property
    @abstractmethod
    def unit_env_steps(self) -> int:
        """Env steps of one training unit of one rank."""

    @abstractmethod
    def build_source(self, collector: Collector) -> ExperienceSource:
        """Return the experience source over `collector`."""

    @abstractmethod
    def begin_rollout(self, num_steps: int) -> Act:
        """Draw the noise of the next `num_steps` steps and return the exploring policy."""

    # The clock. Counters of an agent that is not training are those of its last checkpoint.

    @property
    def env_steps(self) -> int:
        """Transitions collected, over all environments and ranks."""
        return self.source.env_steps if self.source else self.state.env_steps

    @property
    def episodes(self) -> int:
        """Training episodes finished, over all environments and ranks."""
        return self.source.episodes if self.source else self.state.episodes

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
    def update_progress(self) -> float:
        """Schedules' progress before the unit that is being learned from; the first update has 0."""
        unit = self.unit_env_steps * self.trainer.world_size
        return self.budget.progress(max(0, self.env_steps - unit), self.episodes)

    @property
    def elapsed_s(self) -> float:
        """Seconds of training, over all attempts."""
        return self.state.elapsed_s

    # Events and metrics.

    def emit(self, hook: str, *args: Any) -> list[Any]:
        """Call `hook(trainer, agent, *args)` of every callback that has it; return the results."""
        callbacks: list[Callback] = self.trainer.callbacks  # type: ignore[attr-defined]
        hooks = [getattr(callback, hook) for callback in callbacks if hasattr(callback, hook)]
        return [call(self.trainer, self, *args) for call in hooks]

    def log_metrics(self, metrics: Statistics) -> None:
        """Log a row at the present env step: to every logger, `trainer.callback_metrics`, callbacks."""
        for logger in self.trainer.loggers:
            logger.log_metrics({"episode": self.episodes, **metrics}, step=self.env_steps)
        tensors = {tag: torch.tensor(value) for tag, value in metrics.items()}
        self.trainer.callback_metrics.update(tensors)
        self.emit("on_metrics", metrics, self.env_steps)

    def announce_unit(self) -> None:
        """Tell callbacks that one unit is complete and the next not begun."""
        if self.trainer.world_size > 1:  # a signal may have reached one rank only
            flag = torch.tensor(self.stop_requested, device=self.device)
            self.stop_requested = int(self.all_gather(flag).max())
            self._stop()
        self.emit("on_unit_boundary")

    def poll(self) -> None:
        """Save and raise `Interrupted` when the run was asked to stop; called between two steps.

        Several ranks can only stop together, and do so between two units.
        """
        if self.stop_requested and self.trainer.world_size == 1:
            self._stop()

    def _stop(self) -> None:
        if self.stop_requested:
            self.state.interrupts_validation = self.is_evaluating
            self.emit("on_stop")
            raise Interrupted(self.stop_requested)

    def on_episode(self, episode: Episode) -> None:
        """Pass a finished training episode on to callbacks."""
        self.emit("on_episode_end", episode)

    def count_collecting(self, seconds: float) -> None:
        """Add to the time spent collecting."""
        self.collect_s += seconds

    def precision_context(self) -> AbstractContextManager[Any]:
        """Return the context of the trainer's precision."""
        return self.trainer.precision_plugin.forward_context()

    def apply_gradient(
        self, parameters: FlatParameters, gradient: Tensor, max_norm: float, optimizer: int = 0
    ) -> Tensor:
        """Average a flat gradient over ranks, clip it and step; return its norm before clipping."""
        if self.trainer.world_size > 1:
            torch.distributed.all_reduce(gradient)
            gradient = gradient / self.trainer.world_size
        parameters.flat.grad, norm = clip_by_global_norm(gradient, max_norm)
        self.trainer.optimizers[optimizer].step()
        self.gradient_steps += 1
        return norm

    def reduce_moments(self, moments: Moments) -> Moments:
        """Return mean, variance and count over all ranks, joined in rank order."""
        if self.trainer.world_size == 1:
            return moments
        ranks = [self.all_gather(moment) for moment in moments]
        joint = (ranks[0][0], ranks[1][0], ranks[2][0])
        for mean, var, count in zip(*(rank[1:] for rank in ranks), strict=True):
            joint = combine_moments(*joint, mean, var, count)
        return joint

    def finish_update(self, statistics: Statistics) -> Statistics:
        """Tick Lightning's `global_step` once per unit, on whose account `max_steps` works.

        The hooks are the optimizer wrapper's own: called for every minibatch they cost more than a
        small update, and `max_steps` would count minibatches.
        """
        optimizer = self.optimizers()
        first = optimizer[0] if isinstance(optimizer, list) else optimizer
        first._on_before_step()
        first._on_after_step()
        return statistics

    def seeded_initialization(self) -> AbstractContextManager[Any]:
        """Return a context in which networks get the same first weights for the same seed."""
        return seeded(self.seed)

    @property
    def class_path(self) -> str:
        """Import path of the algorithm."""
        return f"{type(self).__module__}.{type(self).__qualname__}"

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """The constructor's arguments as primitives, with seed and compilation as resolved."""
        resolved = {**self._arguments, "env": self.env_config, "seed": self.seed}
        resolved["total_env_steps"] = self.budget.env_steps
        resolved["schedule_env_steps"] = self.budget.schedule_env_steps
        if "compile" in resolved:
            resolved["compile"] = self.compiled
        return {name: encode(value, name) for name, value in resolved.items()}

    @classmethod
    def load_from_checkpoint(
        cls, checkpoint_path: str | Path, map_location: Any = None, env: EnvLike | None = None, **overrides: Any
    ) -> Algorithm:
        """Return the agent that a checkpoint holds, ready to act; no configuration file is needed.

        Args:
            checkpoint_path: The file; verified before anything is loaded.
            map_location: Device of the tensors; default CPU.
            env: Environment to use instead; needed for one that was given as a factory.
            **overrides: Constructor arguments to change.

        Raises:
            CheckpointError: When the file is damaged or holds another algorithm.
        """
        checkpoint = SealedCheckpointIO().load_checkpoint(checkpoint_path, map_location)
        return agent_from_checkpoint(cls, checkpoint, env, overrides)

    # Lightning's hooks.

    def setup(self, stage: str) -> None:
        """Check the trainer's settings and give it what it lacks."""
        prepare_trainer(self, stage)

    def configure_callbacks(self) -> list[Callback]:
        """Return what a stock trainer lacks to log and guard a run."""
        return self.default_callbacks(self.trainer)

    def train_dataloader(self) -> DataLoader:
        """Return the experience source."""
        if self.source is None:
            self.source = self.build_source(make_collector(self))
            self.state.prepare_source(self.source)
        return sized_loader(self.source)

    def on_train_start(self) -> None:
        """Begin the first episodes, or continue exactly where the checkpoint was taken."""
        self.state.begin()

    def on_train_epoch_start(self) -> None:
        """Note where the epoch begins; its length counts from there."""
        self.source.env_steps_at_epoch_start = self.env_steps

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Announce the update."""
        self.emit("on_update_start")

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Close the unit, tick Lightning's `global_step` once, and log every few units."""
        statistics = {**self.source.finish_unit(), **(outputs or {})}
        self.iteration += 1
        self.emit("on_update_end", statistics)
        self.emit("on_iteration_end", statistics)
        self.statistics.add_scalars(statistics)
        if self.iteration % self.trainer.log_every_n_steps == 0:
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
        self.state.rest()
        self.close_evaluation()
