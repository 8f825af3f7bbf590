"""Q-learning.

Watkins (1989), "Learning from Delayed Rewards", and Watkins and Dayan (1992),
https://doi.org/10.1007/BF00992698. After every env step

    Q(s, a) += learning_rate * (r + gamma * (1 - terminated) * max_a' Q(s', a') - Q(s, a))

while acting epsilon-greedily. With `double` (van Hasselt, 2010,
https://papers.nips.cc/paper/3964-double-q-learning) there are two tables: a coin picks the one that
learns, it chooses a', the other values it, and acting uses their mean.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from lightning_rl.algorithms.base import Algorithm
from lightning_rl.buffers.rollout import Rollout
from lightning_rl.envs.config import EnvConfig, EnvLike
from lightning_rl.experience.tabular import DecaySchedule, TabularHooks
from lightning_rl.experience.tabular_chunk import Transition
from lightning_rl.networks.table import TableRows
from lightning_rl.types import Statistics


def q_learning_target(
    reward: float, terminated: bool, next_values: Sequence[float], gamma: float
) -> float:
    """Return `r + gamma * max_a' Q(s', a')`, without the second term where the task has ended."""
    return reward if terminated else reward + gamma * max(next_values)


def double_q_learning_target(
    reward: float,
    terminated: bool,
    next_values: Sequence[float],
    other_next_values: Sequence[float],
    gamma: float,
) -> float:
    """Return `r + gamma * Q_other(s', argmax_a' Q(s', a'))`, the first of equals being chosen."""
    if terminated:
        return reward
    return reward + gamma * other_next_values[next_values.index(max(next_values))]


class QLearning(TabularHooks, Algorithm):
    """Q-learning in a table, for discrete observations and Discrete actions; double as a flag.

    Logs `train/td_loss` (mean squared error of the targets), `train/mean_q` (of the actions taken,
    at the end of the unit), `train/epsilon`, `train/learning_rate` and `rollout/mean_reward` (per
    step). `q_table_size` and `final_epsilon` stand in `metrics.json`.

    Args:
        env: Environment id, `EnvConfig`, mapping of its fields, or a class or factory.
        total_env_steps: Budget in env steps over all environments; default 100,000.
        total_episodes: Budget in finished episodes instead.
        schedule_env_steps: Env steps that schedules span; default the first `total_env_steps`.
        seed: Default: the value of `seed_everything`, else drawn and recorded.
        double: Two tables, each valuing what the other chooses.
        gamma: Discount in [0, 1].
        learning_rate: First step size, in [0, 1].
        learning_rate_end: Last one, where the schedule is not `constant`.
        learning_rate_schedule: `constant`, `linear` or `exponential`, over the whole schedule.
        epsilon_start: First probability of a random action.
        epsilon_end: Last one.
        epsilon_schedule: `linear`, `exponential`, or `constant` at `epsilon_start`.
        epsilon_decay_env_steps: Env steps over which it falls; default half of the schedule.
        epsilon_decay_episodes: Finished episodes over which it falls instead.
        initial_value: Of every entry; above the true values, every action gets tried.
        env_steps_per_iteration: Env steps of one training unit, between which metrics, evaluation
            and checkpoints happen; learning happens at every env step.

    Raises:
        ConfigError: For values outside their range or spaces that are not supported.

    Example:
        >>> agent = QLearning("FrozenLake-v1", total_env_steps=1_000, seed=1)
        >>> agent.q_table_size, int(agent.predict(0))
        (64, 0)
    """

    def __init__(
        self,
        env: EnvLike = EnvConfig("FrozenLake-v1"),  # noqa: B008 - never changed
        total_env_steps: int | None = None,
        total_episodes: int | None = None,
        schedule_env_steps: int | None = None,
        seed: int | None = None,
        double: bool = False,
        gamma: float = 0.99,
        learning_rate: float = 0.1,
        learning_rate_end: float = 0.01,
        learning_rate_schedule: DecaySchedule = "constant",
        epsilon_start: float = 1.0,
        epsilon_end: float = 0.05,
        epsilon_schedule: DecaySchedule = "linear",
        epsilon_decay_env_steps: int | None = None,
        epsilon_decay_episodes: int | None = None,
        initial_value: float = 0.0,
        env_steps_per_iteration: int = 1_000,
    ) -> None:
        super().__init__(env, total_env_steps, total_episodes, schedule_env_steps, seed)
        self.gamma, self.env_steps_per_iteration = gamma, env_steps_per_iteration
        self.double_q = double
        rates = (learning_rate, learning_rate_end, learning_rate_schedule)
        epsilons = (epsilon_start, epsilon_end, epsilon_schedule)
        self.set_schedules(rates, epsilons, epsilon_decay_env_steps, epsilon_decay_episodes)
        self.table = self.make_table(initial_value, num_tables=2 if double else 1)

    def learn(  # noqa: D102
        self,
        tables: list[TableRows],
        transitions: Iterable[Transition],
        epsilon: float,
        learning_rate: float,
        coins: list[float],
    ) -> list[float]:
        if self.double_q:
            return self.learn_double(tables, transitions, learning_rate, coins)
        table, gamma = tables[0], self.gamma
        errors = []
        for state, action, reward, terminated, next_state, _ in transitions:
            target = q_learning_target(reward, terminated, table[next_state], gamma)
            errors.append(table.move(state, action, target, learning_rate))
        return errors

    def learn_double(
        self,
        tables: list[TableRows],
        transitions: Iterable[Transition],
        learning_rate: float,
        coins: list[float],
    ) -> list[float]:
        """Do what `learn` does with two tables."""
        (first, second), gamma = tables, self.gamma
        errors = []
        pairs = zip(transitions, coins, strict=False)
        for (state, action, reward, terminated, next_state, _), coin in pairs:
            table, other = (first, second) if coin < 0.5 else (second, first)
            target = double_q_learning_target(
                reward, terminated, table[next_state], other[next_state], gamma
            )
            errors.append(table.move(state, action, target, learning_rate))
        return errors

    def training_step(self, chunks: Iterable[Rollout], batch_idx: int) -> Statistics:
        """Play one chunk of env steps, learning at every step."""
        return self.finish_update(self.learned(chunks))
