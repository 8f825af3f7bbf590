"""PQN: its loss, its returns, what learns, and its options."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from lightning_rl.algorithms.pqn import PQN, pqn_loss
from lightning_rl.buffers.rollout import Rollout
from lightning_rl.callbacks.base import EventCallback
from lightning_rl.errors import ConfigError

Fit = Callable[..., Any]
QUICK: dict[str, Any] = {
    "num_steps": 16,
    "minibatch_size": 16,
    "update_epochs": 2,
    "hidden_sizes": (16, 16),
    "learning_rate": 1e-2,
    "compile": False,
    "seed": 1,
}
ENV = {"id": "CartPole-v1", "num_envs": 2}


def test_the_loss_against_literal_numbers() -> None:
    q_values = torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    minibatch = {
        "observation": torch.zeros(2, 1),
        "action": torch.tensor([0, 1]),
        "return": torch.tensor([3.0, 3.0]),
    }
    loss, statistics = pqn_loss(lambda observation: q_values, minibatch)
    assert loss.item() == (4.0 + 1.0) / 4
    assert statistics.tolist() == [1.25, 2.5]
    loss.backward()
    assert q_values.grad.tolist() == [[-1.0, 0.0], [0.0, 0.5]]


def rollout_with_ends(agent: PQN) -> Rollout:
    """Four steps of two environments: row 0 terminated at step 1, row 1 truncated at step 2."""
    rollout = Rollout(4, 2, agent.observation_space, agent.action_space)
    generator = torch.Generator().manual_seed(0)
    observation = torch.randn(5, 2, 4, generator=generator).numpy()
    for step in range(5):
        rollout.write_observation(step, observation[step])
    rollout.reward[:] = [[1.0, 10.0], [2.0, 20.0], [3.0, 30.0], [4.0, 40.0]]
    rollout.terminated[1, 0] = rollout.truncated[2, 1] = True
    finals = torch.randn(2, 2, 4, generator=generator).numpy()
    rollout.write_final(1, 0, finals[0])
    rollout.write_final(2, 1, finals[1])
    rollout.cursor = 4
    return rollout


@pytest.mark.parametrize("q_lambda", [0.0, 0.65, 1.0])
def test_returns_equal_a_loop_back_in_time(q_lambda: float) -> None:
    agent = PQN(ENV, 64, **{**QUICK, "num_steps": 4}, gamma=0.9, q_lambda=q_lambda)
    rollout = rollout_with_ends(agent)
    rows = agent.estimate(rollout)
    best = lambda x: agent.network(torch.as_tensor(x)[None]).max().item()  # noqa: E731
    following: Any = rollout.next_observation()
    expected = torch.zeros(4, 2)
    for row in range(2):
        after = 0.0
        for step in reversed(range(4)):
            bootstrap = best(following[step, row])
            ended = rollout.terminated[step, row] or rollout.truncated[step, row] or step == 3
            mixed = bootstrap if ended else q_lambda * after + (1 - q_lambda) * bootstrap
            after = rollout.reward[step, row] + 0.9 * mixed * (not rollout.terminated[step, row])
            expected[step, row] = float(after)
    torch.testing.assert_close(rows["return"].view(4, 2), expected, rtol=1e-4, atol=1e-4)
    observation: Any = rollout.observation
    assert torch.equal(rows["observation"].view(4, 2, 4), torch.from_numpy(observation[:4]))


def test_every_parameter_learns(fit: Fit) -> None:
    agent = PQN(ENV, 64, **QUICK)
    before = {name: p.detach().clone() for name, p in agent.network.named_parameters()}
    fit(agent)
    for name, parameter in agent.network.named_parameters():
        assert not torch.equal(parameter, before[name]), f"{name} did not learn"


def test_the_learning_rate_falls_to_zero_at_the_end(fit: Fit) -> None:
    rows: list[float] = []
    note = lambda trainer, agent, metrics, at: rows.append(metrics["train/learning_rate"])  # noqa: E731
    settings = {**QUICK, "learning_rate": 0.4, "learning_rate_schedule": "linear"}
    fit(PQN(ENV, 128, **settings), callbacks=[EventCallback(on_metrics=note)])
    assert rows == pytest.approx([0.4, 0.3, 0.2, 0.1])


def test_epsilon_one_acts_by_chance_and_zero_greedily(fit: Fit) -> None:
    for epsilon, expected in ((0.0, 1.0), (1.0, 0.5)):
        env = {"id": "LightningRL/ActionReward-v0", "num_envs": 8}
        settings = {**QUICK, "learning_rate": 0.0, "num_steps": 64}
        agent = PQN(env, 512, **settings, epsilon_start=epsilon, epsilon_end=epsilon)
        greedy = int(agent.predict([0.0]))
        rewards: list[float] = []
        add = lambda trainer, agent, episode, to=rewards: to.append(episode.reward)  # noqa: E731
        fit(agent, callbacks=[EventCallback(on_episode_end=add)])
        share = sum(rewards) / len(rewards)
        assert (share if greedy == 1 else 1 - share) == pytest.approx(expected, abs=0.08)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"env": "Pendulum-v1"}, "PQN expects a Discrete action space, received Box"),
        ({"q_lambda": 1.1}, r"expected q_lambda to be in \[0.0, 1.0\], received 1.1"),
        ({"learning_rate_schedule": "linaer"}, "did you mean 'linear'"),
    ],
)
def test_mistakes_are_refused_in_one_line(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PQN(**arguments)
