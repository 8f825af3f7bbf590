"""The base of all algorithms: constructor, checkpoint and update plumbing; no learning rule.

An algorithm builds its networks in `__init__` and its experience source in `build_source`, acts in
`begin_rollout` and `act`, and learns in `training_step`.
"""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_rl.envs.config import EnvConfig, EnvLike
from lightning_rl.errors import ConfigError
from lightning_rl.experience.agent_state import AgentState, agent_from_checkpoint
from lightning_rl.experience.budget import Budget
from lightning_rl.experience.collector import Act, Collector
from lightning_rl.experience.random_streams import RandomStreams, resolve_seed, seeded
from lightning_rl.experience.run_hooks import RunHooks
from lightning_rl.experience.setup import make_collector, prepare_trainer
from lightning_rl.experience.source import ExperienceSource, sized_loader
from lightning_rl.functional.parameters import FlatParameters, clip_by_global_norm
from lightning_rl.storage.checkpoint_io import SealedCheckpointIO
from lightning_rl.trust import encode
from lightning_rl.types import SnapshotLevel, Statistics


class Algorithm(RunHooks):
    """A reinforcement-learning algorithm as a `LightningModule` that owns its environment.

    Args:
        env: Environment id, `EnvConfig`, mapping of its fields, or a class or factory.
        total_env_steps: Budget in env steps over all environments and ranks; default 100,000.
        total_episodes: Budget in finished episodes instead.
        schedule_env_steps: Env steps that schedules span; default the first `total_env_steps`.
        seed: Default: the value of `seed_everything`, else drawn and recorded.

    Attributes:
        compiled: Whether the update is compiled.
        snapshot_level: How exactly the environment can be saved; None before training.
    """

    _arguments: dict[str, Any]

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
        self.state = AgentState(self)
        self.snapshot_level: SnapshotLevel | None = None
        self.compiled = False
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

    def policy_module(self) -> nn.Module:
        """Return the greedy policy as a module, which is what `lightning-rl export` writes.

        It maps observations `(B, *obs_shape)`, a tensor or a flat dictionary of them, to the
        actions that `act(observation, deterministic=True)` returns, as a tensor and by tensor
        operations alone; usually a `networks.greedy.GreedyPolicy`, where a recurrent policy's
        state is described. What adapts actions to the environment is added by the export.

        Raises:
            ConfigError: When the algorithm has none.
        """
        raise ConfigError(f"{type(self).__name__} defines no policy_module, so it has no export")

    @property
    def update_progress(self) -> float:
        """Schedules' progress before the unit that is being learned from; the first has 0.

        With a budget in episodes it is that behind the unit's last step.
        """
        unit = self.unit_env_steps * self.trainer.world_size
        return self.budget.progress(max(0, self.env_steps - unit), self.episodes)

    # For updates.

    def apply_gradient(
        self, parameters: FlatParameters, gradient: Tensor, max_norm: float, optimizer: int = 0
    ) -> None:
        """Step with a flat gradient that is clipped; with several ranks, with the clipped mean."""
        if self.trainer.world_size > 1:
            torch.distributed.all_reduce(gradient)
            gradient, _ = clip_by_global_norm(gradient / self.trainer.world_size, max_norm)
        parameters.flat.grad = gradient
        self.trainer.optimizers[optimizer].step()
        self.gradient_steps += 1

    def apply_gradients(
        self, parameters: Sequence[FlatParameters], gradients: Sequence[Tensor]
    ) -> None:
        """Step optimizer i with network i's flat gradient; with several ranks, with the mean."""
        if self.trainer.world_size > 1:
            flat = torch.cat(list(gradients))
            torch.distributed.all_reduce(flat)
            sizes = [len(gradient) for gradient in gradients]
            gradients = (flat / self.trainer.world_size).split(sizes)
        for flat_parameters, gradient, optimizer in zip(
            parameters, gradients, self.trainer.optimizers, strict=False
        ):
            flat_parameters.flat.grad = gradient
            optimizer.step()
        self.gradient_steps += 1

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

    # What the agent is made of.

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
        resolved = {
            "env": self.env_config,
            "seed": self.seed,
            "total_env_steps": self.budget.env_steps,
            "schedule_env_steps": self.budget.schedule_env_steps,
            "compile": self.compiled,
        }
        return {
            name: encode(resolved.get(name, value), name) for name, value in self._arguments.items()
        }

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]  # no hparams_file: nothing else is needed
        cls,
        checkpoint_path: str | Path,
        map_location: Any = None,
        env: EnvLike | None = None,
        **overrides: Any,
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

    # Lightning's hooks that build things.

    def setup(self, stage: str) -> None:
        """Check the trainer's settings and give it what it lacks."""
        prepare_trainer(self, stage)
        if stage == "fit":
            self.train()  # an agent from a checkpoint is in evaluation mode

    def configure_callbacks(self) -> list[Callback]:
        """Return what a stock trainer lacks to log and guard a run."""
        # By name: callbacks know algorithms and not the other way round, yet an agent has them
        # wherever its class was imported from.
        defaults = import_module("lightning_rl.callbacks.defaults")
        return defaults.for_stock_trainer(self.trainer)  # type: ignore[no-any-return]

    def train_dataloader(self) -> DataLoader:
        """Return the experience source."""
        if self.source is None:
            self.source = self.build_source(make_collector(self))
            self.state.prepare_source(self.source)
        return sized_loader(self.source)
