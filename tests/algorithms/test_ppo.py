"""PPO: its losses against numbers worked out by hand, its update, its options, and the probes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from lightning_rl.algorithms.ppo import PPO, STATISTICS, ppo_loss
from lightning_rl.buffers.rollout import Rollout
from lightning_rl.callbacks.base import EventCallback
from lightning_rl.envs.config import EnvConfig
from lightning_rl.envs.probes import (
    ACTION_SPACES,
    ProbeEnv,
)
from lightning_rl.errors import ConfigError
from lightning_rl.networks.distributions import make_action_head

Fit = Callable[..., Any]
GAMMA = 0.9
QUICK: dict[str, Any] = {
    "num_steps": 16,
    "minibatch_size": 64,
    "learning_rate": 1e-2,
    "gamma": GAMMA,
    "hidden_sizes": (16,),
    "compile": False,
    "seed": 1,
}


def probe(name: str, **kwargs: Any) -> dict[str, Any]:
    return {"id": f"LightningRL/{name}-v0", "num_envs": 8, "kwargs": kwargs}


# The losses.


def fixed(distribution: torch.Tensor, value: torch.Tensor) -> Any:
    return lambda observation: (distribution, value)


def test_the_whole_loss_against_literal_numbers():
    """Probabilities 1/4 and 3/4 against 1/2 before: ratios 1.5 and 0.5."""
    logits = torch.tensor([[0.0, math.log(3.0)]]).expand(2, 2)
    minibatch = {
        "observation": torch.zeros(2, 1),
        "action": torch.tensor([1, 0]),
        "log_prob": torch.tensor([0.5, 0.5]).log(),
        "advantage": torch.tensor([1.0, -1.0]),
        "value": torch.tensor([0.0, 0.3]),
        "return": torch.tensor([1.0, 1.0]),
    }
    network = fixed(logits, torch.tensor([2.0, 0.9]))
    head = make_action_head(spaces.Discrete(2))
    loss, statistics = ppo_loss(network, minibatch, torch.tensor([0.2, 0.5, 0.1]), head, False)
    named = dict(zip(STATISTICS, statistics.tolist(), strict=True))
    assert named == pytest.approx(
        {
            "train/policy_loss": -0.2,
            "train/value_loss": 0.2525,
            "train/entropy_loss": -0.5623351,
            "train/approx_kl": 0.1438410,
            "train/clip_fraction": 1.0,
        },
        abs=1e-6,
    )
    assert loss.item() == pytest.approx(-0.2 + 0.12625 - 0.05623351)
    _, wider = ppo_loss(network, minibatch, torch.tensor([0.6, 0.5, 0.1]), head, True)
    assert wider[4].item() == 0.0


def test_more_entropy_lowers_the_loss():
    logits = torch.tensor([[0.0, 1.0]], requires_grad=True)
    minibatch = dict.fromkeys(("log_prob", "advantage", "value", "return"), torch.zeros(1))
    minibatch |= {"observation": torch.zeros(1, 1), "action": torch.zeros(1, dtype=torch.int64)}
    head = make_action_head(spaces.Discrete(2))
    coefficients = torch.tensor([0.2, 0.0, 1.0])
    loss, _ = ppo_loss(fixed(logits, torch.zeros(1)), minibatch, coefficients, head, False)
    loss.backward()
    # Minimising the loss makes the likelier action rarer.
    assert logits.grad[0, 1] > 0.0 > logits.grad[0, 0]


@pytest.mark.parametrize("kind", sorted(ACTION_SPACES))
def test_the_loss_equals_a_loop_over_torch_distributions(kind: str):
    """Row by row, with PyTorch's own distributions as the oracle."""
    space = ACTION_SPACES[kind]
    head = make_action_head(space)
    width = 2 * head.num_outputs if head.has_log_std else head.num_outputs
    parameters, noise = torch.randn(6, width), head.draw_noise((6,))
    minibatch = {
        "observation": torch.zeros(6, 1),
        "action": head.sample(torch.zeros(6, width), noise),
        "log_prob": -torch.rand(6) - 1.0,
        **{name: torch.randn(6) for name in ("advantage", "value", "return")},
    }
    value = torch.randn(6)
    coefficients = torch.tensor([0.3, 0.7, 0.05])
    loss, _ = ppo_loss(fixed(parameters, value), minibatch, coefficients, head, False)

    total = 0.0
    for row in range(6):
        parts = distributions(kind, parameters[row])
        coordinates = minibatch["action"][row].float().reshape(-1)
        log_prob = sum(part.log_prob(x) for part, x in zip(parts, coordinates, strict=True))
        ratio = math.exp(log_prob - minibatch["log_prob"][row])
        advantage = float(minibatch["advantage"][row])
        total -= min(ratio * advantage, min(max(ratio, 0.7), 1.3) * advantage)
        total += 0.7 * 0.5 * float(value[row] - minibatch["return"][row]) ** 2
        total -= 0.05 * float(sum(part.entropy() for part in parts))
    assert loss.item() == pytest.approx(total / 6, rel=1e-5)


