"""Evaluation: finished episodes from environments and seeds of their own, and their statistics."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import gymnasium
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import IterableDataset
from torchmetrics import Metric

from lightning_rl.envs.config import EnvConfig
from lightning_rl.envs.seeding import SeedStream, episode_seed
from lightning_rl.envs.vector import SyncRows
from lightning_rl.errors import TrainingFailed
from lightning_rl.functional.trees import map_tree
from lightning_rl.types import Array, Episode, Statistics, TensorObservation

logger = logging.getLogger(__name__)

Policy = Callable[[TensorObservation], Array]
"""From observations `(N, *obs_shape)` to the policy's actions `(N, ...)`."""


class EpisodePolicy:
    """A policy that plays whole episodes, with its memory of each row's if it has one.

    Args:
        agent: What acts; see `EvaluationHooks.act_with_state`.
        deterministic: The most probable action instead of a sampled one.
    """

    def __init__(self, agent: Any, deterministic: bool = True) -> None:
        self._agent, self._deterministic = agent, deterministic
        self._state: Array | None = None

    def __call__(self, observation: TensorObservation) -> Array:
        """Return the actions `(N, ...)` of observations `(N, *obs_shape)` on the CPU."""
        action, self._state = self._agent.act_with_state(
            self._agent.to_device(observation), self._state, self._deterministic
        )
        return action

    def begin_episode(self, row: int) -> None:
        """Forget what happened in `row`."""
        if self._state is not None:
            self._state[row] = 0.0


MAX_ROWS = 32
EVAL_MAX_STEPS_PER_EPISODE = 10_000
"""Where neither the environment nor its registration ends an episode, evaluation cuts it here."""


class Viewer(Protocol):
    """Watches episodes, which are then played one at a time."""

    def make_env(self) -> gymnasium.Env:
        """Return the environment to play in."""

    def show(self, env: gymnasium.Env, episode: int) -> None:
        """Look at the environment: after the reset of episode `episode` and after each step."""


