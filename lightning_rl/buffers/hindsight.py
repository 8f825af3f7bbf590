"""Hindsight replay: transitions relabelled with goals that their episodes did reach."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import numpy as np
import torch

from lightning_rl.buffers.replay import Replay, Transitions
from lightning_rl.buffers.rollout import Rollout
from lightning_rl.buffers.wrapper import ReplayWrapper
from lightning_rl.envs.config import EnvConfig
from lightning_rl.errors import ConfigError, check_choice, check_ranges
from lightning_rl.storage.segments import SegmentStore
from lightning_rl.trust import build
from lightning_rl.types import Array

ReplaySpec: TypeAlias = dict[str, Any] | str | None
"""`{class_path, init_args}` or an import path of a `ReplayWrapper`, called with (replay,
environment configuration) and `init_args`; `HindsightReplay` needs no path. None for none."""

Strategy: TypeAlias = Literal["future", "final", "episode"]
STRATEGIES = ("future", "final", "episode")
GOAL_KEYS = ("achieved_goal", "desired_goal")


class HindsightReplay(ReplayWrapper):
    """Replaces the desired goal of most drawn transitions by one that was achieved later on.

    Andrychowicz et al., 2017, https://arxiv.org/abs/1707.01495. Goals are chosen when transitions
    are drawn; reward and `terminated` are computed anew by the environment's
    `compute_reward(achieved_goal, desired_goal, info)` and, where it has one, `compute_terminated`,
    both called with batches and an empty info. The environments step together, so the next
    transition of transition `i`'s episode is `i + num_envs`. An episode that is still open offers
    what it has achieved so far.

    Args:
        replay: Where transitions stand.
        config: The environments that fill it.
        strategy: Achieved goals to choose from: `future` those from the transition on, `final` the
            episode's last, `episode` all of the episode.
        num_goals: Relabelled transitions per one with the goal as it was, at least 0; infinite to
            relabel all.

    Raises:
        ConfigError: When the environment has no goals, or computes no rewards for a batch of them.
    """

    def __init__(
        self,
        replay: Replay,
        config: EnvConfig,
        strategy: Strategy = "future",
        num_goals: float = 4,
    ) -> None:
        super().__init__(replay)
        check_choice("strategy", strategy, STRATEGIES)
        check_ranges({"num_goals": (num_goals, 0.0, None)})
        self.strategy = strategy
        self.share = 1.0 if math.isinf(num_goals) else num_goals / (1.0 + num_goals)
        self.num_envs = config.num_envs
        observation: Any = replay.columns["next_observation"]
        if not isinstance(observation, dict) or not set(GOAL_KEYS) <= set(observation):
            raise ConfigError(
                "HindsightReplay expects Dict observations with achieved_goal and desired_goal, "
                f"received those of {config.name}"
            )
        if config.vectorization == "vector":
            raise ConfigError("HindsightReplay needs vectorization: sync or async")
        self._task = _goal_task(config)
        # Of every row: number of its episode's first transition, and of the last (-1: still open).
        self._start: Array = np.zeros(replay.capacity, dtype=np.int64)
        self._end: Array = np.full(replay.capacity, -1, dtype=np.int64)
        self._open: Array = np.arange(self.num_envs)

    def add(self, rollout: Rollout) -> None:
        """Append the transitions of a full rollout, and note where episodes end."""
        first = self.inserted
        super().add(rollout)
        ended = rollout.terminated | rollout.truncated
        for step in range(rollout.num_steps):
            numbers = first + step * self.num_envs + np.arange(self.num_envs)
            self._note(numbers, ended[step])

    def _note(self, numbers: Array, ended: Array) -> None:
        """Note one transition of every environment."""
        rows = numbers % self.capacity
        self._start[rows], self._end[rows] = self._open, -1
        kept = int(numbers[-1]) - self.capacity + 1  # what came before has been overwritten
        for env in np.flatnonzero(ended):
            first, last = int(self._open[env]), int(numbers[env])
            lost = max(0, -((first - kept) // self.num_envs))
            episode = np.arange(first + lost * self.num_envs, last + 1, self.num_envs)
            self._end[episode % self.capacity] = last
            self._open[env] = last + self.num_envs

    def cut(self, count: int) -> None:
        """Mark the last `count` transitions as truncated, since their episodes were given up."""
        super().cut(count)
        self._find_episodes()

    def load_segments(
        self, state: Mapping[str, Any], references: list[dict[str, Any]], store: SegmentStore
    ) -> None:
        """Restore what `state_dict` and `write_segments` saved; episodes follow from the flags."""
        super().load_segments(state, references, store)
        self._find_episodes()

    def _find_episodes(self) -> None:
        oldest = self.inserted - len(self)
        columns: Any = self.columns
        ended = (columns["terminated"] | columns["truncated"]).numpy()
        for env in range(self.num_envs):
            first = oldest + (env - oldest) % self.num_envs
            numbers = np.arange(first, self.inserted, self.num_envs)
            lasts = numbers[ended[numbers % self.capacity]]
            starts = np.concatenate(([first], lasts + self.num_envs))
            episode = np.searchsorted(lasts, numbers)
            self._start[numbers % self.capacity] = starts[episode]
            self._end[numbers % self.capacity] = np.append(lasts, -1)[episode]
            self._open[env] = starts[-1]

    def sample(self, batch_size: int, generator: torch.Generator) -> Transitions:
        """Draw transitions, most of them with a goal that was achieved later on."""
        rows = self.draw(batch_size, generator)
        transitions: Any = self.gather(rows)
        uniform = torch.rand((2, batch_size), generator=generator).numpy()
        chosen = np.flatnonzero(uniform[0] < self.share)
        if len(chosen):
            goal_rows = self._goal_rows(rows[chosen], uniform[1][chosen])
            columns: Any = self.columns["next_observation"]
            goal = columns["achieved_goal"].numpy()[goal_rows]
            self._relabel(transitions, chosen, goal)
        return transitions

    def _goal_rows(self, rows: Array, uniform: Array) -> Array:
        """Return the row of the transition whose achieved goal each row's transition gets."""
        oldest, latest = self.inserted - len(self), self.inserted - 1
        number = oldest + (rows - oldest) % self.capacity
        same_env = (latest - number) % self.num_envs
        end = np.where(self._end[rows] >= 0, self._end[rows], latest - same_env)
        if self.strategy == "final":
            return end % self.capacity
        begin = number
        if self.strategy == "episode":
            first_kept = oldest + (number - oldest) % self.num_envs
            begin = np.maximum(self._start[rows], first_kept)
        choices = (end - begin) // self.num_envs + 1
        step = np.minimum((uniform * choices).astype(np.int64), choices - 1)
        return (begin + step * self.num_envs) % self.capacity

    def _relabel(self, transitions: Any, chosen: Array, goal: Array) -> None:
        index, new_goal = torch.from_numpy(chosen), torch.from_numpy(goal)
        for name in ("observation", "next_observation"):
            transitions[name]["desired_goal"][index] = new_goal
        achieved = transitions["next_observation"]["achieved_goal"][index].numpy()
        reward = np.asarray(self._task.compute_reward(achieved, goal, {}), dtype=np.float32)
        transitions["reward"][index] = torch.from_numpy(reward)
        if hasattr(self._task, "compute_terminated"):
            terminated = self._task.compute_terminated(achieved, goal, {})
            flags = np.broadcast_to(np.asarray(terminated, dtype=bool), (len(chosen),))
            transitions["terminated"][index] = torch.from_numpy(flags.copy())


