"""How the tests that run every exported algorithm run each of them: one entry per algorithm."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from lightning_rl import algorithms


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
    """

    arguments: dict[str, Any] = field(default_factory=dict)
    env: str = "CartPole-v1"
    probe: dict[str, Any] = field(default_factory=dict)
    gradient_steps: int | None = 1
    network: str | None = None
    metrics: tuple[str, ...] = ("rollout/mean_reward", "train/grad_norm", "train/learning_rate")


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


NAMES = sorted(set(algorithms.__all__) - {"Algorithm"})
CASES: dict[str, Case] = {
    "PPO": Case(
        {"num_steps": 16, "minibatch_size": 32, "update_epochs": 2},
        gradient_steps=2,
        network="actor",
    ),
    "DQN": Case(
        {"learning_starts": 16, "batch_size": 16, "env_steps_per_iteration": 32},
        gradient_steps=8,
        network="network",
    ),
    "DDPG": _continuous(),
    "SAC": _continuous("train/alpha"),
    "TD3": _continuous(),
}


def case_of(agent: Any) -> Case:
    """Return the entry of an agent's class."""
    return CASES[type(agent).__name__]
