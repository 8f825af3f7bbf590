"""DQN: its target and loss against numbers worked out by hand, its update, and the probes."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from lightning_rl.algorithms.dqn import DQN, STATISTICS, bootstrap_value, dqn_loss
from lightning_rl.callbacks.base import EventCallback
from lightning_rl.envs.probes import (
    ACTION_SPACES,
)
from lightning_rl.errors import ConfigError

Fit = Callable[..., Any]
GAMMA = 0.9
QUICK: dict[str, Any] = {
    "batch_size": 64,
    "learning_starts": 64,
    "train_frequency": 8,
    "gradient_steps": 2,
    "target_update_interval": 64,
    "env_steps_per_iteration": 128,
    "learning_rate": 1e-2,
    "gamma": GAMMA,
    "epsilon_end": 0.2,
    "epsilon_fraction": 0.5,
    "hidden_sizes": (16,),
    "compile": False,
    "seed": 1,
}


def probe(name: str, **kwargs: Any) -> dict[str, Any]:
    return {"id": f"LightningRL/{name}-v0", "num_envs": 8, "kwargs": kwargs}


# The loss. Observation 0 leads to observation 1; both networks are tables.

ONLINE = {0: [[1.0, 2.0], [3.0, 4.0]], 1: [[5.0, 1.0], [0.0, 2.0]]}
TARGET = {0: [[0.0, 0.0], [0.0, 0.0]], 1: [[10.0, 20.0], [30.0, 40.0]]}
MINIBATCH = {
    "observation": torch.zeros(2, 1),
    "next_observation": torch.ones(2, 1),
    "action": torch.tensor([0, 1]),
    "reward": torch.tensor([1.0, 2.0]),
    "terminated": torch.tensor([False, True]),
    "truncated": torch.tensor([False, False]),
}


def table(values: dict[int, list[list[float]]]) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda observation: torch.tensor(values[int(observation[0, 0])])


@pytest.mark.parametrize(
    ("double", "loss", "expected"),
    [
        # Errors: 1 - (1 + 20 / 2) = -10, and 4 - 2 = 2 behind the end of the task.
        (False, "mse", 52.0),
        (False, "huber", 5.5),
        # The online network prefers action 0, which the target network values at 10: error -5.
        (True, "mse", 14.5),
        (True, "huber", 3.0),
    ],
)
def test_the_loss_against_literal_numbers(double: bool, loss: str, expected: float):
    result, statistics = dqn_loss(table(ONLINE), table(TARGET), MINIBATCH, 0.5, double, loss)
    assert result.item() == pytest.approx(expected)
    named = dict(zip(STATISTICS, statistics.tolist(), strict=True))
    assert named == pytest.approx({"train/td_loss": expected, "train/mean_q": 2.5})


def test_several_steps_and_weights_against_literal_numbers():
    """Errors: 1 - (1 + 20 / 4) = -5 with weight 1, and 4 - 2 = 2 with weight 1/2."""
    minibatch = {
        **MINIBATCH,
        "discount": torch.tensor([0.25, 0.25]),
        "weight": torch.tensor([1.0, 0.5]),
    }
    result, statistics = dqn_loss(table(ONLINE), table(TARGET), minibatch, 0.5, False, "mse")
    assert result.item() == (25.0 + 0.5 * 4.0) / 2
    assert statistics.tolist() == [13.5, 2.5, 5.0, 2.0]


def test_a_time_limit_does_not_change_the_target():
    """Only `terminated` cuts the bootstrap: a truncated transition is like any other."""
    truncated = {**MINIBATCH, "truncated": torch.tensor([True, True])}
    losses = [
        dqn_loss(table(ONLINE), table(TARGET), minibatch, 0.5, False, "mse")[0].item()
        for minibatch in (MINIBATCH, truncated)
    ]
    assert losses == [52.0, 52.0]
    ended = {**MINIBATCH, "terminated": torch.tensor([True, True])}
    loss, _ = dqn_loss(table(ONLINE), table(TARGET), ended, 0.5, False, "mse")
    assert loss.item() == 2.0  # errors 0 and 2


def test_bootstrap_values():
    target, online = torch.tensor([[1.0, 5.0, 3.0]]), torch.tensor([[2.0, 0.0, 7.0]])
    assert bootstrap_value(target, None).tolist() == [5.0]
    assert bootstrap_value(target, online).tolist() == [3.0]


@pytest.mark.parametrize("double", [False, True])
def test_the_loss_equals_a_loop(double: bool):
    """Transition by transition in plain Python."""
    generator = random.Random(0)
    rows, actions = 7, 3
    online, following, target = (torch.randn(rows, actions) for _ in range(3))
    minibatch = {
        "observation": torch.zeros(rows, 1),
        "next_observation": torch.ones(rows, 1),
        "action": torch.tensor([generator.randrange(actions) for _ in range(rows)]),
        "reward": torch.randn(rows),
        "terminated": torch.tensor([generator.random() < 0.5 for _ in range(rows)]),
    }
    network = lambda observation: following if observation[0, 0] else online  # noqa: E731
    loss, _ = dqn_loss(network, lambda observation: target, minibatch, 0.7, double, "mse")
    total = 0.0
    for row in range(rows):
        values = target[row].tolist()
        chooser = following[row].tolist() if double else values
        best = values[chooser.index(max(chooser))]
        expected = float(minibatch["reward"][row])
        if not minibatch["terminated"][row]:
            expected += 0.7 * best
        total += (expected - float(online[row, minibatch["action"][row]])) ** 2
    assert loss.item() == pytest.approx(total / rows, rel=1e-5)


# Which parameters learn.


@pytest.mark.parametrize("double", [False, True])
def test_the_loss_has_no_gradient_but_that_of_the_chosen_action(double: bool):
    agent = DQN("CartPole-v1", 128, double=double, **QUICK)
    target = agent.target_network.requires_grad_(True)
    minibatch = {
        "observation": torch.randn(8, 4),
        "next_observation": torch.randn(8, 4),
        "action": torch.zeros(8, dtype=torch.int64),
        "reward": torch.ones(8),
        "terminated": torch.zeros(8, dtype=torch.bool),
    }
    loss, _ = dqn_loss(agent.network, target, minibatch, 0.9, double, "mse")
    loss.backward()
    assert all(parameter.grad is None for parameter in target.parameters())
    *_, weight, bias = agent.network.parameters()
    assert bias.grad[0] != 0.0 and bias.grad[1] == 0.0  # noqa: PT018
    assert weight.grad[1].abs().max() == 0.0


def test_every_parameter_learns_and_stays_what_it_is(fit: Fit):
    agent = DQN("CartPole-v1", 256, **QUICK)
    before = {name: (id(p), p.detach().clone()) for name, p in agent.network.named_parameters()}
    frozen = [id(p) for p in agent.target_network.parameters()]
    fit(agent)
    assert dict(agent.network.named_parameters()).keys() == before.keys()
    for name, parameter in agent.network.named_parameters():
        identity, old = before[name]
        assert id(parameter) == identity, name
        assert type(parameter) is nn.Parameter, name
        assert not torch.equal(parameter, old), f"{name} did not learn"
    assert [id(p) for p in agent.target_network.parameters()] == frozen
    assert not any(p.requires_grad for p in agent.target_network.parameters())


EVERYTHING = {
    "double": True,
    "dueling": True,
    "noisy": True,
    "n_step": 3,
    "prioritized": True,
    "hidden_sizes": (16, 16),
    "epsilon_start": 0.0,
    "epsilon_end": 0.0,
}


@pytest.mark.parametrize("parts", [EVERYTHING, {**EVERYTHING, "dueling": False}])
def test_every_parameter_of_every_part_learns(fit: Fit, parts: dict[str, Any]):
    agent = DQN("CartPole-v1", 256, **{**QUICK, **parts})
    before = {name: p.detach().clone() for name, p in agent.network.named_parameters()}
    assert {name for name in before if "sigma" in name}
    fit(agent)
    for name, parameter in agent.network.named_parameters():
        assert not torch.equal(parameter, before[name]), f"{name} did not learn"


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # inside the compiler
@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_noise_is_drawn_anew_for_every_update_from_the_runs_own_streams(fit: Fit, compiled: bool):
    """Learning rate 0 and one row in the buffer: the loss differs by the noise alone."""
    losses = []
    settings = {**QUICK, **EVERYTHING, "capacity": 1, "learning_rate": 0.0, "prioritized": False}
    for global_seed in (0, 1):
        torch.manual_seed(global_seed)
        agent = DQN("CartPole-v1", 256, **{**settings, "compile": compiled})
        seen: list[float] = []
        add = agent.statistics.add
        agent.statistics.add = lambda tags, values, to=seen, add=add: (  # type: ignore[method-assign]
            to.append(values[0].item()),
            add(tags, values),
        )
        fit(agent)
        losses.append(seen)
    assert losses[0] == losses[1]
    assert len(set(losses[0])) > 0.9 * len(losses[0]) > 10


def test_priorities_become_the_errors_of_the_update(fit: Fit):
    agent = DQN("CartPole-v1", 256, **{**QUICK, "prioritized": True, "learning_rate": 1e-9})
    fit(agent)
    replay: Any = agent.state.replay
    rows = torch.arange(256)
    minibatch = {**replay.gather(rows.numpy()), "weight": torch.ones(256)}
    _, statistics = dqn_loss(
        agent.network, agent.target_network, minibatch, GAMMA, agent.double_q, "mse"
    )
    priority = torch.from_numpy(replay.tree.get(rows.numpy())) ** (1 / 0.6)
    drawn = priority < 0.999  # an error of about 1; those never drawn have the largest so far
    assert drawn.sum() > 100
    torch.testing.assert_close(priority[drawn], statistics[2:][drawn], rtol=1e-2, atol=1e-4)


def test_importance_weights_reach_one_at_the_end(fit: Fit):
    agent = DQN("CartPole-v1", 256, **{**QUICK, "prioritized": True, "priority_beta": 0.5})
    assert agent.importance_exponent() == 0.5
    fit(agent)
    assert agent.importance_exponent() == 1.0


def test_noise_explores_and_is_left_out_of_greedy_actions(fit: Fit):
    agent = DQN("CartPole-v1", 256, **{**QUICK, **EVERYTHING, "learning_starts": 10_000})
    first = [agent.predict([0.01, 0.0, 0.0, 0.0]) for _ in range(2)]
    fit(agent)
    agent.train()
    greedy = {int(agent.predict([0.01, 0.0, 0.0, 0.0])) for _ in range(5)}
    assert greedy == {int(first[0])}
    assert 0 < agent.state.replay.columns["action"][:256].sum() < 256


def test_parts_of_the_default_network_are_refused_with_ones_own():
    with pytest.raises(ConfigError, match="leave out network"):
        DQN("CartPole-v1", dueling=True, network="torch.nn.Linear")


# Options.


def weights(module: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def test_the_target_network_is_copied_at_its_interval(fit: Fit):
    agent = DQN("CartPole-v1", 256, **{**QUICK, "target_update_interval": 10_000})
    first = weights(agent.target_network)
    fit(agent)
    assert torch.equal(weights(agent.target_network), first)
    # 256 env steps end with an update of the target, behind the last gradient step.
    agent = DQN("CartPole-v1", 256, **{**QUICK, "gradient_steps": 1, "target_update_interval": 8})
    fit(agent)
    assert torch.equal(weights(agent.target_network), weights(agent.network))
    agent = DQN("CartPole-v1", 256, **{**QUICK, "target_update_interval": 8, "tau": 0.1})
    fit(agent)
    assert not torch.equal(weights(agent.target_network), weights(agent.network))
    assert not torch.equal(weights(agent.target_network), first)


def test_weights_of_a_longer_run_do_not_hold_the_target_network_back(fit: Fit):
    """The number of target updates is part of the weights, and would be far ahead of the clock."""
    agent = DQN("CartPole-v1", 256, **{**QUICK, "target_update_interval": 8})
    agent.target_update.count.fill_(1_000)
    first = weights(agent.target_network)
    fit(agent)
    assert int(agent.target_update.count) == 32
    assert not torch.equal(weights(agent.target_network), first)


def test_epsilon_falls_linearly_over_its_fraction(fit: Fit):
    rows = []
    watch = EventCallback(
        on_metrics=lambda trainer, agent, metrics, at: rows.append((at, metrics["train/epsilon"]))
    )
    settings = {"epsilon_start": 0.9, "epsilon_end": 0.1, "epsilon_fraction": 0.5}
    fit(DQN("CartPole-v1", 512, **{**QUICK, **settings}), callbacks=[watch])
    assert rows == [
        (128, pytest.approx(0.5)),
        (256, pytest.approx(0.1)),
        (384, pytest.approx(0.1)),
        (512, pytest.approx(0.1)),
    ]


def test_no_gradient_step_before_learning_starts(fit: Fit):
    agent = DQN("CartPole-v1", 256, **{**QUICK, "learning_starts": 10_000})
    first = weights(agent.network)
    fit(agent)
    assert agent.gradient_steps == 0
    assert torch.equal(weights(agent.network), first)
    agent = DQN("CartPole-v1", 256, **{**QUICK, "learning_starts": 128})
    fit(agent)
    # At 128, 136, ..., 256 env steps, two each.
    assert agent.gradient_steps == 34


@pytest.mark.parametrize(("epsilon", "share"), [(0.0, 1.0), (1.0, 0.5)])
def test_epsilon_is_the_share_of_random_actions(fit: Fit, epsilon: float, share: float):
    settings = {"epsilon_start": epsilon, "epsilon_end": epsilon, "learning_starts": 10_000}
    agent = DQN("LightningRL/ActionReward-v0", 2048, **{**QUICK, **settings})
    greedy = int(agent.predict([0.0]))
    fit(agent)
    chosen = agent.state.replay.columns["action"][:2048]
    assert (chosen == greedy).float().mean().item() == pytest.approx(share, abs=0.05)


@pytest.mark.parametrize("capacity", [10_000, 100])
def test_normalisers_learn_from_what_was_collected(fit: Fit, capacity: int):
    """A buffer smaller than a unit, and no multiple of the environments, has lost some rows."""
    env = {"id": "LightningRL/Count-v0", "num_envs": 8}
    env |= {"normalize_observation": True, "normalize_reward": True}
    agent = DQN(env, 256, **{**QUICK, "capacity": capacity})
    fit(agent)
    observed = agent.network.observation_normalizer.leaves["observation"]
    rewarded = agent.reward_normalizer.moments
    kept = min(128, capacity)
    assert observed.count.item() == 2 * kept
    assert rewarded.count.item() == 2 * (kept // 8 * 8)
    assert 1.0 < observed.mean.item() < 5.0  # episodes count 0, 1, ... to between 5 and 10
    assert {"reward_normalizer.moments.var", "target_update.count"} <= set(agent.state_dict())


@pytest.mark.parametrize("kind", sorted(set(ACTION_SPACES) - {"discrete"}))
def test_other_action_spaces_are_refused_by_name(kind: str):
    with pytest.raises(
        ConfigError, match=f"expects a Discrete.*{type(ACTION_SPACES[kind]).__name__}"
    ):
        DQN(probe("ObservationAction", action=kind))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"capacity": 0}, "expected capacity to be at least 1, received 0"),
        ({"tau": 1.5}, r"expected tau to be in \[0.0, 1.0\], received 1.5"),
        ({"epsilon_start": -0.1}, "expected epsilon_start"),
        ({"epsilon_fraction": 0.0}, "expected epsilon_fraction"),
        ({"gradient_steps": 0}, "expected gradient_steps"),
        ({"loss": "hubert"}, "mse, huber, received 'hubert'; did you mean 'huber'"),
        ({"total_episodes": 0}, "expected total_episodes to be at least 1, received 0"),
    ],
)
def test_arguments_out_of_range_are_refused_in_one_line(arguments: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message) as caught:
        DQN("CartPole-v1", **arguments)
    assert "\n" not in str(caught.value)
