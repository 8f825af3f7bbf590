"""How the tests that run every exported algorithm run each of them: one entry per algorithm."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch

from lightning_rl import algorithms
from lightning_rl.envs.probe_base import OBSERVATION_SPACES


@dataclass(frozen=True)
class Case:
    """The smallest training of one algorithm.

    Args:
        arguments: Constructor arguments that make units of 32 env steps with two environments.
        env: Environment that the algorithm supports.
        probe: Keyword arguments that make the probe environments fit it, such as `action`.
        gradient_steps: Minibatches of one unit, by which `compile: auto` decides; None for an
            algorithm that never compiles.
        network: Constructor argument that takes a network class; None when there is none.
        metrics: Tags that stand in every logged row.
        is_table: Whether it learns a table: of discrete observations as they are, from the same
            numbers whatever the seed.
    """

    arguments: dict[str, Any] = field(default_factory=dict)
    env: str = "CartPole-v1"
    probe: dict[str, Any] = field(default_factory=dict)
    gradient_steps: int | None = 1
    network: str | None = None
    metrics: tuple[str, ...] = ("rollout/mean_reward", "train/grad_norm", "train/learning_rate")
    is_table: bool = False

    @property
    def observations(self) -> list[str]:
        """Kinds of observation of the probes that it can learn from."""
        return ["discrete", "multi_discrete", "multi_binary"] if self.is_table else EVERY_KIND

    def varied(self, agent: Any) -> Any:
        """Return the agent, a table filled with numbers that differ, as networks' weights do."""
        if self.is_table:
            agent.table.values.normal_(generator=torch.Generator().manual_seed(0))
        return agent


def _continuous(*metrics: str) -> Case:
    """Return the entry of an off-policy algorithm for Box actions."""
    return Case(
        {
            "learning_starts": 16,
            "batch_size": 16,
            "hidden_sizes": (16,),
            "env_steps_per_iteration": 32,
        },
        env="Pendulum-v1",
        probe={"action": "box"},
        gradient_steps=32,
        network="actor",
        metrics=(*Case.metrics, "train/td_loss", *metrics),
    )


EVERY_KIND = sorted(OBSERVATION_SPACES)
TABLE = Case(
    {"env_steps_per_iteration": 32, "epsilon_start": 0.5},
    env="Taxi-v4",
    probe={"observation": "discrete"},
    gradient_steps=None,
    metrics=("rollout/mean_reward", "train/td_loss", "train/learning_rate"),
    is_table=True,
)
OFF_POLICY = {"learning_starts": 16, "batch_size": 16, "env_steps_per_iteration": 32}
NAMES = sorted(set(algorithms.__all__) - {"Algorithm"})
CASES: dict[str, Case] = {
    "A2C": Case({"num_steps": 16}, network="actor"),
    "PPO": Case(
        {"num_steps": 16, "minibatch_size": 32, "update_epochs": 2},
        gradient_steps=2,
        network="actor",
    ),
    "C51": Case({**OFF_POLICY, "num_atoms": 21}, gradient_steps=8, network="network"),
    "QRDQN": Case({**OFF_POLICY, "num_quantiles": 5}, gradient_steps=8, network="network"),
    "Rainbow": Case({**OFF_POLICY, "hidden_sizes": (16, 24)}, gradient_steps=8),
    "PQN": Case(
        {"num_steps": 16, "minibatch_size": 32, "update_epochs": 2},
        gradient_steps=2,
        network="network",
    ),
    "CrossQ": replace(_continuous("train/alpha"), network=None),
    "DQN": Case(OFF_POLICY, gradient_steps=8, network="network"),
    "REINFORCE": Case(
        {"num_steps": 16},
        gradient_steps=None,
        network="actor",
        metrics=("rollout/mean_reward", "train/learning_rate"),  # the others where an episode ended
    ),
    "DDPG": _continuous(),
    "DiscreteSAC": replace(_continuous("train/alpha"), env="CartPole-v1", probe={}),
    "SAC": _continuous("train/alpha"),
    "TD3": _continuous(),
    "RecurrentPPO": Case(
        {"num_steps": 16, "minibatch_size": 32, "sequence_length": 8, "update_epochs": 2},
        gradient_steps=None,
        network="actor",
    ),
    "QLearning": TABLE,
    "SARSA": TABLE,
    "ExpectedSARSA": TABLE,
    "TQC": _continuous("train/alpha"),
}


def case_of(agent: Any) -> Case:
    """Return the entry of an agent's class."""
    return CASES[type(agent).__name__]
