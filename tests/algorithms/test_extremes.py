"""Every algorithm at the edges of what an environment may do: finite, or stopped with a reason."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from lightning_rl import algorithms
from lightning_rl.envs.probe_base import ACTION_SPACES, OBSERVATION_SPACES, ProbeEnv, show_bit
from lightning_rl.errors import ConfigError, TrainingFailed

Fit = Callable[..., Any]


class Monotonous(ProbeEnv):
    """Shows the same and pays the same at every step.

    Args:
        reward: What it pays.
        length: Steps of an episode; None for one that never ends.
        observation: A key of `OBSERVATION_SPACES`.
        action: A key of `ACTION_SPACES`.
    """

    def __init__(
        self,
        reward: float = 0.0,
        length: int | None = 4,
        observation: str = "box",
        action: str = "discrete",
    ) -> None:
        super().__init__()
        self.observation_space = OBSERVATION_SPACES[observation]
        self.action_space = ACTION_SPACES[action]
        self.shown, self.reward, self.length, self.count = observation, reward, length, 0

    def reset(self, **options: Any) -> Any:
        super().reset(**options)
        self.count = 0
        return show_bit(self.shown, 1), {}

    def step(self, action: Any) -> Any:
        self.count += 1
        return show_bit(self.shown, 1), self.reward, self.count == self.length, False, {}


class Blind(Monotonous):
    """Has nothing at all to observe."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.observation_space = spaces.Dict({})

    def reset(self, **options: Any) -> Any:
        super().reset(**options)
        return {}, {}


def monotonous(make: Any, cls: type[Monotonous] = Monotonous, **options: Any) -> dict[str, Any]:
    """Return the environment with spaces that the algorithm supports."""
    return {"factory": partial(cls, **make.case.probe, **options), "num_envs": 2}


def assert_finite(agent: Any) -> None:
    for name, tensor in agent.state_dict().items():
        assert not tensor.is_floating_point() or torch.isfinite(tensor).all(), name
    action = agent.predict(agent.observation_space.sample())
    assert agent.action_space.contains(np.asarray(action, agent.action_space.dtype))


@pytest.mark.parametrize("reward", [0.0, -1.0])
def test_nothing_ever_changes(make: Any, fit: Fit, reward: float):
    env = monotonous(make, reward=reward)
    if not make.case.is_table:
        env |= {"normalize_observation": True, "normalize_reward": True}  # no variance anywhere
    agent = make(env)
    fit(agent)
    assert agent.env_steps == 96
    assert_finite(agent)


def test_episodes_of_one_step(make: Any, fit: Fit):
    agent = make(monotonous(make, length=1, reward=1.0))
    fit(agent)
    assert agent.episodes == agent.env_steps == 96
    assert_finite(agent)


def test_episodes_that_never_end(make: Any, fit: Fit):
    agent = make(monotonous(make, length=None, reward=1.0))
    fit(agent)
    assert (agent.episodes, agent.env_steps) == (0, 96)
    assert_finite(agent)


def test_rewards_whose_squares_are_infinite(make: Any, fit: Fit):
    agent = make(monotonous(make, reward=1e30))
    assert_finite_or_stopped(agent, fit)


def assert_finite_or_stopped(agent: Any, fit: Fit) -> None:
    """Either all is finite, or the run has ended with its cause, a likely reason and a way out."""
    stopped = ""
    try:
        fit(agent)
    except TrainingFailed as error:
        stopped = str(error)
    if stopped:
        assert all(part in stopped for part in ("env step", "likely", "lower")), stopped
    else:
        assert_finite(agent)


@pytest.mark.parametrize(("reward", "is_too_much"), [(1e15, False), (1e30, True)])
def test_normalising_huge_rewards(make: Any, fit: Fit, reward: float, is_too_much: bool):
    env = monotonous(make, reward=reward) | {"normalize_reward": True}
    if make.case.is_table:
        with pytest.raises(ConfigError, match=r"leave env\.normalize_reward out"):
            make(env)
    elif is_too_much:
        with pytest.raises(TrainingFailed, match=r"cannot normalise numbers around .*e\+30"):
            fit(make(env))
    else:
        agent = make(env)
        fit(agent)
        assert_finite(agent)


def test_batches_of_one(make: Any, fit: Fit):
    sizes = ("batch_size", "minibatch_size", "num_steps", "sequence_length")
    ones = {name: 1 for name in sizes if name in make.case.arguments}
    env = monotonous(make, reward=1.0) | {"num_envs": 1}
    if isinstance(make(), algorithms.CrossQ):  # its statistics are those of a minibatch
        with pytest.raises(ConfigError, match="batch_size to be at least 2, received 1"):
            make(env, **ones)
        ones["batch_size"] = 2
    agent = make(env, **ones)
    fit(agent)
    assert agent.env_steps == 96
    assert_finite(agent)


def test_nothing_to_observe_is_refused(make: Any):
    with pytest.raises(ConfigError, match=r"Dict\(\)|empty Dict"):
        make(monotonous(make, Blind))
