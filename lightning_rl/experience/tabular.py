"""What tabular algorithms have in common: a table, exploration and the order of a step."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import nn

from lightning_rl.buffers.rollout import Rollout
from lightning_rl.errors import ConfigError, check_choice, check_ranges
from lightning_rl.experience.collector import Act, Collector
from lightning_rl.experience.hyperparameters import check_common_ranges
from lightning_rl.experience.online import OnlineSource
from lightning_rl.experience.random_streams import RandomStreams
from lightning_rl.experience.run_hooks import RunHooks
from lightning_rl.experience.setup import require_one_process
from lightning_rl.experience.tabular_chunk import Chunk, Transition, make_chunk
from lightning_rl.functional.schedules import Schedule, constant, exponential, linear, linear_path
from lightning_rl.functional.tabular import epsilon_greedy
from lightning_rl.functional.trees import map_tree
from lightning_rl.networks.greedy import GreedyPolicy
from lightning_rl.networks.table import QTable, TableRows
from lightning_rl.types import Array, Statistics, TensorObservation

DecaySchedule: TypeAlias = Literal["constant", "linear", "exponential"]
SCHEDULES: dict[str, Schedule] = {
    "constant": constant,
    "linear": linear,
    "exponential": exponential,
}
EPSILON_PART = 0.5
"""Part of the schedule over which epsilon falls where no decay is given."""


@dataclass(frozen=True)
class Decay:
    """A number that falls from `start` to `end` as the run goes on.

    Args:
        start: First value.
        end: Last value.
        schedule: A key of `SCHEDULES`.
        env_steps: Env steps that it takes; or
        episodes: episodes that it takes; or, with neither,
        part: of the run's schedule.
    """

    start: float
    end: float
    schedule: DecaySchedule
    env_steps: int | None = None
    episodes: int | None = None
    part: float = 1.0

    def now(self, run: RunHooks) -> float:
        """Return the value at the run's present env step and episode."""
        fraction = self._fraction(run, run.env_steps, run.episodes)
        return SCHEDULES[self.schedule](self.start, self.end, fraction)

    def ahead(self, run: RunHooks, env_steps: range) -> list[float] | None:
        """Return the values at these env steps; None when they depend on episodes yet to end."""
        if self.schedule == "constant":
            return [self.start] * len(env_steps)
        span = run.budget.schedule_env_steps if self.env_steps is None else self.env_steps
        if span is None or (self.env_steps is None and self.episodes is not None):
            return None
        schedule, start, end = SCHEDULES[self.schedule], self.start, self.end
        if self._fraction(run, env_steps[0], 0) >= 1.0:
            return [schedule(start, end, 1.0)] * len(env_steps)
        now = np.arange(env_steps.start, env_steps.stop, env_steps.step)
        # The operations of `_fraction` in its order: the same numbers to the last bit.
        fractions = np.minimum(1.0, now / span) / (self.part if self.env_steps is None else 1.0)
        if self.schedule == "linear":
            return linear_path(start, end, fractions)
        return [schedule(start, end, fraction) for fraction in fractions.tolist()]

    def _fraction(self, run: RunHooks, env_steps: int, episodes: int) -> float:
        if self.env_steps is not None:
            return env_steps / self.env_steps
        if self.episodes is not None:
            return episodes / self.episodes
        return run.budget.progress(env_steps, episodes) / self.part