def _goal_task(config: EnvConfig) -> Any:
    """Return an instance that computes rewards; it is closed, since they are a pure function.

    Raises:
        ConfigError: When it cannot, for a batch.
    """
    env: Any = config.make()
    task, space = env.unwrapped, env.observation_space
    env.close()
    if not callable(getattr(task, "compute_reward", None)):
        raise ConfigError(
            f"HindsightReplay expects {config.name} to have "
            "compute_reward(achieved_goal, desired_goal, info), received none"
        )
    goals = [np.zeros((2, *space[key].shape), dtype=np.float32) for key in GOAL_KEYS]
    shape = np.shape(task.compute_reward(*goals, {}))
    if shape != (2,):
        raise ConfigError(
            f"HindsightReplay expects compute_reward of {config.name} to return one reward for "
            f"each of a batch of 2 goals, received shape {shape}"
        )
    return task


def wrap_replay(spec: ReplaySpec, replay: Replay, config: EnvConfig) -> Replay:
    """Return `replay`, inside the wrapper that a configuration names.

    Raises:
        ConfigError: When it names no trusted `ReplayWrapper`.
    """
    if spec is None:
        return replay
    spec = {"class_path": spec} if isinstance(spec, str) else dict(spec)
    if spec.get("class_path") == HindsightReplay.__name__:
        spec["class_path"] = f"{__name__}.{HindsightReplay.__name__}"
    return build(spec, replay, config, base=ReplayWrapper)
