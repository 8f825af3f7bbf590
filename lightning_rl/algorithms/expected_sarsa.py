"""Expected SARSA.

van Seijen, van Hasselt, Whiteson and Wiering (2009),
https://doi.org/10.1109/ADPRL.2009.4927542; Sutton and Barto (2018), equation 6.9. After every env
step

    Q(s, a) += learning_rate * (r + gamma * (1 - terminated) * E_a' Q(s', a') - Q(s, a))

with the expectation over the epsilon-greedy policy, which takes the chance of the next action out
of SARSA's target.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from lightning_rl.algorithms.base import Algorithm
from lightning_rl.buffers.rollout import Rollout
from lightning_rl.envs.config import EnvConfig, EnvLike
from lightning_rl.experience.tabular import DecaySchedule, TabularHooks
from lightning_rl.experience.tabular_chunk import Transition
from lightning_rl.functional.tabular import epsilon_greedy_value
from lightning_rl.networks.table import TableRows
from lightning_rl.types import Statistics


def expected_sarsa_target(
    reward: float, terminated: bool, next_values: Sequence[float], epsilon: float, gamma: float
) -> float:
    """Return `r + gamma * E Q(s', a')`, without the second term where the task has ended."""
    return reward if terminated else reward + gamma * epsilon_greedy_value(next_values, epsilon)


class ExpectedSARSA(TabularHooks, Algorithm):
    """Expected SARSA in a table, for discrete observations and Discrete actions.

    Logs `train/td_loss` (mean squared error of the targets), `train/mean_q` (of the actions taken,
    at the end of the unit), `train/epsilon`, `train/learning_rate` and `rollout/mean_reward` (per
    step). `q_table_size` and `final_epsilon` stand in `metrics.json`.

    Args:
        env: Environment id, `EnvConfig`, mapping of its fields, or a class or factory.
        total_env_steps: Budget in env steps over all environments; default 100,000.
        total_episodes: Budget in finished episodes instead.
        schedule_env_steps: Env steps that schedules span; default the first `total_env_steps`.
        seed: Default: the value of `seed_everything`, else drawn and recorded.
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
    """

    def __init__(
        self,
        env: EnvLike = EnvConfig("FrozenLake-v1"),  # noqa: B008 - never changed
        total_env_steps: int | None = None,
        total_episodes: int | None = None,
        schedule_env_steps: int | None = None,
        seed: int | None = None,
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
        rates = (learning_rate, learning_rate_end, learning_rate_schedule)
        epsilons = (epsilon_start, epsilon_end, epsilon_schedule)
        self.set_schedules(rates, epsilons, epsilon_decay_env_steps, epsilon_decay_episodes)
        self.table = self.make_table(initial_value)

    def learn(  # noqa: D102
        self,
        tables: list[TableRows],
        transitions: Iterable[Transition],
        epsilon: float,
        learning_rate: float,
        coins: list[float],
    ) -> list[float]:
        table, gamma = tables[0], self.gamma
        errors = []
        for state, action, reward, terminated, next_state, _ in transitions:
            next_values = table[next_state]
            target = expected_sarsa_target(reward, terminated, next_values, epsilon, gamma)
            errors.append(table.move(state, action, target, learning_rate))
        return errors

    def training_step(self, chunks: Iterable[Rollout], batch_idx: int) -> Statistics:
        """Play one chunk of env steps, learning at every step."""
        return self.finish_update(self.learned(chunks))