class TabularHooks(RunHooks):
    """The half of a tabular algorithm that explores and hands over transitions.

    The other half is the algorithm's `learn`, which sees every transition once, in order and
    before the next action is taken.

    Attributes:
        chooses_first: Whether the next action is chosen before the last step is learned from, as
            SARSA does.
        table: The action values.
        gamma: Discount in [0, 1].
        env_steps_per_iteration: Env steps of one training unit.
    """

    chooses_first = False
    source: OnlineSource
    streams: RandomStreams
    table: QTable
    gamma: float
    env_steps_per_iteration: int
    epsilon_decay: Decay
    learning_rate_decay: Decay
    _arguments: dict[str, Any]
    _chunk: Chunk

    @abstractmethod
    def learn(
        self,
        tables: list[TableRows],
        transitions: Iterable[Transition],
        epsilon: float,
        learning_rate: float,
        coins: list[float],
    ) -> list[float]:
        """Update the table, transition by transition; return the errors before their updates.

        Args:
            tables: Those of `table`.
            transitions: Of one step, each environment's in turn.
            epsilon: Probability of a random action.
            learning_rate: Step size.
            coins: A number drawn from [0, 1) for each transition.
        """

    def set_schedules(
        self,
        learning_rate: tuple[float, float, DecaySchedule],
        epsilon: tuple[float, float, DecaySchedule],
        epsilon_decay_env_steps: int | None,
        epsilon_decay_episodes: int | None,
    ) -> None:
        """Check the numbers that all tabular algorithms have, and keep the schedules.

        Args:
            learning_rate: First and last value, and the schedule between them.
            epsilon: The same.
            epsilon_decay_env_steps: Env steps that epsilon's takes; or
            epsilon_decay_episodes: episodes that it takes; default half of the run's schedule.

        Raises:
            ConfigError: For a value outside its range.
        """
        check_common_ranges(self._arguments)
        ranges: dict[str, tuple[float | None, float, float | None]] = {
            "epsilon_decay_env_steps": (epsilon_decay_env_steps, 1, None),
            "epsilon_decay_episodes": (epsilon_decay_episodes, 1, None),
        }
        for name, (start, end, schedule) in (
            ("learning_rate", learning_rate),
            ("epsilon", epsilon),
        ):
            first = name if name == "learning_rate" else f"{name}_start"
            ranges |= {first: (start, 0.0, 1.0), f"{name}_end": (end, 0.0, 1.0)}
            check_choice(f"{name}_schedule", schedule, SCHEDULES)
            if schedule == "exponential" and not (start > 0.0 and end > 0.0):
                raise ConfigError(
                    f"expected {name}_schedule exponential to run between numbers above 0, "
                    f"received {start} and {end}; use linear"
                )
        check_ranges(ranges)
        if epsilon_decay_env_steps is not None and epsilon_decay_episodes is not None:
            raise ConfigError(
                "expected one of epsilon_decay_env_steps and epsilon_decay_episodes, "
                f"received {epsilon_decay_env_steps} and {epsilon_decay_episodes}"
            )
        self.learning_rate_decay = Decay(*learning_rate)
        self.epsilon_decay = Decay(
            *epsilon, epsilon_decay_env_steps, epsilon_decay_episodes, part=EPSILON_PART
        )

    def make_table(self, initial_value: float, num_tables: int = 1) -> QTable:
        """Return the table for the environment's spaces.

        Raises:
            ConfigError: For spaces that no table can be made of, and for normalisers.
        """
        name, spaces = type(self).__name__, (self.observation_space, self.action_space)
        for option in ("normalize_observation", "normalize_reward"):
            if getattr(self.env_config, option):
                raise ConfigError(f"{name} learns from what it sees: leave env.{option} out")
        return QTable(*spaces, name, num_tables, initial_value)

    @property
    def unit_env_steps(self) -> int:
        """Env steps of one training unit: a whole number of steps of all environments."""
        num_envs: int = self.env_config.num_envs
        return max(1, self.env_steps_per_iteration // num_envs) * num_envs

    @property
    def epsilon(self) -> float:
        """Probability of a random action now."""
        return self.epsilon_decay.now(self)

    @property
    def learning_rate(self) -> float:
        """Step size of an update now."""
        return self.learning_rate_decay.now(self)

    def schedules_ahead(self, env_steps: range) -> tuple[list[float] | None, list[float] | None]:
        """Return epsilon and learning rate at these env steps, None where nobody knows them yet."""
        decays = self.epsilon_decay, self.learning_rate_decay
        epsilons, learning_rates = (decay.ahead(self, env_steps) for decay in decays)
        return epsilons, learning_rates

    @property
    def q_table_size(self) -> int:
        """Action values in the table: observations x actions (x 2 with `double`)."""
        return self.table.values.numel()

    def setup(self, stage: str) -> None:
        """Refuse several processes: each would fill a table of its own."""
        require_one_process(self)
        super().setup(stage)

    # Acting.

    def act(self, observation: TensorObservation, deterministic: bool = True) -> Array:
        """Return the best actions `(N,)`, the first of equals; or epsilon-greedy ones."""
        arrays: Any = map_tree(lambda leaf: leaf.numpy(force=True), observation)
        rows = self.table.index(arrays)
        values = self.table.action_values(rows)
        if deterministic:
            return np.argmax(values, axis=-1)
        uniform, epsilon = self.streams.numpy("exploration").random(len(values)), self.epsilon
        pairs = zip(values.tolist(), uniform.tolist(), strict=True)
        return np.array([epsilon_greedy(row, epsilon, number) for row, number in pairs])

    def policy_module(self) -> nn.Module:
        """Return the greedy policy as a look-up in the table."""
        return GreedyPolicy(self.table, lambda q_values: q_values.argmax(-1))

    # One chunk.

    def build_source(self, collector: Collector) -> OnlineSource:
        """Return the source of chunks."""
        return OnlineSource(self, collector, self.unit_env_steps // self.env_config.num_envs)

    def begin_rollout(self, num_steps: int) -> Act:
        """Return the policy that learns from the last step before it chooses the next action."""
        self._chunk = make_chunk(self, self.source, num_steps)
        return self._chunk.act

    def finish_rollout(self) -> None:
        """Learn from the last step of a chunk."""
        self._chunk.finish()

    def learned(self, chunks: Iterable[Rollout]) -> Statistics:
        """Play a unit and return its metrics, all of them means or values at its end."""
        statistics: Statistics = {}
        for rollout in chunks:
            seen: Any = map_tree(lambda leaf: leaf[:-1], rollout.observation)
            rows = self.table.index(seen)
            values = np.take_along_axis(
                self.table.action_values(rows), rollout.action[..., None], axis=-1
            )
            statistics = {
                "train/td_loss": float(np.square(self.source.td_error).mean()),
                "train/mean_q": float(values.mean()),
                "train/epsilon": self.epsilon,
                "train/learning_rate": self.learning_rate,
            }
        self.trainer.optimizers[0].param_groups[0]["lr"] = self.learning_rate  # for monitors
        return statistics

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return an optimizer that is never stepped: it carries Lightning's count of units."""
        return torch.optim.SGD([self.table.values], lr=self.learning_rate_decay.start)
