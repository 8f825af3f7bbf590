"""The state of a run: what a checkpoint holds beyond Lightning's own entries."""

from __future__ import annotations

import logging
import platform
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import lightning.pytorch as pl
import torch
from torch import Tensor

from lightning_rl.buffers.replay import Replay
from lightning_rl.envs.config import EnvConfig, EnvLike
from lightning_rl.envs.spaces import space_from_dict, space_to_dict
from lightning_rl.errors import CheckpointError
from lightning_rl.experience.random_streams import (
    global_random_state,
    restore_global_random_state,
)
from lightning_rl.experience.source import ExperienceSource
from lightning_rl.networks.normalization import Shape, differing_shapes
from lightning_rl.storage.loop_progress import (
    rewind_unit,
    rewind_validation,
    settle_validation,
)
from lightning_rl.storage.segments import SegmentWriteError, listed_segments, segment_store
from lightning_rl.trust import import_object

logger = logging.getLogger(__name__)

Agent: TypeAlias = Any
"""An `Algorithm`, which is built on top of this module."""

FORMAT = 1
ENTRY = "lightning_rl"
_COUNTERS = ("env_steps", "episodes", "iteration", "gradient_steps")
NO_OPEN_EPISODES: dict[str, Any] = {"level": "boundary", "envs": [], "actions": []}
NO_UNFINISHED_UNIT: dict[str, Any] = {"rollout": None, "unit": None, "unfinished": False}
_SHOWN_DIFFERENCES = 5