def distributions(kind: str, row: torch.Tensor) -> list[torch.distributions.Distribution]:
    library = torch.distributions
    if kind == "box":
        return [library.Normal(row[0], row[1].exp())]
    if kind == "multi_binary":
        return [library.Bernoulli(logits=logit) for logit in row]
    sizes = {"discrete": [2], "multi_discrete": [2, 3]}[kind]
    return [library.Categorical(logits=logits) for logits in row.split(sizes)]


# From a rollout to rows.


def test_estimates_equal_a_loop_over_the_rollout(fit: Fit):
    """Advantages by the definition of GAE, with every kind of end in one rollout."""
    env = EnvConfig("LightningRL/Truncation-v0", num_envs=2)
    agent = PPO(env, 8, normalize_advantage=False, gae_lambda=0.8, **{**QUICK, "num_steps": 4})
    rollout = Rollout(4, 2, agent.observation_space, agent.action_space)
    rollout.observation[:] = np.random.default_rng(0).normal(size=rollout.observation.shape)
    rollout.reward[:] = [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0]]
    rollout.terminated[1, 0] = rollout.truncated[2, 1] = True
    for step, row, seen in ((1, 0, 0.3), (2, 1, -0.6)):
        rollout.write_final(step, row, np.full((2, 1), seen, dtype=np.float32))
    rows = agent.estimate(rollout)

    value = lambda seen: agent.network.value(torch.tensor([[float(seen)]])).item()  # noqa: E731
    expected = np.zeros((4, 2))
    for row in range(2):
        advantage = 0.0
        for step in reversed(range(4)):
            follows = value(rollout.observation[step + 1, row, 0])
            if rollout.truncated[step, row]:
                advantage, follows = 0.0, value(-0.6)
            if rollout.terminated[step, row]:
                advantage, follows = 0.0, 0.0
            delta = rollout.reward[step, row] + GAMMA * follows
            delta -= value(rollout.observation[step, row, 0])
            advantage = expected[step, row] = delta + GAMMA * 0.8 * advantage
    assert rows["advantage"].numpy() == pytest.approx(expected.reshape(-1), rel=1e-4)
    assert rows["return"].numpy() == pytest.approx((rows["advantage"] + rows["value"]).numpy())
    assert rows["value"][0].item() == pytest.approx(value(rollout.observation[0, 0, 0]))
    assert rows["observation"].shape == (8, 1)


def test_advantages_are_normalised_over_the_rollout(fit: Fit):
    seen = []

    class Watching(PPO):
        def estimate(self, rollout: Rollout) -> Any:
            rows = super().estimate(rollout)
            seen.append(rows["advantage"])
            return rows

    fit(Watching(probe("ObservationReward"), 128, **QUICK))
    assert seen[0].mean().item() == pytest.approx(0.0, abs=1e-6)
    assert seen[0].std(correction=0).item() == pytest.approx(1.0, abs=1e-4)


def test_a_rollout_of_one_step_teaches_the_policy(fit: Fit):
    """Normalised, its advantage would be zero."""
    agent = PPO("LightningRL/ActionReward-v0", 96, **{**QUICK, "num_steps": 1, "update_epochs": 2})
    fit(agent)
    with torch.no_grad():
        logits = agent.network.distribution_parameters(torch.zeros(1, 1))
    assert logits.softmax(-1)[0, 1].item() > 0.8


