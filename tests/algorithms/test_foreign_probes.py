"""The probe environments of another package, Stable-Baselines3: the best action is what is seen."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from stable_baselines3.common.envs import (
    IdentityEnv,
    IdentityEnvBox,
    IdentityEnvMultiBinary,
    IdentityEnvMultiDiscrete,
)

from lightning_rl.algorithms.a2c import A2C
from lightning_rl.algorithms.base import Algorithm
from lightning_rl.algorithms.discrete_sac import DiscreteSAC
from lightning_rl.algorithms.expected_sarsa import ExpectedSARSA
from lightning_rl.algorithms.ppo import PPO
from lightning_rl.algorithms.q_learning import QLearning
from lightning_rl.algorithms.reinforce import REINFORCE
from lightning_rl.algorithms.sarsa import SARSA
from tests.algorithms import test_continuous_probes, test_probes

Fit = Callable[..., Any]
TABLE = {"learning_rate": 0.5, "gamma": 0.0, "env_steps_per_iteration": 128, "seed": 1}
POLICY_GRADIENT = {"learning_rate": 2e-2, "gamma": 0.0, "num_steps": 16, "hidden_sizes": (16,)}
DISCRETE: dict[type[Algorithm], dict[str, Any]] = {
    **test_probes.QUICK,
    A2C: {**POLICY_GRADIENT, "compile": False, "seed": 1},
    REINFORCE: {**POLICY_GRADIENT, "seed": 1},
    DiscreteSAC: {**test_continuous_probes.COMMON, "alpha": 0.01, "tau": 0.1},
    **dict.fromkeys((QLearning, SARSA, ExpectedSARSA), TABLE),
}
SPACES = {
    "discrete": partial(IdentityEnv, dim=3, ep_length=20),
    "box": partial(IdentityEnvBox, eps=0.3, ep_length=20),
    "multi_discrete": partial(IdentityEnvMultiDiscrete, dim=3, ep_length=20),
    "multi_binary": partial(IdentityEnvMultiBinary, dim=3, ep_length=20),
}


def hits(agent: Algorithm, env: IdentityEnv, env_steps: int = 60) -> float:
    """Return the mean reward of one step: the share of observations that the agent repeats."""
    env.action_space.seed(0)  # which draws the observations
    observation, _ = env.reset(seed=0)
    rewards = []
    for _ in range(env_steps):
        observation, reward, _, _, _ = env.step(agent.predict(observation))
        rewards.append(reward)
    return float(np.mean(rewards))


@pytest.mark.parametrize("cls", list(DISCRETE))
def test_discrete_actions(fit: Fit, cls: Any):
    agent = cls({"factory": SPACES["discrete"], "num_envs": 8}, 3072, **DISCRETE[cls])
    fit(agent)
    assert hits(agent, SPACES["discrete"]()) == 1.0


@pytest.mark.parametrize("cls", list(test_continuous_probes.QUICK))
def test_continuous_actions(fit: Fit, cls: Any):
    quick = test_continuous_probes.QUICK[cls]
    agent = cls({"factory": SPACES["box"], "num_envs": 8}, 2048, **quick)
    fit(agent)
    assert hits(agent, SPACES["box"]()) > 0.9  # at random 0.28


@pytest.mark.parametrize("kind", list(SPACES))
def test_every_action_space_of_ppo(fit: Fit, kind: str):
    agent = PPO({"factory": SPACES[kind], "num_envs": 8}, 8192, **test_probes.QUICK[PPO])
    fit(agent)
    assert hits(agent, SPACES[kind]()) > 0.9