class AgentState:
    """Everything about a run that a checkpoint must hold, gathered and restored in one place.

    Under `lightning_rl` stands what is equal in a stopped and an unstopped run; under `volatile`
    what may differ: wall clock, host, paths, and how the replay content is cut into files.

    Attributes:
        env_steps: The clock while nothing trains.
        episodes: Finished episodes while nothing trains.
        drop_unfinished: Save without open episodes and without the unfinished unit.
        interrupts_validation: Save so that the validation under way begins anew on resume.
        folder: Where the checkpoint about to be saved will lie, if its writer has said so, since
            Lightning tells only the first process.

    Args:
        agent: Whose state it is.
    """

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self.env_steps = 0
        self.episodes = 0
        self._elapsed_s = 0.0
        self._started: float | None = None
        self._resting: dict[str, Any] | None = None
        self._last_source: ExperienceSource | None = None
        self._pending: dict[str, Any] | None = None
        self.drop_unfinished = False
        self.interrupts_validation = False
        self.folder: Path | None = None

    @property
    def replay(self) -> Replay | None:
        """The replay buffer of this or the last training, if the algorithm has one."""
        source = self._agent.source or self._last_source
        return source.replay if source else None

    @property
    def has_trained(self) -> bool:
        """Whether the agent has trained in this process, and would go on where it stopped."""
        return self._resting is not None

    @property
    def elapsed_s(self) -> float:
        """Seconds of training so far, over all attempts."""
        running = time.perf_counter() - self._started if self._started is not None else 0.0
        return self._elapsed_s + running

    # Start and end of training.

    def prepare_source(self, source: ExperienceSource) -> None:
        """Tell a new source where its epoch began, which its length depends on."""
        if self._pending is not None:
            source.env_steps_at_epoch_start = self._pending["volatile"]["env_steps_at_epoch_start"]

    def begin(self) -> None:
        """Start the first episodes, or restore everything that the checkpoint holds."""
        agent, source = self._agent, self._agent.source
        self.interrupts_validation = agent.is_evaluating = False
        if self._pending is not None:
            pending, self._pending = self._pending, None
            self._restore(pending)
        elif self._resting is not None:
            source.load_state_dict(self._resting)
        else:
            # An agent from a checkpoint that is trained without one brings weights, and no clock.
            agent.iteration = agent.gradient_steps = 0
            agent.collect_s = self._elapsed_s = 0.0
            source.collector.start()
        self._started = time.perf_counter()
        agent.emit("on_training_begins")

    def rest(self) -> None:
        """Keep the source's state, so that the agent can be saved or trained on, and close it."""
        source = self._agent.source
        if source is None:
            return
        try:
            self._resting = source.state_dict()
            self.env_steps, self.episodes = source.env_steps, source.episodes
            self._elapsed_s, self._started = self.elapsed_s, None
        finally:
            self._agent.source, self._last_source = None, source
            source.close()

    # Saving.

    def save(self, checkpoint: dict[str, Any]) -> None:
        """Add the run's state to Lightning's checkpoint, in place."""
        agent = self._agent
        source = agent.source or self._last_source
        first, *others = self._rank_states()
        rank_segments = _segments_of_ranks(others)
        if source is not None:
            agent.snapshot_level = source.collector.level  # a failed snapshot lowers it
        checkpoint["hyper_parameters"] = agent.hyperparameters
        checkpoint[ENTRY] = {
            "format": FORMAT,
            "class_path": agent.class_path,
            "observation_space": space_to_dict(agent.observation_space),
            "action_space": space_to_dict(agent.action_space),
            **{name: getattr(agent, name) for name in _COUNTERS},
            "snapshot_level": agent.snapshot_level,
            "schedule_episodes": agent.budget.schedule_episodes,
            "loggers": _logger_states(agent),
            **first,
            "other_ranks": others,
        }
        checkpoint["volatile"] = {
            "env_steps_at_epoch_start": source.env_steps_at_epoch_start if source else 0,
            "elapsed_s": self.elapsed_s,
            "collect_s": agent.collect_s,
            "host": platform.node(),
            "saved_at": time.time(),
        }
        # Called by the CheckpointIO before the file is seen, which counts what they have logged.
        counted = _loggers_with_state(agent)
        checkpoint["flush_loggers"] = [item.flush for item in counted if hasattr(item, "flush")]
        if self.replay is not None:
            # Written by the CheckpointIO, which knows the folder.
            checkpoint["write_segments"] = self.replay.write_segments
            if rank_segments:
                checkpoint["volatile"]["rank_segments"] = rank_segments
        if "loops" in checkpoint:
            self._tidy_progress(checkpoint["loops"], source)

    def _tidy_progress(self, loops: dict[str, Any], source: ExperienceSource | None) -> None:
        if self.interrupts_validation:
            rewind_validation(loops)
            return
        settle_validation(loops)
        if source and source.has_unfinished_unit:
            rewind_unit(loops)

    def _rank_states(self) -> list[dict[str, Any]]:
        """Return what every process has of its own, in rank order; all of them must ask together.

        One file holds all of it, so that no process can resume from another moment than the others.
        """
        agent = self._agent
        own = {
            "streams": agent.streams.state_dict(),
            "global_random": global_random_state(),
            "statistics": agent.statistics.state_dict(),
            "source": self._source_state(),
        }
        if agent.num_ranks == 1:
            return [own]
        if agent.global_rank > 0:  # the first one's stand with the weights
            own["buffers"] = {name: buffer.cpu() for name, buffer in agent.named_buffers()}
            own["segments"] = self._write_own_segments()
        states: list[Any] = [None] * agent.num_ranks
        torch.distributed.all_gather_object(states, own)
        return states

    def _write_own_segments(self) -> list[dict[str, Any]] | OSError | None:
        """Write this process's replay content beside the checkpoint that the first will write."""
        if self.replay is None or self.folder is None:
            return None
        try:
            return self.replay.write_segments(segment_store(self.folder, self._agent.global_rank))
        except OSError as error:  # raised by all processes together, see `_segments_of_ranks`
            return error

    def _source_state(self) -> dict[str, Any] | None:
        source = self._agent.source
        state = source.state_dict() if source else self._resting
        if state is not None and self.drop_unfinished:
            return {**_without_open_episodes(state), **NO_UNFINISHED_UNIT}
        return state

    # Loading.

    def load(self, checkpoint: dict[str, Any]) -> None:
        """Check that the checkpoint fits this agent; take its counters now, the rest in `begin`.

        Raises:
            CheckpointError: When it is another algorithm's, another environment's, of a newer
                format, or its networks have other names or shapes.
        """
        agent = self._agent
        entry = checkpoint.get(ENTRY)
        if entry is None:
            raise CheckpointError(
                "expected a checkpoint of lightning_rl, received a plain Lightning checkpoint"
            )
        if entry["format"] > FORMAT:
            raise CheckpointError(
                f"the checkpoint has format {entry['format']}, this version reads up to {FORMAT}; "
                "update lightning_rl"
            )
        _check_fits(agent, entry, checkpoint["state_dict"])
        for name in ("iteration", "gradient_steps"):
            setattr(agent, name, entry[name])
        self.env_steps, self.episodes = entry["env_steps"], entry["episodes"]
        self._elapsed_s = checkpoint["volatile"]["elapsed_s"]
        agent.collect_s = checkpoint["volatile"]["collect_s"]
        agent.snapshot_level = entry["snapshot_level"]
        trainer: pl.Trainer | None = agent._trainer
        if trainer is not None and trainer.state.fn == "fit":
            self._pending = checkpoint
            _keep_decisions(agent, checkpoint["hyper_parameters"])
            if agent.budget.episodes is not None and entry["schedule_episodes"] is not None:
                kept = {"schedule_episodes": entry["schedule_episodes"]}
                agent.budget = replace(agent.budget, **kept)

    def _restore(self, checkpoint: dict[str, Any]) -> None:
        agent, entry = self._agent, checkpoint[ENTRY]
        source: ExperienceSource = agent.source
        own = _of_rank(entry, agent.global_rank, agent.num_ranks)
        agent.streams.load_state_dict(own["streams"])
        agent.statistics.load_state_dict(own["statistics"], agent.device)
        agent.load_state_dict(own.get("buffers", {}), strict=False)
        if source.replay is not None:
            rank, segments = agent.global_rank, listed_segments(checkpoint["volatile"])
            if rank >= len(segments):  # saved by a stock callback, whose folder only rank 0 knew
                logger.warning("rank %d goes on with the replay of rank 0", rank)
                rank = 0
            store = segment_store(Path(checkpoint["volatile"]["directory"]), rank)
            source.replay.load_segments(own["source"]["replay"], segments[rank], store)
        state = own["source"]
        if checkpoint["hyper_parameters"].get("env") != agent.hyperparameters.get("env"):
            # A restored environment would go on with the settings that it was saved with.
            logger.warning("the environment's settings have changed")
            state = _without_open_episodes(state)
        source.load_state_dict(state)
        for name, state in entry["loggers"].items():
            for item in agent.trainer.loggers:
                if type(item).__name__ == name:
                    item.load_state_dict(state)
        restore_global_random_state(own["global_random"])


