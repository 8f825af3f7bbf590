"""What each shipped configuration must reach, and what others have published."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lightning_rl.runs.statistics import interquartile_mean, mean

TEST_EPISODES = 100

STATISTICS: dict[str, Callable[..., float]] = {
    "mean": mean,
    "IQM": interquartile_mean,
}


@dataclass(frozen=True)
class Source:
    """Where published results come from and how they were measured.

    Args:
        name: What the table calls it.
        url: Where it stands.
        protocol: How it measures.
    """

    name: str
    url: str
    protocol: str


SOURCES = {
    "Z": Source(
        "rl-baselines3-zoo",
        "https://github.com/DLR-RM/rl-baselines3-zoo/blob/0088472/benchmark.md",
        "one trained run per environment (the page itself says that it is no quantitative "
        "benchmark), its final weights run deterministically for about 150,000 env steps (600,000 "
        "on Atari, there not deterministic), mean ± standard deviation over episodes",
    ),
    "C": Source(
        "CleanRL",
        "https://github.com/vwxyzjn/cleanrl/tree/master/docs/benchmark",
        "training episodes with exploration, the last 100 of each of three seeds, mean ± "
        "population standard deviation over seeds",
    ),
    "T": Source(
        "Tianshou",
        "https://github.com/thu-ml/tianshou/blob/master/examples/mujoco/README.md",
        "ten seeds, the best test score that was met during training over ten test environments, "
        "hence optimistic; mean ± standard deviation over seeds",
    ),
    "P": Source(
        "dynamic programming",
        "https://gymnasium.farama.org/environments/toy_text/",
        "no claim of a library: the optimum of the environment's own transition table by exact "
        "finite-horizon dynamic programming, undiscounted; the deviation is over start states",
    ),
}
"""By the key that a `Reference` names. They measure differently: compare within one source only."""


@dataclass(frozen=True)
class Reference:
    """A published result.

    Args:
        score: Mean return.
        deviation: Standard deviation, over what its source says.
        env: Environment it was measured on.
        env_steps: Training budget; 0 where nothing was trained.
        episodes: Episodes of the evaluation; 0 where the source does not tell.
        source: A key of `SOURCES`.
    """

    score: float
    deviation: float
    env: str
    env_steps: int
    episodes: int = 0
    source: str = "Z"


@dataclass(frozen=True)
class Gate:
    """The least score of a configuration.

    Args:
        config: Name of the shipped configuration.
        env: Environment id.
        threshold: Least value of `statistic`.
        env_steps: Most env steps of training, all of them counted.
        reference: A published result; None where there is none and the threshold is our own.
        statistic: How seeds are summed up; a key of `STATISTICS`.
        seeds: Number of seeds, from 1 on.
        measure: What each seed is judged by: `test`, the mean return of `best.ckpt` over fresh
            episodes, or `exact`, the expected return of its greedy policy from the environment's
            own transition table (`exact.py`), for tabular environments.
        rival: Name of a configuration that this one must beat beside its threshold: the 95 %
            interval of the difference of their interquartile means lies above zero.
    """

    config: str
    env: str
    threshold: float
    env_steps: int
    reference: Reference | None = None
    statistic: str = "mean"
    seeds: int = 5
    measure: Literal["test", "exact"] = "test"
    rival: str = ""

    @property
    def score_key(self) -> str:
        """Where a stored result keeps the number that the gate judges."""
        return {"test": "mean_reward", "exact": "exact_value"}[self.measure]

    def score(self, returns: Sequence[float] | np.ndarray) -> float:
        """Return what is held against the threshold, of one mean return per seed."""
        return STATISTICS[self.statistic](returns)

    def is_met(self, returns: list[float]) -> bool:
        """Return whether enough seeds have run and reach the threshold together."""
        return len(returns) >= self.seeds and self.score(returns) >= self.threshold


_FROZEN_LAKE = Reference(0.7442, 0.0, "FrozenLake-v1", 0, source="P")
_TAXI = Reference(7.93, 2.59, "Taxi-v4", 0, source="P")
_CLIFF_WALKING = Reference(-13.0, 0.0, "CliffWalking-v1", 0, source="P")

# Cheap ones first: this is the order in which they run.
GATES = (
    Gate(
        "q_learning/cliff_walking", "CliffWalking-v1", -13, 50_000, _CLIFF_WALKING,
        measure="exact",
    ),
    *(
        Gate(f"{name}/frozen_lake", "FrozenLake-v1", 0.72, 300_000, _FROZEN_LAKE, measure="exact")
        for name in ("q_learning", "sarsa", "expected_sarsa")
    ),
    *(
        Gate(f"{name}/taxi", "Taxi-v4", 7.7, 300_000, _TAXI, measure="exact")
        for name in ("q_learning", "sarsa", "expected_sarsa")
    ),
    Gate("ppo/few_valid_actions", "LightningRL/FewValidActions-v0", 19, 5_120),
    Gate(
        "ppo/cartpole", "CartPole-v1", 475, 100_000,
        Reference(500.0, 0.0, "CartPole-v1", 100_000, 300),
    ),
    Gate(
        "dqn/cartpole", "CartPole-v1", 475, 50_000,
        Reference(500.0, 0.0, "CartPole-v1", 50_000, 300),
    ),
    Gate(
        "qrdqn/cartpole", "CartPole-v1", 475, 100_000,
        Reference(500.0, 0.0, "CartPole-v1", 50_000, 300),
    ),
    Gate(
        "c51/cartpole", "CartPole-v1", 475, 500_000,
        Reference(481.20, 20.53, "CartPole-v1", 500_000, source="C"),
    ),
    Gate(
        "pqn/cartpole", "CartPole-v1", 475, 500_000,
        Reference(495.13, 6.89, "CartPole-v1", 500_000, source="C"),
    ),
    Gate(
        "a2c/cartpole", "CartPole-v1", 475, 500_000,
        Reference(500.0, 0.0, "CartPole-v1", 500_000),
    ),
    Gate("reinforce/cartpole", "CartPole-v1", 400, 500_000),
    Gate(
        "ppo/pendulum", "Pendulum-v1", -200, 200_000,
        Reference(-172.2, 104.2, "Pendulum-v1", 100_000, 750),
    ),
    Gate(
        "sac/pendulum", "Pendulum-v1", -180, 20_000,
        Reference(-156.995, 88.714, "Pendulum-v1", 20_000, 750),
    ),
    Gate(
        "td3/pendulum", "Pendulum-v1", -180, 20_000,
        Reference(-151.855, 90.227, "Pendulum-v1", 20_000, 750),
    ),
    Gate(
        "ddpg/pendulum", "Pendulum-v1", -200, 20_000,
        Reference(-152.099, 94.282, "Pendulum-v1", 20_000, 750),
    ),
    Gate(
        "sac/mountain_car_continuous", "MountainCarContinuous-v0", 90, 50_000,
        Reference(94.679, 1.134, "MountainCarContinuous-v0", 50_000, 1_443),
    ),
    Gate("sac/point_reach", "LightningRL/PointReach-v0", 0.95, 20_000),
    Gate("tqc/pendulum", "Pendulum-v1", -180, 20_000),
    Gate("crossq/pendulum", "Pendulum-v1", -180, 20_000),
    Gate("discrete_sac/cartpole", "CartPole-v1", 450, 100_000),
    Gate(
        "recurrent_ppo/cartpole_no_velocity", "LightningRL/CartPoleNoVelocity-v1", 450, 200_000,
    ),
    Gate(
        "dqn/mountain_car", "MountainCar-v0", -115, 120_000,
        Reference(-100.8, 9.9, "MountainCar-v0", 120_000, 1_487), "IQM",
    ),
    Gate(
        "ppo/acrobot", "Acrobot-v1", -85, 1_000_000,
        Reference(-73.5, 18.2, "Acrobot-v1", 1_000_000, 2_013),
    ),
    Gate(
        "dqn/lunar_lander", "LunarLander-v3", 150, 200_000,
        Reference(154.4, 79.2, "LunarLander-v2", 100_000, 200), "IQM",
    ),
    Gate("dqn/minatar_breakout", "MinAtar/Breakout-v1", 5, 500_000),
    Gate(
        "rainbow/minatar_breakout", "MinAtar/Breakout-v1", 5, 500_000,
        rival="dqn/minatar_breakout",
    ),
    # Published MinAtar results are curves without numbers, so the anchor is our own: 12 is 80 % of
    # the way from random play (0.4) to 15.
    Gate("ppo/minatar_breakout", "MinAtar/Breakout-v1", 12, 2_000_000),
    Gate(
        "ppo/lunar_lander", "LunarLander-v3", 200, 1_000_000,
        Reference(242.1, 31.8, "LunarLander-v2", 1_000_000, 369),
    ),
    Gate(
        "sac/lunar_lander", "LunarLanderContinuous-v3", 200, 300_000,
        Reference(260.4, 65.5, "LunarLanderContinuous-v2", 500_000),
    ),
    Gate(
        "td3/hopper", "Hopper-v4", 2_000, 500_000,
        Reference(3_606.390, 4.027, "Hopper-v3", 1_000_000, 150), seeds=1,
    ),
    Gate(
        "sac/half_cheetah", "HalfCheetah-v4", 5_000, 300_000,
        Reference(9_535.451, 100.470, "HalfCheetah-v3", 1_000_000, 150), seeds=2,
    ),
    Gate(
        "ppo/hopper", "Hopper-v4", 2_000, 1_000_000,
        Reference(2_382.86, 271.74, "Hopper-v4", 1_000_000, source="C"), seeds=3,
    ),
    Gate(
        "ppo/half_cheetah", "HalfCheetah-v4", 4_000, 1_000_000,
        Reference(5_819.1, 663.5, "HalfCheetah-v3", 1_000_000, 150), seeds=3,
    ),
)  # fmt: skip
