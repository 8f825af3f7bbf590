"""Tiny environments with known optima, for the algorithms that need Box actions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from lightning_rl.algorithms.base import Algorithm
from lightning_rl.algorithms.crossq import CrossQ
from lightning_rl.algorithms.ddpg import DDPG
from lightning_rl.algorithms.sac import SAC
from lightning_rl.algorithms.td3 import TD3
from lightning_rl.algorithms.tqc import TQC
from lightning_rl.buffers.frames import FrameReplay
from lightning_rl.envs.config import EnvConfig
from lightning_rl.envs.probes import OBSERVATION_SPACES, PROBES, ObservationActionEnv, ProbeEnv
from lightning_rl.errors import ConfigError

Fit = Callable[..., Any]
GAMMA = 0.9
COMMON = {
    "gamma": GAMMA,
    "hidden_sizes": (16,),
    "batch_size": 64,
    "learning_starts": 64,
    "train_frequency": 8,
    "gradient_steps": 4,
    "learning_rate": 1e-2,
    "env_steps_per_iteration": 128,
    "compile": False,
    "seed": 1,
}
QUICK: dict[type[Algorithm], dict[str, Any]] = {
    CrossQ: {**COMMON, "alpha": 0.01, "policy_delay": 1},
    DDPG: {**COMMON, "tau": 0.1, "exploration_noise": 0.3},
    SAC: {**COMMON, "tau": 0.1, "alpha": 0.01},
    TQC: {**COMMON, "tau": 0.1, "alpha": 0.01, "num_quantiles": 8, "dropped_quantiles": 1},
    TD3: {**COMMON, "tau": 0.1, "exploration_noise": 0.3, "target_noise": 0.05},
}
EVERY = pytest.mark.parametrize("cls", list(QUICK))


class BoxActions(gymnasium.ActionWrapper):
    """Takes a number and passes on an action that the environment has no eye for."""

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        self.action_space = spaces.Box(-2.0, 4.0, (1,), np.float32)

    def action(self, action: Any) -> int:
        return 0


class Endless(ProbeEnv):
    """Reward 1 for ever, nothing to see."""

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return np.zeros(1, dtype=np.float32), 1.0, False, False, {}


class Shifted(ObservationActionEnv):
    """Actions of shape (2, 1) in [2, 6]: the best are 4.5 and 3.5 (0.25 and -0.25 rescaled)."""

    def __init__(self) -> None:
        super().__init__(action="box")
        self.action_space = spaces.Box(2.0, 6.0, (2, 1), np.float32)

    def step(self, action: Any) -> Any:
        assert action.shape == (2, 1)
        assert self.action_space.contains(action.astype(np.float32))
        return super().step(action.mean(keepdims=True) - 4.0)


def probe(name: str, **kwargs: Any) -> dict[str, Any]:
    return {"id": f"LightningRL/{name}-v0", "num_envs": 8, "kwargs": kwargs}


def value_of(agent: Any, seen: float) -> float:
    observation = torch.tensor([[seen]])
    action = torch.from_numpy(agent.act(observation))
    with torch.no_grad():
        return agent.critic(observation, action).mean().item()


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
    agent = cls({**probe(name), "wrappers": [BoxActions]}, 1024, **QUICK[cls])
    fit(agent)
    optimum = PROBES[f"LightningRL/{name}-v0"]()
    for seen in observations:
        expected = optimum.optimal_value(np.array([seen]), GAMMA)
        assert value_of(agent, seen) == pytest.approx(expected, abs=0.15)


@EVERY
def test_a_time_limit_is_bootstrapped_through(fit: Fit, cls: Any):
    env = EnvConfig(factory=Endless, num_envs=8, max_episode_steps=5, wrappers=[BoxActions])
    agent = cls(env, 3072, **QUICK[cls])
    fit(agent)
    assert value_of(agent, 0.0) == pytest.approx(10.0, rel=0.07)


@EVERY
def test_the_end_of_the_task_is_not_bootstrapped_through(fit: Fit, cls: Any):
    env = {**probe("Truncation", ends="terminated"), "wrappers": [BoxActions]}
    agent = cls(env, 2048, **QUICK[cls])
    fit(agent)
    assert value_of(agent, 0.0) == pytest.approx(4.0951, rel=0.1)


@EVERY
@pytest.mark.parametrize("kind", ["box", "dict"])
def test_observations_and_actions_are_learned_together(fit: Fit, cls: Any, kind: str):
    assert kind in OBSERVATION_SPACES
    agent = cls(probe("ObservationAction", observation=kind, action="box"), 1024, **QUICK[cls])
    fit(agent)
    # Always the middle scores 0.75, the wrong one of two answers 0.
    assert score(agent, ObservationActionEnv(observation=kind, action="box")) > 0.95


@pytest.mark.parametrize("cls", [SAC, TQC])
def test_observations_and_actions_are_learned_together_with_state_dependent_noise(
    fit: Fit, cls: Any
):
    env = probe("ObservationAction", observation="box", action="box")
    agent = cls(env, 1024, use_sde=True, log_std_init=-1.0, **QUICK[cls])
    fit(agent)
    assert score(agent, ObservationActionEnv(observation="box", action="box")) > 0.95


@pytest.mark.parametrize("name", ["ObservationReward", "DelayedReward"])
def test_values_follow_the_rewards_with_state_dependent_noise(fit: Fit, name: str):
    agent = SAC({**probe(name), "wrappers": [BoxActions]}, 1024, use_sde=True, **QUICK[SAC])
    fit(agent)
    optimum = PROBES[f"LightningRL/{name}-v0"]()
    for seen in (-1.0, 1.0) if name == "ObservationReward" else (0.0, 1.0):
        expected = optimum.optimal_value(np.array([seen]), GAMMA)
        assert value_of(agent, seen) == pytest.approx(expected, abs=0.15)


@EVERY
def test_actions_of_any_shape_are_rescaled_to_the_bounds(fit: Fit, cls: Any):
    agent = cls(EnvConfig(factory=Shifted, num_envs=8), 2048, **QUICK[cls])
    fit(agent)
    assert agent.predict([1.0]).mean() == pytest.approx(4.5, abs=0.2)
    assert agent.predict([-1.0]).mean() == pytest.approx(3.5, abs=0.2)
    sampled = np.stack([agent.predict([1.0], deterministic=False) for _ in range(50)])
    assert sampled.std() > 0
    assert sampled.min() >= 2.0
    assert sampled.max() <= 6.0


@EVERY
def test_other_action_spaces_are_refused_by_name(cls: Any):
    class Unbounded(ProbeEnv):
        def __init__(self) -> None:
            super().__init__()
            self.action_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)

    class Integers(ProbeEnv):
        def __init__(self) -> None:
            super().__init__()
            self.action_space = spaces.Box(0, 5, (2,), np.int64)

    class Scalar(ProbeEnv):
        def __init__(self) -> None:
            super().__init__()
            self.action_space = spaces.Box(-1.0, 1.0, ())

    message = f"{cls.__name__} expects a Box action space of floats with finite bounds and a shape "
    for env in (Unbounded, Integers, Scalar, "CartPole-v1"):
        with pytest.raises(ConfigError, match=message):
            cls(env)


@EVERY
def test_stacked_frames_are_stored_once(fit: Fit, cls: Any):
    agent = cls(EnvConfig("Pendulum-v1", num_envs=8, frame_stack=3), 128, **QUICK[cls])
    fit(agent)
    assert isinstance(agent.state.replay, FrameReplay)
    assert len(agent.state.replay) == 128


@EVERY
def test_an_environment_s_configuration_is_not_changed(cls: Any):
    config = EnvConfig("Pendulum-v1")
    agent = cls(config)
    assert (config.action, agent.env_config.action) == ("clip", "rescale")
    assert agent.predict([1.0, 0.0, 0.0]).shape == (1,)