def agent_from_checkpoint(
    expected: type, checkpoint: dict[str, Any], env: EnvLike | None, overrides: dict[str, Any]
) -> Agent:
    """Build the agent that a loaded checkpoint describes, with its weights.

    Args:
        expected: Class, or base class, that the checkpoint must be one of.
        checkpoint: As read by `SealedCheckpointIO`.
        env: Environment to use instead of the stored one.
        overrides: Constructor arguments to change.
    """
    entry = checkpoint.get(ENTRY)
    if entry is None:
        raise CheckpointError(
            "expected a checkpoint of lightning_rl, received a plain Lightning one"
        )
    stored = import_object(entry["class_path"])
    if not issubclass(stored, expected):
        raise CheckpointError(
            f"the checkpoint is one of {stored.__name__}, but {expected.__name__} was asked for"
        )
    arguments = {**checkpoint["hyper_parameters"], **overrides}
    config = EnvConfig.coerce(arguments["env"] if env is None else env)
    if env is None:
        spaces = (space_from_dict(entry[name]) for name in ("observation_space", "action_space"))
        config.remember_spaces(*spaces)
    agent = stored(**{**arguments, "env": config})
    agent.on_load_checkpoint(checkpoint)
    agent.load_state_dict(checkpoint["state_dict"])
    return agent.eval()


def _without_open_episodes(state: dict[str, Any]) -> dict[str, Any]:
    return {**state, "collector": {**state["collector"], **NO_OPEN_EPISODES}}


def _segments_of_ranks(others: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Take the segments that the other processes have written out of their states.

    How the content is cut into files depends on when a run was saved.

    Raises:
        SegmentWriteError: When one of them could not write.
    """
    written = [state.pop("segments", None) for state in others]
    for segments in written:
        if isinstance(segments, OSError):
            raise SegmentWriteError(*segments.args)
    return written if None not in written else []


def _of_rank(entry: dict[str, Any], rank: int, num_ranks: int) -> dict[str, Any]:
    """Return what process `rank` had of its own.

    Raises:
        CheckpointError: When there were more or fewer processes.
    """
    others: list[dict[str, Any]] = entry.get("other_ranks", [])
    if len(others) + 1 != num_ranks:
        raise CheckpointError(
            f"the checkpoint is one of {len(others) + 1} processes, but {num_ranks} are to go on; "
            "give as many devices"
        )
    return others[rank - 1] if rank > 0 else entry


def _keep_decisions(agent: Agent, stored: dict[str, Any]) -> None:
    """Keep what the first attempt resolved by itself, where the arguments leave it open again."""
    given = agent._arguments
    names = ("seed", "schedule_env_steps", "compile")
    unset = {name for name in names if name in stored and given[name] in (None, "auto")}
    if "seed" in unset:
        agent.seed = stored["seed"]
    if "schedule_env_steps" in unset:
        agent.budget = replace(agent.budget, schedule_env_steps=stored["schedule_env_steps"])
    if "compile" in unset:
        agent.compiled = stored["compile"]


def _logger_states(agent: Agent) -> dict[str, Any]:
    return {type(item).__name__: item.state_dict() for item in _loggers_with_state(agent)}


def _loggers_with_state(agent: Agent) -> list[Any]:
    return [item for item in agent.trainer.loggers if hasattr(item, "state_dict")]


def _check_fits(agent: Agent, entry: dict[str, Any], saved: dict[str, Tensor]) -> None:
    if entry["class_path"] != agent.class_path:
        names = entry["class_path"].rsplit(".", 1)[-1], type(agent).__name__
        raise CheckpointError(f"the checkpoint is one of {names[0]}, but {names[1]} was asked for")
    for name in ("observation_space", "action_space"):
        space = getattr(agent, name)
        if entry[name] != space_to_dict(space):
            raise CheckpointError(
                f"the checkpoint was trained with the {name.replace('_', ' ')} {entry[name]}, "
                f"but {agent.env_config.name} has {space_to_dict(space)}"
            )
    differences = [
        f"{key}: {_shown(there)} in the checkpoint, {_shown(here)} here"
        for key, (here, there) in differing_shapes(agent.state_dict(), saved).items()
    ]
    if differences:
        shown = "; ".join(differences[:_SHOWN_DIFFERENCES])
        more = len(differences) - _SHOWN_DIFFERENCES
        raise CheckpointError(
            f"the checkpoint's networks do not fit: {shown}"
            f"{f'; and {more} more' if more > 0 else ''}"
        )


def _shown(shape: Shape | None) -> str:
    return "missing" if shape is None else str(shape)
