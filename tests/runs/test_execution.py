"""Executing a policy: what is returned, and that nothing else changes."""

from __future__ import annotations

import random
from typing import ClassVar

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from lightning_rl.algorithms.ppo import PPO
from lightning_rl.envs.config import EnvConfig
from lightning_rl.envs.seeding import episode_seed
from lightning_rl.envs.spaces import flatten_space
from lightning_rl.errors import ConfigError
from lightning_rl.runs.execution import evaluate_policy, evaluate_policy_many
from lightning_rl.runs.results import ExecutionConfig


class CountEnv(gymnasium.Env):
    """Episodes of five steps, reward 1 each; counts instances, and may fail at a step."""

    observation_space = spaces.Box(-1, 1, (2,), np.float32)
    action_space = spaces.Discrete(2)
    opened = closed = 0
    seeds: ClassVar[list[int | None]] = []

    def __init__(self, raise_at=None, length=5, render_mode=None):
        CountEnv.opened += 1
        self.raise_at, self.length, self.steps = raise_at, length, 0
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        CountEnv.seeds.append(seed)
        self.steps = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        assert action in (0, 1)
        np.random.random(), random.random(), torch.rand(1)
        self.steps += 1
        if self.steps == self.raise_at:
            raise ZeroDivisionError("inside the env")
        return np.zeros(2, np.float32), 1.0, self.steps == self.length, False, {}

    def close(self):
        CountEnv.closed += 1


def make_agent(env=CountEnv, **kwargs):
    config = EnvConfig.coerce(env)
    options = {"num_steps": 32, "minibatch_size": 32, "update_epochs": 1, "compile": False}
    return PPO(config, total_env_steps=64, seed=11, **{**options, **kwargs})


@pytest.fixture
def agent():
    made = make_agent()
    CountEnv.opened = CountEnv.closed = 0
    CountEnv.seeds = []
    yield made
    assert CountEnv.opened == CountEnv.closed


def test_result(agent):
    result = evaluate_policy(agent, num_episodes=7)
    assert result.success
    assert result.episode_rewards == [5.0] * 7
    assert result.episode_lengths == [5] * 7
    assert result.total_episodes == 7


def test_step_cap(agent):
    assert evaluate_policy(agent, max_steps_per_episode=3).episode_lengths == [3] * 10


def test_seeds_are_the_test_commands_unless_chosen(agent):
    evaluate_policy(agent, num_episodes=3)
    assert set(CountEnv.seeds) >= {episode_seed(11, "test", index) for index in range(3)}
    CountEnv.seeds = []
    evaluate_policy(agent, num_episodes=1, seed=12)
    assert episode_seed(12, "test", 0) in CountEnv.seeds


@pytest.mark.parametrize("deterministic", [True, False])
def test_repeatable_and_without_a_trace(agent, deterministic):
    agent = make_agent("CartPole-v1")
    agent.train()
    random.seed(1)
    np.random.seed(2)
    torch.manual_seed(3)
    expected = random.random(), np.random.random(), torch.rand(1)
    stream = torch.rand(1, generator=agent.streams.torch("action"))
    agent = make_agent("CartPole-v1")
    agent.train()
    random.seed(1)
    np.random.seed(2)
    torch.manual_seed(3)
    first = evaluate_policy(agent, deterministic=deterministic)
    assert (random.random(), np.random.random(), torch.rand(1)) == expected
    assert torch.rand(1, generator=agent.streams.torch("action")) == stream
    assert agent.training
    assert evaluate_policy(agent, deterministic=deterministic) == first


def test_one_by_one_equals_together():
    agent = make_agent("CartPole-v1")
    env = gymnasium.make("CartPole-v1")
    together = evaluate_policy(agent, num_episodes=40)
    assert evaluate_policy(agent, env, num_episodes=40) == together
    assert len(set(together.episode_rewards)) > 1
    env.close()


def test_failure_is_data_and_everything_is_closed(agent, caplog):
    env = EnvConfig(factory=CountEnv, kwargs={"raise_at": 4})
    state = torch.get_rng_state()
    result = evaluate_policy(agent, env)
    assert not result.success
    assert "inside the env" in result.error_message
    assert "\n" not in result.error_message
    assert "inside the env" in caplog.text
    assert torch.equal(torch.get_rng_state(), state)


def test_episodes_before_a_failure_are_kept(agent):
    class Tired(CountEnv):
        def reset(self, *, seed=None, options=None):
            if len(CountEnv.seeds) == 3:
                raise RuntimeError("tired")
            return super().reset(seed=seed)

    with Tired() as env:
        result = evaluate_policy(agent, env)
    assert result.error_message == "RuntimeError: tired"
    assert result.episode_rewards == [5.0] * 3


def test_an_instance_is_not_closed(agent):
    env = CountEnv()
    evaluate_policy(agent, env, num_episodes=2)
    assert CountEnv.closed == CountEnv.opened - 1
    env.close()


def test_human_rendering_uses_one_window(agent):
    evaluate_policy(agent, num_episodes=3, render="human")
    assert CountEnv.opened == 1


def test_another_environment_must_fit(agent):
    result = evaluate_policy(agent, "CartPole-v1")
    assert result.error_message == (
        "the policy expects an environment with the observation space Box([2]), "
        "received one with Box([4])"
    )


def test_an_instance_with_nested_observations_fits_a_loaded_policy():
    class Nested(gymnasium.Env):
        action_space = spaces.Discrete(2)
        observation_space = spaces.Dict({"a": spaces.Dict({"b": spaces.Discrete(3)})})

        def reset(self, *, seed=None, options=None):
            return {"a": {"b": 1}}, {}

        def step(self, action):
            return {"a": {"b": 2}}, 1.0, True, False, {}

    config = EnvConfig(factory=Nested)
    config.remember_spaces(flatten_space(Nested.observation_space), Nested.action_space)
    loaded = make_agent(config)  # a checkpoint holds no other description of the spaces
    assert evaluate_policy(loaded, Nested(), num_episodes=2).episode_rewards == [1.0, 1.0]


def test_an_id_keeps_the_policys_wrappers():
    agent = make_agent(EnvConfig("CartPole-v1", frame_stack=2))
    assert evaluate_policy(agent, "CartPole-v0").success


def test_unknown_id_is_data(agent):
    assert "CartPole-v1" in evaluate_policy(agent, "CartPoel-v1").error_message


def test_wrong_arguments_raise(agent):
    with pytest.raises(ConfigError, match="num_episodes"):
        evaluate_policy(agent, num_episodes=0)


def test_interruption_propagates(agent):
    class Interrupting(CountEnv):
        def step(self, action):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate_policy(agent, Interrupting)


def test_many(agent):
    configs = [ExecutionConfig(2), ExecutionConfig(3, max_steps_per_episode=1)]
    results = evaluate_policy_many(agent, configs)
    assert [result.episode_lengths for result in results] == [[5, 5], [1, 1, 1]]