class EvaluationSource(IterableDataset):
    """A sized iterable of finished episodes, in the order of their numbers.

    That order keeps `limit_val_batches` honest: the first to end would be the short ones. Episode
    `i` always has the same seed, so two evaluations of one policy agree; nothing here draws from a
    training stream.

    Args:
        config: Description of the environment; `eval_kwargs` apply.
        policy: Acts for all rows at once.
        num_episodes: Episodes over all ranks.
        seed: The run's seed.
        max_steps_per_episode: Cut episodes at this many env steps and count them as truncated.
        stream: `evaluation` selects checkpoints, `test` is never used for selection.
        rank: Process number; the ranks share the episodes.
        world_size: Number of processes.
        poll: Called before every step; may raise to stop.
        viewer: Watches the episodes.
    """

    def __init__(
        self,
        config: EnvConfig,
        policy: Policy,
        num_episodes: int,
        seed: int,
        max_steps_per_episode: int | None = None,
        stream: SeedStream = "evaluation",
        rank: int = 0,
        world_size: int = 1,
        poll: Callable[[], None] = lambda: None,
        viewer: Viewer | None = None,
    ) -> None:
        self.config, self.policy, self.seed, self.stream = config, policy, seed, stream
        self.max_steps_per_episode = max_steps_per_episode or EVAL_MAX_STEPS_PER_EPISODE
        self._limit_was_chosen = max_steps_per_episode is not None
        self._episodes = range(rank, num_episodes, world_size)
        self._poll = poll
        self._viewer = viewer
        self._env: SyncRows | None = None

    def __len__(self) -> int:
        return len(self._episodes)

    def __iter__(self) -> Iterator[Episode]:
        if not len(self):  # more ranks than episodes
            return iter(())
        if self._env is None:
            rows = 1 if self._viewer else min(len(self), MAX_ROWS)
            make = self._viewer.make_env if self._viewer else None
            self._env = SyncRows(self.config, rows, evaluation=True, make=make)
        return self._in_order(self._play(self._env))

    def close(self) -> None:
        """Close the environments; a later iteration makes new ones."""
        if self._env is not None:
            self._env.close()
            self._env = None

    def _in_order(self, finished: Iterator[Episode]) -> Iterator[Episode]:
        early: dict[int, Episode] = {}
        for number in self._episodes:
            while number not in early:
                episode = next(finished)
                early[episode.index] = episode
            yield early.pop(number)

    def _play(self, env: SyncRows) -> Iterator[Episode]:
        waiting = list(reversed(self._episodes))
        playing: dict[int, int] = {}
        returns, lengths = np.zeros(env.num_envs), np.zeros(env.num_envs, dtype=np.int64)
        view = map_tree(torch.from_numpy, env.observation)
        components: list[dict[str, float]] = [{} for _ in range(env.num_envs)]

        def begin(row: int) -> None:
            playing[row] = waiting.pop()
            returns[row], lengths[row], components[row] = 0.0, 0, {}
            if isinstance(self.policy, EpisodePolicy):
                self.policy.begin_episode(row)
            env.reset([row], [episode_seed(self.seed, self.stream, playing[row])])
            self._show(env, row, playing[row])

        for row in range(env.num_envs):
            begin(row)
        while playing:
            self._poll()
            env.activate(playing)
            infos = env.step(self.policy(view))
            for row, info in zip(list(playing), infos, strict=True):
                self._show(env, row, playing[row])
                returns[row] += env.reward[row]
                lengths[row] += 1
                for name, value in ((info or {}).get("reward_components") or {}).items():
                    components[row][name] = components[row].get(name, 0.0) + float(value)
                if (
                    env.terminated[row]
                    or env.truncated[row]
                    or lengths[row] >= self.max_steps_per_episode
                ):
                    yield self._episode(
                        env, row, playing.pop(row), returns[row], lengths[row], components[row]
                    )
                    if waiting:
                        begin(row)

    def _show(self, env: SyncRows, row: int, number: int) -> None:
        if self._viewer is not None:
            self._viewer.show(env.envs[row], number)

    def _episode(
        self,
        env: SyncRows,
        row: int,
        number: int,
        reward: float,
        length: int,
        components: dict[str, float],
    ) -> Episode:
        if not np.isfinite(reward):
            raise TrainingFailed(
                f"environment {self.config.name} returned a reward that is not finite in evaluation"
            )
        terminated = bool(env.terminated[row])
        cut = not terminated and not env.truncated[row]
        if cut and not self._limit_was_chosen:
            logger.warning(
                "%s does not end its episodes; evaluation cuts them at %d steps "
                "(env.max_episode_steps sets a limit)",
                self.config.name,
                self.max_steps_per_episode,
            )
            self._limit_was_chosen = True  # said once
        return Episode(
            index=number,
            env_index=row,
            seed=episode_seed(self.seed, self.stream, number),
            reward=float(reward),
            length=int(length),
            terminated=terminated,
            truncated=not terminated,
            reward_components=components,
        )


class EpisodeMetric(Metric):
    """Returns and lengths of finished episodes, gathered over ranks.

    `compute` gives `mean_reward`, `std_reward` (population), `min_reward`, `max_reward` and
    `mean_length`.
    """

    full_state_update = False
    index: list[Tensor]
    reward: list[Tensor]
    length: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        for name in ("index", "reward", "length"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, episode: Episode) -> None:
        """Add one finished episode."""
        self.index.append(torch.tensor([episode.index]))
        self.reward.append(torch.tensor([episode.reward], dtype=torch.float64))
        self.length.append(torch.tensor([episode.length]))

    def compute(self) -> dict[str, Any]:
        """Return the statistics, and `rewards` and `lengths` in order of the episodes."""
        index, reward, length = (_cat(state) for state in (self.index, self.reward, self.length))
        order = index.argsort()
        rewards: list[float] = reward[order].tolist()
        lengths: list[int] = length[order].tolist()
        return {"rewards": rewards, "lengths": lengths, **episode_statistics(rewards, lengths)}


@contextlib.contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Put a module into evaluation mode inside the context, and each part back behind it."""
    modes = [(part, part.training) for part in module.modules()]
    try:
        module.eval()
        yield
    finally:
        for part, mode in modes:
            part.training = mode


def episode_statistics(rewards: list[float], lengths: list[int]) -> Statistics:
    """Return mean, standard deviation (population), bounds of the returns, and the mean length."""
    values = np.asarray(rewards, dtype=np.float64)
    return {
        "mean_reward": float(values.mean()),
        "std_reward": float(values.std()),
        "min_reward": float(values.min()),
        "max_reward": float(values.max()),
        "mean_length": float(np.mean(lengths)),
    }


def _cat(state: list[Tensor] | Tensor) -> Tensor:
    return torch.cat(list(state)) if isinstance(state, list) else state
