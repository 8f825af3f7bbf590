"""One chunk of a tabular algorithm: what happens between two env steps.

An environment of a table takes 5 µs a step, so what surrounds it counts by the call.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, Protocol, TypeAlias

import numpy as np

from lightning_rl.experience.collector import Act
from lightning_rl.experience.online import OnlineSource
from lightning_rl.experience.random_streams import RandomStreams
from lightning_rl.functional.tabular import epsilon_greedy
from lightning_rl.functional.trees import map_tree
from lightning_rl.networks.table import QTable, TableRows
from lightning_rl.types import Array, TensorObservation

Transition: TypeAlias = tuple[int, int, float, bool, int, int]
"""State, action, reward, terminated, next state, next action; states are rows of the table. The
next action is 0 for an algorithm that does not choose it before it learns."""


class TabularLearner(Protocol):
    """What a chunk needs from an algorithm."""

    chooses_first: bool
    streams: RandomStreams
    table: QTable

    @property
    def epsilon(self) -> float:
        """Probability of a random action now."""

    @property
    def learning_rate(self) -> float:
        """Step size of an update now."""

    def schedules_ahead(self, env_steps: range) -> tuple[list[float] | None, list[float] | None]:
        """Return epsilon and learning rate at these env steps, None where nobody knows them yet."""

    def learn(
        self,
        tables: list[TableRows],
        transitions: Iterable[Transition],
        epsilon: float,
        learning_rate: float,
        coins: list[float],
    ) -> list[float]:
        """Update the tables, transition by transition; return the errors before their updates."""


class Chunk:
    """One chunk in play: before each step, what the last one led to is learned from.

    Nothing but the source tells what happened before, so that a chunk goes on from any place.

    Attributes:
        act: The policy: it learns from step `step - 1`, if the chunk has it, and returns the
            actions of `step`.

    Args:
        agent: Who plays and learns.
        source: Where; its chunk may have begun.
        num_steps: Steps of each environment, T.
    """

    def __init__(self, agent: TabularLearner, source: OnlineSource, num_steps: int) -> None:
        self._agent, self._source, self._rollout = agent, source, source.rollout
        self._table, self._env, self._num_steps = agent.table, source.collector.env, num_steps
        self._tables = [TableRows(array) for array in agent.table.arrays]
        self._learn_from, self._chooses_first = agent.learn, agent.chooses_first
        num_envs = self._num_envs = self._env.num_envs
        # In one list each: the garbage collector looks at thousands of lists for longer than all
        # else takes here.
        count = (num_steps + 1) * num_envs
        self._uniform: list[float] = agent.streams.numpy("exploration").random(count).tolist()
        self._coin: list[float] = agent.streams.numpy("update").random(count).tolist()
        begin = source.env_steps - self._rollout.num_transitions
        clock = range(begin, begin + (num_steps + 1) * num_envs, num_envs)
        self._epsilons, self._learning_rates = agent.schedules_ahead(clock)
        self._rows: list[int] = []  # of the observations before the last step
        if self._rollout.cursor:
            last = self._rollout.cursor - 1
            before: Any = map_tree(lambda leaf: leaf[last], self._rollout.observation)
            self._rows = self._table.rows(before)
        self._action: Array = np.zeros(num_envs, dtype=np.int64)
        self.act = self._bound_act()

    def _bound_act(self) -> Act:
        def act(_: TensorObservation, step: int) -> Array:
            self._action[:] = self._advance(step)
            return self._action

        return act

    def finish(self) -> None:
        """Learn from the last step, and choose ahead where that comes first."""
        chosen = self._advance(self._num_steps)
        self._source.next_action = chosen if self._chooses_first else None

    def _advance(self, step: int) -> list[int]:
        rows, chosen = self._table.rows(self._env.observation), None
        if step == 0:
            chosen, self._source.next_action = self._source.next_action, None
        elif self._chooses_first:
            chosen = self._choose(step, rows)
            self._learn(step, rows, chosen)
        else:
            self._learn(step, rows, [0] * len(rows))
        self._rows = rows
        return self._choose(step, rows) if chosen is None else chosen

    def _epsilon(self, step: int) -> float:
        return self._agent.epsilon if self._epsilons is None else self._epsilons[step]

    def _learning_rate(self, step: int) -> float:
        rates = self._learning_rates
        return self._agent.learning_rate if rates is None else rates[step]

    def _values(self, row: int) -> list[float]:
        """Return the sum of the tables at one row: it has the same order as their mean."""
        values = self._tables[0][row]
        for table in self._tables[1:]:
            values = [one + other for one, other in zip(values, table[row], strict=True)]
        return values

    def _of_step(self, numbers: list[float], step: int) -> list[float]:
        return numbers[step * self._num_envs : (step + 1) * self._num_envs]

    def _choose(self, step: int, rows: list[int]) -> list[int]:
        epsilon, values_of = self._epsilon(step), self._values
        pairs = zip(rows, self._of_step(self._uniform, step), strict=True)
        return [epsilon_greedy(values_of(row), epsilon, number) for row, number in pairs]

    def _learn(self, now: int, rows: list[int], next_action: list[int]) -> None:
        """Learn from the step before `now`, whose observations have the rows `rows`."""
        step, rollout, source = now - 1, self._rollout, self._source
        reward: list[float] = rollout.reward[step].tolist()
        if not math.isfinite(sum(reward)):
            source.collector.check_finite(rollout)
        if rollout.final_index and rollout.final_index[-1][0] == step:
            rows, next_action = self._true_ends(step, rows, next_action)
        action: list[int] = rollout.action[step].tolist()
        terminated: list[bool] = rollout.terminated[step].tolist()
        coins = self._of_step(self._coin, now)
        numbers = self._epsilon(now), self._learning_rate(now), coins
        transitions = zip(self._rows, action, reward, terminated, rows, next_action, strict=True)
        if rollout.valid is None:
            source.td_error[step] = self._learn_from(self._tables, transitions, *numbers)
        else:
            valid = rollout.valid[step]
            happened = [t for t, is_valid in zip(transitions, valid, strict=True) if is_valid]
            source.td_error[step] = 0.0
            source.td_error[step, valid] = self._learn_from(self._tables, happened, *numbers)

    def _true_ends(
        self, step: int, rows: list[int], next_action: list[int]
    ) -> tuple[list[int], list[int]]:
        """Return where `step` really led, and what the policy does there.

        Behind an episode's end, `rows` and `next_action` are those of the next episode.
        """
        rollout, rows = self._rollout, list(rows)
        ends = zip(reversed(rollout.final_index), reversed(rollout.final_observation), strict=True)
        for (ended, env), final in ends:
            if ended != step:
                break
            rows[env] = self._table.row(final)
        return rows, self._choose(step + 1, rows) if self._chooses_first else next_action


class SoloChunk(Chunk):
    """The chunk of a single environment: the same numbers, by functions with everything bound.

    Loops over lists of one, look-ups and calls are half of what `Chunk` takes for one environment.
    """

    def finish(self) -> None:  # noqa: D102
        chosen: list[int] = self.act({}, self._num_steps).tolist()
        self._source.next_action = chosen if self._chooses_first else None

    def _bound_act(self) -> Act:
        rows = self._rows = self._rows or [0]
        learn, chooses_first = self._bound_learn(), self._chooses_first
        source, uniform, result = self._source, self._uniform, self._action
        row_now = self._table.row_reader(self._env.observation)
        first, epsilons = self._tables[0], self._epsilons
        values_of = self._values if len(self._tables) > 1 else first.__getitem__
        epsilon_at: Callable[[int], float]
        epsilon_at = self._epsilon if epsilons is None else epsilons.__getitem__

        def act(_: TensorObservation, step: int) -> Array:
            row, epsilon, ahead = row_now(), epsilon_at(step), None
            if step == 0:
                ahead, source.next_action = source.next_action, None
            elif not chooses_first:
                learn(step, row, 0, epsilon)
            if ahead is not None:
                action = ahead[0]
            else:
                action = epsilon_greedy(values_of(row), epsilon, uniform[step])
            if step and chooses_first:
                learn(step, row, action, epsilon)
            rows[0] = row
            result[0] = action
            return result

        return act

    def _bound_learn(self) -> Callable[[int, int, int, float], None]:
        rollout, td_error = self._rollout, self._source.td_error
        reward_of, action_of = rollout.reward.item, rollout.action.item
        is_terminated, ends = rollout.terminated.item, rollout.final_index
        learn_from, tables, coin, rows = self._learn_from, self._tables, self._coin, self._rows
        rates = self._learning_rates
        rate_at: Callable[[int], float]
        rate_at = self._learning_rate if rates is None else rates.__getitem__

        def learn(now: int, row: int, next_action: int, epsilon: float) -> None:
            step = now - 1
            reward = reward_of(step)
            if not math.isfinite(reward):
                self._source.collector.check_finite(rollout)
            terminated = False
            if ends and ends[-1][0] == step:
                (row,), (next_action,) = self._true_ends(step, [row], [next_action])
                terminated = is_terminated(step)
            transition = rows[0], action_of(step), reward, terminated, row, next_action
            errors = learn_from(tables, (transition,), epsilon, rate_at(now), coin[now : now + 1])
            td_error[step, 0] = errors[0]

        return learn


def make_chunk(agent: TabularLearner, source: OnlineSource, num_steps: int) -> Chunk:
    """Return the chunk for the source's environments; see `Chunk` for the arguments."""
    env = source.collector.env
    alone = env.num_envs == 1 and not env.skips_steps
    return (SoloChunk if alone else Chunk)(agent, source, num_steps)
