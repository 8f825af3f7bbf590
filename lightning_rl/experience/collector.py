"""The collector: the only caller of an environment's `step`, and keeper of open episodes."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch

from lightning_rl.buffers.rollout import Rollout
from lightning_rl.envs.seeding import SeedStream, episode_seed
from lightning_rl.envs.state_walk import UnsupportedState
from lightning_rl.envs.vector import VectorEnv
from lightning_rl.errors import CheckpointError, ConfigError, TrainingFailed
from lightning_rl.functional.trees import map_tree, tree_items
from lightning_rl.types import Array, Episode, Info, SnapshotLevel, TensorObservation

logger = logging.getLogger(__name__)

Act = Callable[[TensorObservation, int], Array]
"""From observations `(N, *obs_shape)` and the number of the step to actions `(N, ...)`."""


def _no_poll() -> None:
    """Do nothing between two steps."""


class EpisodeObserver(Protocol):
    """Sees every step of the open episodes, for example to write some of them down."""

    def on_episode_begin(self, env: VectorEnv, row: int, seed: int, length: int) -> None:
        """See that row `row` plays the episode with this seed and is `length` env steps into it."""

    def on_step(self, env: VectorEnv, action: Array) -> None:
        """See one step of all rows: the policy's actions `(N, ...)` and what came of them."""


