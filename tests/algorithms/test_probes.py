"""Tiny environments with known optima: every algorithm solves them on every space it supports."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from lightning_rl.algorithms.base import Algorithm
from lightning_rl.algorithms.c51 import C51
from lightning_rl.algorithms.dqn import DQN
from lightning_rl.algorithms.ppo import PPO
from lightning_rl.algorithms.pqn import PQN
from lightning_rl.algorithms.qrdqn import QRDQN
from lightning_rl.algorithms.rainbow import Rainbow
from lightning_rl.algorithms.recurrent_ppo import RecurrentPPO
from lightning_rl.envs.config import EnvConfig
from lightning_rl.envs.probes import (
    ACTION_SPACES,
    OBSERVATION_SPACES,
    PROBES,
    ObservationActionEnv,
    ProbeEnv,
    TruncationEnv,
)
from lightning_rl.functional.distributional import categorical_mean

Fit = Callable[..., Any]
GAMMA = 0.9
COMMON = {"learning_rate": 1e-2, "gamma": GAMMA, "hidden_sizes": (16,), "compile": False, "seed": 1}
ON_POLICY = {**COMMON, "num_steps": 16, "minibatch_size": 64, "max_grad_norm": 100.0}
OFF_POLICY = {
    **COMMON,
    "batch_size": 32,
    "learning_starts": 64,
    "train_frequency": 8,
    "gradient_steps": 2,
    "target_update_interval": 64,
    "env_steps_per_iteration": 128,
}
EPSILON = {"epsilon_end": 0.2, "epsilon_fraction": 0.5}
ATOMS = {"num_atoms": 29, "v_min": -2.0, "v_max": 12.0}
RECURRENT = {key: value for key, value in ON_POLICY.items() if key != "compile"}
RECURRENT |= {"sequence_length": 8, "hidden_size": 16}
QUICK: dict[type[Algorithm], dict[str, Any]] = {
    PPO: ON_POLICY,
    RecurrentPPO: RECURRENT,
    DQN: {**OFF_POLICY, **EPSILON},
    C51: {**OFF_POLICY, **EPSILON, **ATOMS, "learning_rate": 2e-2},
    QRDQN: {**OFF_POLICY, **EPSILON, "num_quantiles": 5, "learning_rate": 2e-2},
    Rainbow: {**OFF_POLICY, **ATOMS, "learning_rate": 2e-2},
    PQN: {**ON_POLICY, **EPSILON, "num_steps": 8, "update_epochs": 8, "learning_rate": 0.1},
}
EVERY = pytest.mark.parametrize("cls", list(QUICK))
EVERY_NETWORK = pytest.mark.parametrize(
    "cls", [PPO, RecurrentPPO, DQN, PQN]
)  # the others have DQN's


class Endless(ProbeEnv):
    """Reward 1 for ever, nothing to see: worth 1 / (1 - gamma) wherever a time limit cuts."""

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return np.zeros(1, dtype=np.float32), 1.0, False, False, {}


def probe(name: str, **kwargs: Any) -> dict[str, Any]:
    return {"id": f"LightningRL/{name}-v0", "num_envs": 8, "kwargs": kwargs}


def value_of(agent: Any, seen: float) -> float:
    observation = torch.tensor([[seen]])
    if isinstance(agent, RecurrentPPO):  # at the beginning of an episode
        return agent.network(observation, torch.zeros(1, agent.network.state_size))[1].item()
    if isinstance(agent, PPO):
        return agent.network.value(observation).item()
    outputs = agent.eval().network(observation)
    if isinstance(agent, (C51, Rainbow)):
        outputs = categorical_mean(outputs, agent.support)
    return (outputs.mean(-1) if isinstance(agent, QRDQN) else outputs).max().item()


def score(agent: Algorithm, env: ObservationActionEnv, episodes: int = 16) -> float:
    rewards = []
    for seed in range(episodes):
        observation, _ = env.reset(seed=seed)
        rewards.append(env.step(agent.predict(observation))[1])
    return float(np.mean(rewards))


@EVERY
@pytest.mark.parametrize(
    ("name", "observations"),
    [
        ("ConstantReward", [0.0]),
        ("ObservationReward", [-1.0, 1.0]),
        ("DelayedReward", [0.0, 1.0]),
    ],
)
def test_values_follow_the_rewards(fit: Fit, cls: Any, name: str, observations: list[float]):
    agent = cls(probe(name), 1024, **QUICK[cls])
    fit(agent)
    optimum = PROBES[f"LightningRL/{name}-v0"]()
    for seen in observations:
        expected = optimum.optimal_value(np.array([seen]), GAMMA)
        assert value_of(agent, seen) == pytest.approx(expected, abs=0.1)


@EVERY
def test_a_time_limit_is_bootstrapped_through(fit: Fit, cls: Any):
    agent = cls(EnvConfig(factory=Endless, num_envs=8, max_episode_steps=5), 4096, **QUICK[cls])
    fit(agent)
    assert value_of(agent, 0.0) == pytest.approx(10.0, rel=0.05)


@EVERY
def test_the_end_of_the_task_is_not_bootstrapped_through(fit: Fit, cls: Any):
    agent = cls(probe("Truncation", ends="terminated"), 2048, **QUICK[cls])
    fit(agent)
    expected = TruncationEnv(ends="terminated").optimal_value(np.zeros(1), GAMMA)
    assert expected == pytest.approx(4.0951)
    assert value_of(agent, 0.0) == pytest.approx(expected, rel=0.1)


@EVERY
def test_the_action_alone_is_learned(fit: Fit, cls: Any):
    agent = cls(probe("ActionReward"), 512, **QUICK[cls])
    fit(agent)
    assert agent.predict([0.0]) == 1


@EVERY_NETWORK
@pytest.mark.parametrize("kind", sorted(OBSERVATION_SPACES))
def test_every_observation_space_is_learned(fit: Fit, cls: Any, kind: str):
    agent = cls(probe("ObservationAction", observation=kind), 512, **QUICK[cls])
    fit(agent)
    assert score(agent, ObservationActionEnv(observation=kind)) == 1.0


@pytest.mark.parametrize("kind", sorted(ACTION_SPACES))
def test_ppo_learns_every_action_space(fit: Fit, kind: str):
    agent = PPO(probe("ObservationAction", action=kind), 2048, **QUICK[PPO])
    fit(agent)
    assert score(agent, ObservationActionEnv(action=kind)) > 0.95  # 0.75 with the mean action


@pytest.mark.parametrize(
    ("cls", "variant"),
    [
        (PPO, {"shared_trunk": True}),
        (PPO, {"clip_value_loss": True, "ent_coef": 0.01}),
        (PPO, {"normalize_advantage": False}),
        (C51, {}),
        (QRDQN, {}),
        (Rainbow, {}),
        (PQN, {"q_lambda": 0.0}),
        (PQN, {"q_lambda": 1.0}),
        (DQN, {"double": True}),
        (DQN, {"loss": "huber"}),
        (DQN, {"tau": 0.5}),
        (DQN, {"dueling": True}),
        (DQN, {"n_step": 3}),
        (DQN, {"prioritized": True}),
        (DQN, {"noisy": True, "epsilon_start": 0.0, "epsilon_end": 0.0}),
    ],
)
def test_every_variant_learns(fit: Fit, cls: Any, variant: dict[str, Any]):
    agent = cls(probe("ObservationAction"), 512, **{**QUICK[cls], **variant})
    fit(agent)
    assert score(agent, ObservationActionEnv()) == 1.0