def test_the_first_minibatch_has_ratio_one(fit: Fit):
    """Acting and learning see the same policy: nothing is clipped and the KL divergence is zero."""
    agent = PPO(
        {"id": "CartPole-v1", "num_envs": 8, "normalize_observation": True},
        512,
        **{**QUICK, "minibatch_size": 1_000, "update_epochs": 1},
    )
    rows = []
    watch = EventCallback(on_metrics=lambda trainer, agent, metrics, at: rows.append(metrics))
    fit(agent, callbacks=[watch])
    assert len(rows) == 4
    assert all(abs(row["train/approx_kl"]) < 1e-6 for row in rows)
    assert all(row["train/clip_fraction"] == 0.0 for row in rows)


# Which parameters learn.


@pytest.mark.parametrize("shared_trunk", [False, True])
def test_the_gradient_reaches_every_parameter(fit: Fit, shared_trunk: bool):
    agent = PPO("Pendulum-v1", 128, shared_trunk=shared_trunk, ent_coef=0.01, **QUICK)
    before = {name: (id(p), p.detach().clone()) for name, p in agent.named_parameters()}
    fit(agent)
    after = dict(agent.named_parameters())
    assert after.keys() == before.keys()
    for name, parameter in after.items():
        identity, old = before[name]
        assert id(parameter) == identity, name
        assert type(parameter) is nn.Parameter, name
        assert not torch.equal(parameter, old), f"{name} did not learn"


@pytest.mark.parametrize(
    ("term", "moves"), [("advantage", "actor"), ("return", "critic"), (None, "nothing")]
)
def test_each_term_moves_its_own_network(term: str | None, moves: str):
    agent = PPO("CartPole-v1", 128, **QUICK)
    observation = torch.randn(8, 4)
    with torch.no_grad():
        distribution, value = agent.network(observation)
    action = torch.zeros(8, dtype=torch.int64)
    minibatch = {
        "observation": observation,
        "action": action,
        "log_prob": agent.head.log_prob(distribution, action),
        "value": value,
        "advantage": torch.zeros(8),
        "return": value.clone(),
    }
    if term is not None:
        minibatch[term] = minibatch[term] + 1.0
    loss, _ = ppo_loss(agent.network, minibatch, torch.tensor([0.2, 0.5, 0.0]), agent.head, False)
    loss.backward()
    moved = [
        name
        for name, network in (("actor", agent.network.actor), ("critic", agent.network.critic))
        if any(p.grad is not None and p.grad.abs().max() > 1e-7 for p in network.parameters())
    ]
    assert moved == ([] if moves == "nothing" else [moves])


# Options.


def learning_rates(fit: Fit, **arguments: Any) -> list[float]:
    rows = []
    watch = EventCallback(on_metrics=lambda trainer, agent, metrics, at: rows.append(metrics))
    fit(PPO(probe("ObservationAction"), 512, **{**QUICK, **arguments}), callbacks=[watch])
    return [row["train/learning_rate"] for row in rows]


def test_learning_rate_schedules(fit: Fit):
    assert learning_rates(fit) == pytest.approx([1e-2] * 4)
    falling = learning_rates(fit, learning_rate_schedule="linear")
    assert falling == pytest.approx([1e-2, 7.5e-3, 5e-3, 2.5e-3])
    longer = learning_rates(fit, learning_rate_schedule="linear", schedule_env_steps=1024)
    assert longer == pytest.approx([1e-2, 8.75e-3, 7.5e-3, 6.25e-3])


def test_the_adaptive_learning_rate_follows_the_kl_divergence(fit: Fit):
    adaptive = {"learning_rate_schedule": "adaptive_kl", "learning_rate": 1e-3}
    slower = learning_rates(fit, **adaptive, target_kl=1e-9)
    assert slower == pytest.approx([1e-3, 1e-3 / 1.5, 1e-3 / 1.5**2, 1e-3 / 1.5**3])
    faster = learning_rates(fit, **adaptive, target_kl=1e3)
    assert faster == pytest.approx([1e-3, 1.5e-3, 2.25e-3, 3.375e-3])


