"""CrossQ: its losses in literal numbers, its statistics, and what learns when."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_rl.algorithms.crossq import CrossQ, crossq_losses
from lightning_rl.errors import ConfigError

Fit = Callable[..., Any]
SMALL: dict[str, Any] = {
    "hidden_sizes": (16,),
    "batch_size": 16,
    "learning_starts": 16,
    "env_steps_per_iteration": 32,
    "compile": False,
    "seed": 1,
}


def test_the_losses_in_literal_numbers():
    """Critics that return the sum of the action plus 1 and 2; alpha 1, actions 0."""
    batches: list[tuple[int, bool]] = []

    def critic(observation: Tensor, action: Tensor, batch_statistics: bool = False) -> Tensor:
        batches.append((len(observation), batch_statistics))
        return torch.stack((action.sum(-1) + 1.0, action.sum(-1) + 2.0))

    minibatch = {
        "observation": torch.zeros(2, 3),
        "next_observation": torch.zeros(2, 3),
        "action": torch.tensor([[0.5], [-0.5]]),
        "reward": torch.tensor([1.0, 2.0]),
        "terminated": torch.tensor([False, True]),
    }
    networks = critic, lambda observation, *_: torch.zeros(len(observation), 2)
    noise, numbers = torch.zeros(2, 2, 1), {"gamma": 0.5, "target_entropy": -1.0}
    losses, statistics = crossq_losses(
        *networks, lambda: torch.tensor(0.0), minibatch, noise, **numbers
    )
    # The log-density of action 0 is -0.918939: targets 1 + 0.5 (1 + 0.918939) = 1.959469, and 2.
    errors = [(1.5 - 1.959469) ** 2 + (0.5 - 2) ** 2, (2.5 - 1.959469) ** 2 + (1.5 - 2) ** 2]
    expected = [sum(errors) / 4, -0.918939 - 1.0, 0.0]
    assert [loss.item() for loss in losses] == pytest.approx(expected, abs=1e-5)
    assert len(statistics) == 5
    # Both pairs in one normalised batch; the policy's with running statistics.
    assert batches == [(4, True), (2, False)]


def test_the_target_is_not_differentiated():
    """Of a critic that is one number, the loss (q - gamma q)^2 has the slope q - gamma q."""
    number = torch.tensor(2.0, requires_grad=True)

    def critic(observation: Tensor, action: Tensor, batch_statistics: bool = False) -> Tensor:
        return number.expand(1, len(observation))

    minibatch = {
        "observation": torch.zeros(1, 3),
        "next_observation": torch.zeros(1, 3),
        "action": torch.zeros(1, 1),
        "reward": torch.zeros(1),
        "terminated": torch.zeros(1, dtype=torch.bool),
    }
    actor = lambda observation, *_: torch.zeros(len(observation), 2)  # noqa: E731
    cold = lambda: torch.tensor(-100.0)  # noqa: E731
    losses, _ = crossq_losses(critic, actor, cold, minibatch, torch.zeros(2, 1, 1), 0.5, 0.0)
    assert torch.autograd.grad(losses[0], number)[0].item() == pytest.approx(1.0)


def test_the_gradient_reaches_every_network(fit: Fit):
    agent = CrossQ("Pendulum-v1", 64, **SMALL)
    before = {name: (id(p), p.detach().clone()) for name, p in agent.named_parameters()}
    fit(agent)
    for name, parameter in agent.named_parameters():
        identity, old = before[name]
        assert id(parameter) == identity, name
        assert type(parameter) is nn.Parameter, name
        assert not torch.equal(parameter, old), name


def test_actor_and_temperature_learn_at_every_policy_delay_th_step(fit: Fit):
    seen: list[list[Tensor]] = []

    class Watched(CrossQ):
        def apply_gradients(self, parameters: Any, gradients: Any) -> None:
            seen.append([flat.flat.detach().clone() for flat in self.flats])
            super().apply_gradients(parameters, gradients)

    fit(Watched("Pendulum-v1", 32, policy_delay=3, **SMALL))
    moves = [
        [not torch.equal(a, b) for a, b in zip(before, after, strict=True)]
        for before, after in pairwise(seen)
    ]
    assert moves == [[True, n % 3 == 2, n % 3 == 2] for n in range(len(moves))]


def test_each_network_counts_the_batches_it_learns_from(fit: Fit):
    agent = CrossQ("Pendulum-v1", 32, policy_delay=2, **SMALL)
    fit(agent)
    counts = [network.mlp.norms[0].batches.item() for network in (agent.critic, agent.actor)]
    assert counts == [17, 8]
    assert not torch.equal(agent.critic.mlp.norms[0].mean, torch.zeros(2, 1, 4))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 1}, "expected batch_size to be at least 2, received 1"),
        ({"adam_beta1": 1.0}, "expected adam_beta1"),
        ({"policy_delay": 0}, "expected policy_delay"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        CrossQ("Pendulum-v1", **arguments)


def test_critics_without_hidden_layers_do_not_take_the_actor_s():
    agent = CrossQ("Pendulum-v1", hidden_sizes=(8,), critic_hidden_sizes=())
    assert [weight.shape for weight in agent.critic.mlp.weights] == [(2, 4, 1)]
    assert len(CrossQ("Pendulum-v1", hidden_sizes=(8,)).critic.mlp.weights) == 2
