"""A2C and REINFORCE: losses by hand and by loops, gradients, episodes over several rollouts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from lightning_rl.algorithms import A2C, REINFORCE
from lightning_rl.algorithms.a2c import a2c_loss
from lightning_rl.algorithms.reinforce import reinforce_loss
from lightning_rl.callbacks.base import EventCallback
from lightning_rl.envs.config import EnvConfig
from lightning_rl.envs.probes import ACTION_SPACES, ObservationActionEnv, ProbeEnv
from lightning_rl.errors import ConfigError
from lightning_rl.functional.policy_gradient import policy_gradient_loss
from lightning_rl.networks.mlp import MLP
from lightning_rl.networks.noisy import NoisyLinear

Fit = Callable[..., pl.Trainer]
QUICK: dict[Any, dict[str, Any]] = {
    A2C: {"num_steps": 8, "learning_rate": 1e-2, "optimizer": "adam", "compile": False},
    REINFORCE: {"num_steps": 8, "learning_rate": 1e-2},
}
LOSSES = {A2C: a2c_loss, REINFORCE: reinforce_loss}
BOTH = pytest.mark.parametrize("cls", [A2C, REINFORCE])


def build(cls: Any, env: Any, total_env_steps: int = 64, **arguments: Any) -> Any:
    small = {"seed": 1, "hidden_sizes": (16,), "gamma": 0.9, "max_grad_norm": 10.0}
    return cls(env, total_env_steps, **{**small, **QUICK[cls], **arguments})


def probe(**kwargs: Any) -> dict[str, Any]:
    return {"id": "LightningRL/ObservationAction-v0", "num_envs": 8, "kwargs": kwargs}


# Losses.


def test_the_policy_gradient_by_hand():
    log_prob = torch.tensor([-1.0, -2.0], requires_grad=True)
    advantage = torch.tensor([3.0, -5.0], requires_grad=True)
    loss = policy_gradient_loss(log_prob, advantage)
    loss.backward()
    assert loss.item() == -(-3.0 + 10.0) / 2
    assert log_prob.grad.tolist() == [-1.5, 2.5]  # a descent step raises what paid
    assert advantage.grad is None


@BOTH
def test_the_loss_equals_a_loop_over_rows(cls: Any):
    agent = build(cls, "CartPole-v1")
    generator = torch.Generator().manual_seed(0)
    observation = torch.randn((6, 4), generator=generator)
    action = torch.tensor([0, 1, 1, 0, 1, 0])
    advantage, return_ = torch.randn((2, 6), generator=generator)
    batch = {
        "observation": observation, "action": action, "advantage": advantage, "return": return_,
    }  # fmt: skip
    loss, statistics = LOSSES[cls](agent.network, batch, torch.tensor([0.7, 0.05]), agent.head)
    policy = value = entropy = 0.0
    with torch.no_grad():
        for row in range(6):
            logits, v = agent.network(observation[row : row + 1])
            chosen = torch.distributions.Categorical(logits=logits[0])
            policy -= float(chosen.log_prob(action[row]) * advantage[row]) / 6
            value += 0.5 * float(v[0] - return_[row]) ** 2 / 6
            entropy += float(chosen.entropy()) / 6
    assert statistics.tolist() == pytest.approx([policy, value, -entropy], rel=1e-5)
    assert loss.item() == pytest.approx(policy + 0.7 * value - 0.05 * entropy, rel=1e-5)


@BOTH
@pytest.mark.parametrize("shared_trunk", [False, True])
def test_the_gradient_reaches_every_parameter(fit: Fit, cls: Any, shared_trunk: bool):
    env = {"id": "Pendulum-v1", "num_envs": 2, "max_episode_steps": 6}
    agent = build(cls, env, ent_coef=0.01, shared_trunk=shared_trunk)
    before = {name: (id(p), p.detach().clone()) for name, p in agent.named_parameters()}
    fit(agent)
    for name, parameter in agent.named_parameters():
        identity, old = before[name]
        assert id(parameter) == identity
        assert type(parameter) is nn.Parameter
        assert not torch.equal(parameter, old), f"{name} did not learn"


class WeightNormed(MLP):
    def __init__(self, input_size: int, output_size: int) -> None:
        super().__init__(input_size, output_size, (8,))
        for layer in self.layers:
            weight_norm(layer)


class Noisy(MLP):
    def __init__(self, input_size: int, output_size: int) -> None:
        super().__init__(input_size, output_size, (8,), linear=NoisyLinear)


@pytest.mark.parametrize("actor", [None, WeightNormed, Noisy])
def test_every_rollout_is_acted_by_the_present_weights(
    fit: Fit, monkeypatch: pytest.MonkeyPatch, actor: Any
):
    agent = build(A2C, {"id": "CartPole-v1", "num_envs": 2}, actor=actor)
    seen: list[torch.Tensor] = []
    sample, begin_rollout = agent.head.sample_array, agent.begin_rollout

    def watch(parameters: np.ndarray, noise: np.ndarray) -> np.ndarray:
        seen.append(torch.from_numpy(parameters.copy()))
        return sample(parameters, noise)

    def begin(num_steps: int) -> Any:
        act = begin_rollout(num_steps)
        observation = torch.ones(2, 4)
        act(observation, 0)
        torch.testing.assert_close(seen[-1], agent.network.distribution_parameters(observation))
        marked.append(len(seen) - 1)
        return act

    marked: list[int] = []
    monkeypatch.setattr(agent.head, "sample_array", watch)
    agent.begin_rollout = begin
    fit(agent)
    first, *_, last = (seen[index] for index in marked)
    assert not torch.allclose(first, last, atol=1e-4)  # it learned


# Estimates.


def test_advantages_of_a2c_are_n_step_returns_less_values(fit: Fit):
    """Every kind of end, against the definition, in whole training rollouts."""
    agent = build(A2C, {"id": "LightningRL/Count-v0", "num_envs": 3, "max_episode_steps": 7}, 72)
    seen: list[Any] = []
    estimate = agent.estimate

    def watch(rollout: Any) -> Any:
        rows = estimate(rollout)
        following = torch.from_numpy(rollout.next_observation())
        with torch.no_grad():
            follow = agent.network.value(following.flatten(0, 1)).view(8, 3)
        seen.append((rollout.reward.copy(), rollout.terminated.copy(), rollout.truncated.copy(),
                     follow, rows["value"].view(8, 3), rows["advantage"].view(8, 3),
                     rows["return"].view(8, 3)))  # fmt: skip
        return rows

    agent.estimate = watch
    fit(agent)
    ends = set()
    for reward, terminated, truncated, follow, value, advantage, return_ in seen:
        for n in range(3):
            later = 0.0
            for t in reversed(range(8)):
                ends.add((bool(terminated[t, n]), bool(truncated[t, n])))
                if terminated[t, n]:
                    later = 0.0
                elif truncated[t, n] or t == 7:
                    later = float(follow[t, n])
                later = float(reward[t, n]) + 0.9 * later
                assert float(return_[t, n]) == pytest.approx(later, rel=1e-4)
                assert float(advantage[t, n]) == pytest.approx(later - float(value[t, n]), abs=1e-3)
    assert {(True, False), (False, True), (False, False)} <= ends


def test_reinforce_learns_from_every_step_once_with_its_whole_return(fit: Fit):
    """An episode of the counting probe with L steps pays 1 to L; the rollouts have four."""
    env = {"id": "LightningRL/Count-v0", "num_envs": 2}
    agent = build(REINFORCE, env, 160, num_steps=4, normalize_advantage=False)
    returns: list[tuple[float, float]] = []
    lengths: list[int] = []
    estimate = agent.estimate

    def watch(rollout: Any) -> Any:
        rows = estimate(rollout)
        pairs = zip(rows["observation"][:, 0].tolist(), rows["return"].tolist(), strict=True)
        returns.extend(pairs)
        return rows

    agent.estimate = watch
    end = EventCallback(
        on_episode_end=lambda trainer, agent, episode: lengths.append(episode.length)
    )
    fit(agent, callbacks=[end])
    expected = [
        (float(t), sum(0.9 ** (k - t - 1) * k for k in range(t + 1, length + 1)))
        for length in lengths
        for t in range(length)
    ]
    assert len(returns) == sum(lengths)
    assert sorted(returns) == [pytest.approx(pair) for pair in sorted(expected)]


def test_a_truncated_return_is_completed_by_the_final_value(fit: Fit):
    agent = build(REINFORCE, EnvConfig("LightningRL/Truncation-v0"), 8, normalize_advantage=False)
    seen: list[Any] = []
    estimate = agent.estimate

    def watch(rollout: Any) -> Any:
        with torch.no_grad():
            final = agent.network.value(torch.ones(1, 1)).item()
        rows = estimate(rollout)
        seen.append((rows["return"].tolist(), final))
        return rows

    agent.estimate = watch
    fit(agent)
    (returns, final), = seen  # fmt: skip
    follow, expected = final, []
    for _ in range(5):
        follow = 1.0 + 0.9 * follow
        expected.insert(0, follow)
    assert returns == pytest.approx(expected, rel=1e-5)


def test_reinforce_makes_no_step_while_no_episode_has_ended(fit: Fit):
    agent = build(REINFORCE, {"id": "Pendulum-v1", "num_envs": 2}, 64)
    first = torch.cat([p.detach().flatten() for p in agent.parameters()])
    fit(agent)
    assert agent.gradient_steps == 0
    assert agent.iteration == 4
    assert torch.equal(first, torch.cat([p.detach().flatten() for p in agent.parameters()]))
    assert len(agent.state._last_source.open_episodes) == 64


# What is learned.


@BOTH
@pytest.mark.parametrize("kind", sorted(ACTION_SPACES))
def test_every_action_space_is_learned(fit: Fit, cls: Any, kind: str):
    agent = build(cls, probe(action=kind), 6144 if kind == "box" else 2048, num_steps=2)
    fit(agent)
    env, rewards = ObservationActionEnv(action=kind), []
    for seed in range(16):
        observation, _ = env.reset(seed=seed)
        rewards.append(env.step(agent.predict(observation))[1])
    assert np.mean(rewards) > 0.95  # 0.75 with the mean action


class Endless(ProbeEnv):
    """Reward 1 for ever, nothing to see: worth 1 / (1 - gamma) wherever a time limit cuts."""

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return np.zeros(1, dtype=np.float32), 1.0, False, False, {}


@BOTH
def test_a_time_limit_is_bootstrapped_through(fit: Fit, cls: Any):
    env = EnvConfig(factory=Endless, num_envs=4, max_episode_steps=5)
    agent = build(cls, env, 8_000, num_steps=5)
    fit(agent)
    assert agent.network.value(torch.zeros(1, 1)).item() == pytest.approx(10.0, rel=0.05)


def test_the_end_of_a_budget_in_episodes_is_no_news(fit: Fit, caplog: pytest.LogCaptureFixture):
    agent = A2C("CartPole-v1", total_episodes=3, learning_rate_schedule="linear", compile=False)
    fit(agent)
    assert agent.trainer.optimizers[0].param_groups[0]["lr"] == 0.0
    assert "nothing is learned" not in caplog.text


@BOTH
def test_the_learning_rate_falls_to_zero(fit: Fit, cls: Any):
    rows: list[float] = []
    note = EventCallback(
        on_metrics=lambda trainer, agent, metrics, at: rows.append(metrics["train/learning_rate"])
    )
    fit(build(cls, probe(), 256, learning_rate_schedule="linear"), callbacks=[note])
    assert rows == pytest.approx([1e-2, 7.5e-3, 5e-3, 2.5e-3])


def test_the_optimizers_of_a2c():
    for name, kind in (("rmsprop", "FlatRMSprop"), ("adam", "FlatAdam")):
        optimizer = build(A2C, "CartPole-v1", optimizer=name).configure_optimizers()
        assert type(optimizer).__name__ == kind


@pytest.mark.parametrize(
    ("cls", "arguments", "message"),
    [
        (A2C, {"gae_lambda": 1.5}, r"expected gae_lambda to be in \[0.0, 1.0\], received 1.5"),
        (A2C, {"optimizer": "rmsprob"}, "did you mean 'rmsprop'"),
        (A2C, {"num_steps": 0}, "expected num_steps to be at least 1"),
        (REINFORCE, {"ent_coef": -1.0}, "expected ent_coef to be at least 0.0"),
        (REINFORCE, {"learning_rate_schedule": "cosine"}, "among constant, linear"),
        (REINFORCE, {"gamma": 2.0}, "expected gamma"),
    ],
)
def test_mistakes_are_refused_in_one_line(cls: Any, arguments: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message) as caught:
        cls("CartPole-v1", **arguments)
    assert "\n" not in str(caught.value)


def test_reinforce_learns_in_one_process(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(REINFORCE, "num_ranks", 2)
    with pytest.raises(ConfigError, match="REINFORCE learns in one process, received 2"):
        REINFORCE("CartPole-v1").setup("fit")
