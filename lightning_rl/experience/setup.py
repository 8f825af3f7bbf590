"""What happens between an algorithm's construction and its first env step."""

from __future__ import annotations

import contextlib
import logging
import warnings
from functools import partial

import lightning.pytorch as pl

from lightning_rl.envs.config import EnvConfig
from lightning_rl.envs.preflight import check_env
from lightning_rl.envs.seeding import episode_seed
from lightning_rl.envs.snapshot import probe_snapshot_level
from lightning_rl.envs.vector import make_vector_env
from lightning_rl.errors import ConfigError
from lightning_rl.experience.agent_state import Agent
from lightning_rl.experience.collector import Collector
from lightning_rl.experience.random_streams import RandomStreams
from lightning_rl.storage.checkpoint_io import SealedCheckpointIO
from lightning_rl.types import SnapshotLevel

logger = logging.getLogger(__name__)

PRECISIONS = ("32-true", "bf16-mixed")


def check_trainer(trainer: pl.Trainer) -> None:
    """Refuse settings that cannot work.

    Raises:
        ConfigError: For a precision or strategy that cannot work with functional gradients.
    """
    if str(trainer.precision) not in PRECISIONS:
        # fp16 needs a gradient scaler, which functional gradients bypass; bf16-true and 64-true
        # break the first matrix product with float32 experience.
        raise ConfigError(f"expected precision among {PRECISIONS}, received {trainer.precision!r}")
    if getattr(trainer.strategy, "_start_method", None) in ("spawn", "forkserver"):
        raise ConfigError("a spawning strategy cannot pickle environments; use strategy: ddp")


def prepare_trainer(agent: Agent, stage: str) -> None:
    """Check the trainer's settings and give it our way of writing checkpoints.

    Raises:
        ConfigError: See `check_trainer`.
    """
    trainer: pl.Trainer = agent.trainer
    check_trainer(trainer)
    # Assigned here and not only by our Trainer: a stock one must write verified files, too.
    trainer.strategy.checkpoint_io = SealedCheckpointIO()
    # DDP would overwrite every rank's buffers with rank 0's in the middle of an update.
    agent._ddp_params_and_buffers_to_ignore = [name for name, _ in agent.named_buffers()]
    if stage == "fit":
        _agree_over_ranks(agent)
        # The source is sized on purpose (it must not be prefetched) and steps its own environments.
        warnings.filterwarnings("ignore", ".*does not have many workers.*")
        warnings.filterwarnings("ignore", ".*Your `IterableDataset` has `__len__` defined.*")
        warnings.filterwarnings("ignore", ".*The number of training batches.*")
        # It is resumable; its state travels with the agent's.
        warnings.filterwarnings("ignore", ".*your dataloader is not resumable.*")


def _agree_over_ranks(agent: Agent) -> None:
    """Give all processes one seed, and each its own random streams.

    Raises:
        ConfigError: For a budget in episodes, which the processes would reach at different times.
    """
    if agent.num_ranks == 1:
        return
    if agent.total_episodes is not None:
        raise ConfigError("several processes need a budget in env steps: give total_env_steps")
    if not agent.state.has_trained:
        agent.seed = agent.trainer.strategy.broadcast(agent.seed)
        agent.streams = RandomStreams(agent.seed, agent.global_rank)


def require_one_process(agent: Agent) -> None:
    """Refuse several processes for an algorithm that has no sum over them.

    Raises:
        ConfigError: Names the algorithm and the remedy.
    """
    if agent.num_ranks > 1:
        raise ConfigError(
            f"{type(agent).__name__} learns in one process, received {agent.num_ranks}; "
            "give trainer.devices: 1 and as many env.num_envs as you like"
        )


def make_collector(agent: Agent) -> Collector:
    """Check the environment on a scratch instance, find its level and build the collector."""
    config: EnvConfig = agent.env_config
    seed = episode_seed(agent.seed, "scratch", 0)
    with contextlib.closing(config.make()) as scratch:
        check_env(scratch, seed)
    if agent.snapshot_level is None:
        agent.snapshot_level = snapshot_level(config, seed)
    run = getattr(agent.trainer, "run_config", None)  # a stock trainer has none
    if agent.snapshot_level == "boundary" and run is not None and run.require_exact:
        raise ConfigError(
            f"run.require_exact: expected an environment whose state can be restored, received "
            f"{config.name} (level boundary); leave the option out to resume without its open "
            "episodes"
        )
    return Collector(
        make_vector_env(config),
        agent.seed,
        agent.snapshot_level,
        rank=agent.global_rank,
        world_size=agent.trainer.world_size,
        on_episode=agent.on_episode,
    )


def snapshot_level(config: EnvConfig, seed: int) -> SnapshotLevel:
    """Return how exactly this environment can be saved, and say so when it is not exactly."""
    if config.vectorization == "vector":
        level: SnapshotLevel = "boundary"
    else:
        level = probe_snapshot_level(partial(config.make), seed)
    if level == "boundary":
        logger.warning(
            "%s cannot be saved mid-episode: a resumed run drops its open episodes and goes on "
            "correctly but not identically",
            config.name,
        )
    return level