class Collector:
    """Steps a vector environment, resets ended rows with their next episode's seed, and counts.

    Attributes:
        env_steps: Transitions collected by this rank.
        episodes: Episodes finished by this rank.
        episodes_dropped: Open episodes given up because the environment's state could not be
            restored.

    Args:
        env: The environments; owned, closed with the collector.
        seed: The run's seed.
        level: How exactly environment states can be saved.
        rank: Process number; the ranks' episode seeds are disjoint.
        world_size: Number of processes.
        stream: Which seeds to draw episodes from.
        on_episode: Called with every finished episode.
    """

    def __init__(
        self,
        env: VectorEnv,
        seed: int,
        level: SnapshotLevel = "boundary",
        rank: int = 0,
        world_size: int = 1,
        stream: SeedStream = "train",
        on_episode: Callable[[Episode], None] | None = None,
    ) -> None:
        if env.skips_steps and world_size > 1:
            # Ranks would count different numbers of env steps, and not end together.
            raise ConfigError("vectorization: vector works in one process; use sync or async")
        self.env = env
        self.level = level
        self._seed, self._stream = seed, stream
        self.rank, self.world_size = rank, world_size
        self._on_episode = on_episode
        self.env_steps = 0
        self.episodes = 0
        self.episodes_dropped = 0
        rows = env.num_envs
        self._episode_numbers = [-1] * rows
        self._episode_seeds = [0] * rows
        self._returns: Array = np.zeros(rows)
        # Lengths follow from the steps at the beginning: adding 1 to an array costs 1.3 µs a step.
        self._steps = 0
        self._begun = [0] * rows
        self._skipped: Array = np.zeros(rows, dtype=np.int64)
        self._components: list[dict[str, float]] = [{} for _ in range(rows)]
        self._actions: list[list[Array]] = [[] for _ in range(rows)]
        self._log_sums: dict[str, float] = {}
        self._log_counts: dict[str, int] = {}
        self._observer: EpisodeObserver | None = None
        # `env.observation` is rewritten in place, so one tensor view serves every step.
        self._view: TensorObservation = map_tree(torch.from_numpy, env.observation)

    def start(self) -> None:
        """Reset every row for its first episode."""
        self._begin_episodes(range(self.env.num_envs))

    def observe(self, observer: EpisodeObserver) -> None:
        """Show every step from now on to `observer`, beginning with the episodes that are open."""
        self._observer = observer
        for row, seed in enumerate(self._episode_seeds):
            observer.on_episode_begin(self.env, row, seed, self._length(row))

    def collect(self, rollout: Rollout, act: Act, poll: Callable[[], None] = _no_poll) -> None:
        """Fill `rollout` from its cursor to its end.

        Args:
            rollout: Where to; kept consistent after every step.
            act: The policy.
            poll: Called before every step; may raise to stop between two steps.

        Raises:
            TrainingFailed: When an environment fails or reports something that is not finite.
        """
        env, alone, write_observation = self.env, self.env.num_envs == 1, rollout.write_observation
        # Only what is true is written below: two assignments less for every step.
        rollout.terminated[rollout.cursor :] = rollout.truncated[rollout.cursor :] = False
        for step in range(rollout.cursor, rollout.num_steps):
            poll()
            write_observation(step, env.observation)
            action = act(self._view, step)
            infos = env.step(action)
            rollout.action[step] = action
            if alone:  # NumPy takes three times as long for an array of one number as for it alone
                rollout.reward[step, 0] = reward = env.reward.item()
                self._returns[0] += reward
            else:
                rollout.reward[step] = env.reward
                self._returns += env.reward
            if self.level == "replay":
                self._remember(action)
            if self._observer is not None:
                self._observer.on_step(env, action)
            if any(infos):
                self._read_infos(infos)
            self._steps += 1
            if env.skips_steps:
                rollout.write_valid(step, env.valid)
                self._skipped += ~env.valid
                self.env_steps += int(env.valid.sum())
            else:
                self.env_steps += env.num_envs
            if env.ended:
                rollout.terminated[step], rollout.truncated[step] = env.terminated, env.truncated
                self._end_episodes(env.ended, rollout, step)
            rollout.cursor = step + 1
        rollout.write_observation(rollout.num_steps, env.observation)
        self.check_finite(rollout)

    def take_log(self) -> dict[str, float]:
        """Return the means of what environments put into `info["log"]` since the last call."""
        means = {key: total / self._log_counts[key] for key, total in self._log_sums.items()}
        self._log_sums.clear()
        self._log_counts.clear()
        return means

    def close(self) -> None:
        """Close the environments."""
        self.env.close()

    def _begin_episodes(self, rows: Sequence[int]) -> None:
        for row in rows:
            self._episode_numbers[row] += 1
            number = (
                self._episode_numbers[row] * self.world_size + self.rank
            ) * self.env.num_envs + row
            self._episode_seeds[row] = episode_seed(self._seed, self._stream, number)
            self._returns[row] = 0.0
            self._begun[row], self._skipped[row] = self._steps, 0
            self._components[row] = {}
            self._actions[row] = []
        self.env.reset(rows, [self._episode_seeds[row] for row in rows])
        if self._observer is not None:
            for row in rows:
                self._observer.on_episode_begin(self.env, row, self._episode_seeds[row], 0)

    def _end_episodes(self, rows: list[int], rollout: Rollout, step: int) -> None:
        for row in rows:
            rollout.write_final(step, row, self.env.observation)
            episode = Episode(
                index=self.episodes * self.world_size + self.rank,
                env_index=row,
                seed=self._episode_seeds[row],
                reward=float(self._returns[row]),
                length=self._length(row),
                terminated=bool(self.env.terminated[row]),
                truncated=bool(self.env.truncated[row]),
                env_steps=self.env_steps * self.world_size,
                reward_components=self._components[row],
            )
            self.episodes += 1
            if self._on_episode:
                self._on_episode(episode)
        self._begin_episodes(rows)

    def _length(self, row: int) -> int:
        """Return the env steps of a row's open episode."""
        return self._steps - self._begun[row] - int(self._skipped[row])

    def _remember(self, action: Array) -> None:
        action = np.array(action)
        for row, actions in enumerate(self._actions):
            actions.append(action[row])

    def _read_infos(self, infos: Sequence[Info]) -> None:
        row = 0
        try:
            for row, info in enumerate(infos):
                if info and (info.get("reward_components") or info.get("log")):
                    self._read_info(row, info)
        except Exception as error:
            raise self.env.failed(row, "info", error) from error

    def _read_info(self, row: int, info: Info) -> None:
        components = info.get("reward_components")
        if components:
            sums = self._components[row]
            for name, value in components.items():
                sums[name] = sums.get(name, 0.0) + float(value)
        log = info.get("log")
        if log:
            for name, value in log.items():
                key = name.lstrip("/")
                self._log_sums[key] = self._log_sums.get(key, 0.0) + float(value)
                self._log_counts[key] = self._log_counts.get(key, 0) + 1

    def check_finite(self, rollout: Rollout) -> None:
        """Stop before anything that is not finite reaches a buffer, a normaliser or an update.

        Raises:
            TrainingFailed: Names the environment, its row and the env step.
        """
        if not _is_finite(rollout.reward):
            step, row = np.argwhere(~np.isfinite(rollout.reward))[0]
            raise self._not_finite("a reward", step, row, rollout)
        for key, leaf in tree_items(rollout.observation):
            if not _is_finite(leaf):
                step, row, *_ = np.argwhere(~np.isfinite(leaf))[0]
                raise self._not_finite(
                    f"an observation{f'[{key!r}]' if key else ''}", step, row, rollout
                )
        for (step, row), observation in zip(
            rollout.final_index, rollout.final_observation, strict=True
        ):
            for key, leaf in tree_items(observation):
                if not _is_finite(leaf):
                    raise self._not_finite(
                        f"a final observation{f'[{key!r}]' if key else ''}", step, row, rollout
                    )

    def _not_finite(self, what: str, step: int, row: int, rollout: Rollout) -> TrainingFailed:
        at = self.env_steps - (rollout.cursor - int(step)) * self.env.num_envs
        if not np.isfinite(rollout.action[: rollout.cursor]).all():
            return TrainingFailed(
                f"the policy's action is nan near env step {at}, most likely because its networks "
                "diverged (lower the learning rate); the last saved checkpoint is still good"
            )
        return TrainingFailed(
            f"environment {self.env.config.name} (row {row}) returned {what} that is not finite "
            f"near env step {at}; training stopped before it was learned from, and the last saved "
            "checkpoint is still good"
        )

    def state_dict(self) -> dict[str, Any]:
        """Return counters, open episodes and, as the level allows, the environments' states."""
        env_states = self._snapshots()  # first: it may lower the level
        level: SnapshotLevel = "boundary" if self.env.is_broken else self.level
        return {
            "env_steps": self.env_steps,
            "episodes": self.episodes,
            "episodes_dropped": self.episodes_dropped,
            "level": level,
            "episode_numbers": list(self._episode_numbers),
            "episode_seeds": list(self._episode_seeds),
            "returns": torch.from_numpy(self._returns.copy()),
            "lengths": torch.tensor([self._length(row) for row in range(self.env.num_envs)]),
            "components": [dict(components) for components in self._components],
            "log_sums": dict(self._log_sums),
            "log_counts": dict(self._log_counts),
            "observation": map_tree(
                lambda leaf: torch.from_numpy(leaf.copy()), self.env.observation
            ),
            "envs": env_states,
            "actions": [_stack(actions) for actions in self._actions] if level == "replay" else [],
        }

    def _snapshots(self) -> list[dict[str, Any]]:
        if self.level != "exact" or self.env.is_broken:
            return []
        try:
            return [self.env.snapshot(row, "exact") for row in range(self.env.num_envs)]
        except UnsupportedState as error:
            logger.warning(
                "%s can no longer be saved mid-episode (%s): from now on a resumed run drops its "
                "open episodes and goes on correctly but not identically",
                self.env.config.name,
                error,
            )
            self.level = "boundary"
            return []

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken; at level `boundary` open episodes are dropped.

        Raises:
            CheckpointError: When the number of environments differs, or a replayed episode leads
                elsewhere.
        """
        if len(state["episode_seeds"]) != self.env.num_envs:
            raise CheckpointError(
                f"expected {len(state['episode_seeds'])} environments as in the checkpoint, "
                f"received {self.env.num_envs}; a run with another number begins anew, with these "
                "weights by `fit --init_from`"
            )
        self.env_steps, self.episodes = state["env_steps"], state["episodes"]
        self.episodes_dropped = state["episodes_dropped"]
        self._episode_numbers = list(state["episode_numbers"])
        self._log_sums, self._log_counts = dict(state["log_sums"]), dict(state["log_counts"])
        if state["level"] == "boundary":
            self._drop_open_episodes()
            return
        self._episode_seeds = list(state["episode_seeds"])
        self._returns[:] = state["returns"].numpy()
        self._begun = [self._steps - length for length in state["lengths"].tolist()]
        self._skipped[:] = 0
        self._components = [dict(components) for components in state["components"]]
        if state["level"] == "exact":
            for row, env_state in enumerate(state["envs"]):
                self.env.restore(row, env_state)
        else:
            self._replay(state["actions"])
            self._check_replay(state["observation"])
        map_tree(
            lambda leaf, saved: np.copyto(leaf, saved.numpy()),
            self.env.observation,
            state["observation"],
        )

    def _drop_open_episodes(self) -> None:
        logger.warning(
            "%s cannot be saved mid-episode: %d open episodes are dropped",
            self.env.config.name,
            self.env.num_envs,
        )
        self.episodes_dropped += self.env.num_envs
        self.start()

    def _replay(self, actions: list[Any]) -> None:
        self._actions = [[] if stacked is None else list(stacked.numpy()) for stacked in actions]
        for row, episode_actions in enumerate(self._actions):
            self.env.replay(row, self._episode_seeds[row], episode_actions)

    def _check_replay(self, saved: TensorObservation) -> None:
        for (key, now), (_, then) in zip(
            tree_items(self.env.observation), tree_items(saved), strict=True
        ):
            if not np.array_equal(now, then.numpy()):
                raise CheckpointError(
                    f"environment {self.env.config.name} did not return to its saved observation"
                    f"{f' {key!r}' if key else ''} when its open episode was replayed; it is not "
                    "deterministic here"
                )


def _is_finite(values: Array) -> bool:
    """Return whether all numbers are finite; integers are.

    The sum of their squares, a fraction of the time of `isfinite(x).all()`, is finite only if they
    are. If it is not, it may have overflowed.
    """
    if values.dtype.kind != "f" or math.isfinite(np.vdot(values, values)):
        return True
    return bool(np.isfinite(values).all())


def _stack(actions: list[Array]) -> Any:
    return torch.from_numpy(np.stack(actions)) if actions else None