def test_an_update_stops_when_the_policy_has_gone_too_far(fit: Fit):
    # Two minibatches per epoch, four epochs, one rollout.
    steps = {}
    for target_kl in (None, 1e3, 1e-9):
        agent = PPO(probe("ObservationAction"), 128, target_kl=target_kl, **QUICK)
        fit(agent)
        steps[target_kl] = agent.gradient_steps
    assert steps[None] == steps[1e3] == 8
    # The first minibatch has the old policy still, the second is the first that can be too far.
    assert steps[1e-9] == 2


def test_normalize_observation_learns_the_statistics_of_what_was_seen(fit: Fit):
    agent = PPO(
        {"id": "LightningRL/Count-v0", "num_envs": 4, "normalize_observation": True}, 256, **QUICK
    )
    seen = []
    watch = EventCallback(
        on_rollout_end=lambda trainer, agent, statistics: seen.append(
            agent.source.rollout.observation[:-1].copy()
        )
    )
    fit(agent, callbacks=[watch])
    moments = agent.network.observation_normalizer.leaves["observation"]
    everything = np.concatenate(seen).reshape(-1)
    assert moments.count.item() == everything.size == 256
    assert moments.mean.item() == pytest.approx(everything.mean(), rel=1e-5)
    assert moments.var.item() == pytest.approx(everything.var(), rel=1e-4)
    assert any("observation_normalizer" in key for key in agent.state_dict())


def test_normalize_reward_changes_what_is_learned_from_and_nothing_else(fit: Fit):
    agents = {}
    for normalize in (False, True):
        env = {"id": "LightningRL/Count-v0", "num_envs": 4, "normalize_reward": normalize}
        rows: list[Any] = []
        watch = EventCallback(
            on_episode_end=lambda trainer, agent, episode, to=rows: to.append(episode)
        )
        agent = PPO(env, 64, **QUICK)
        fit(agent, callbacks=[watch])
        # Returns are reported as the environment gives them.
        assert all(row.reward == row.length * (row.length + 1) / 2 for row in rows)
        assert rows
        agents[normalize] = agent
    keys = set(agents[True].state_dict()) - set(agents[False].state_dict())
    assert keys == {
        "reward_normalizer.discounted_return",
        "reward_normalizer.moments.mean",
        "reward_normalizer.moments.var",
        "reward_normalizer.moments.count",
    }
    assert agents[True].reward_normalizer.moments.count.item() == 64
    weights = [torch.cat([p.flatten() for p in agent.parameters()]) for agent in agents.values()]
    assert not torch.equal(*weights)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_steps": 0}, "expected num_steps to be at least 1, received 0"),
        ({"gamma": 1.5}, r"expected gamma to be in \[0.0, 1.0\], received 1.5"),
        ({"gae_lambda": -0.1}, "expected gae_lambda"),
        ({"learning_rate": -1.0}, "expected learning_rate"),
        ({"clip_coef": float("nan")}, "expected clip_coef"),
        ({"total_env_steps": 0}, "expected total_env_steps to be at least 1, received 0"),
        ({"learning_rate_schedule": "cosine"}, "constant, linear, adaptive_kl, received 'cosine'"),
        ({"learning_rate_schedule": "linaer"}, "did you mean 'linear'"),
        ({"activation": "tahn"}, "tanh"),
        ({"total_episodes": 5, "total_env_steps": 5}, "one of total_env_steps and total_episodes"),
    ],
)
def test_arguments_out_of_range_are_refused_in_one_line(arguments: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message) as caught:
        PPO("CartPole-v1", **arguments)
    assert "\n" not in str(caught.value)


def test_an_integer_box_is_refused_by_name():
    class Integers(ProbeEnv):
        def __init__(self) -> None:
            super().__init__()
            self.action_space = spaces.Box(0, 5, (2,), np.int64)

    with pytest.raises(ConfigError, match="MultiDiscrete"):
        PPO(Integers)
