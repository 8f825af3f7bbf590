"""TQC: truncation of atoms and losses in literal numbers, and what learns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from lightning_rl.algorithms.tqc import TQC, tqc_losses, truncated_atoms
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


def test_the_largest_atoms_of_all_critics_together_are_left_out():
    quantiles = torch.tensor([[[1.0, 5.0, 9.0]], [[2.0, 7.0, 8.0]]])
    assert truncated_atoms(quantiles, 0).tolist() == [[1.0, 2.0, 5.0, 7.0, 8.0, 9.0]]
    assert truncated_atoms(quantiles, 1).tolist() == [[1.0, 2.0, 5.0, 7.0]]
    assert truncated_atoms(quantiles, 2).tolist() == [[1.0, 2.0]]


def test_the_losses_in_literal_numbers():
    minibatch = {
        "observation": torch.zeros(1, 3),
        "next_observation": torch.zeros(1, 3),
        "action": torch.tensor([[0.5]]),
        "reward": torch.tensor([1.0]),
        "terminated": torch.tensor([False]),
    }
    losses, statistics = tqc_losses(
        lambda observation, action: torch.tensor([[[0.0, 2.0]]]) + action.sum(),
        lambda observation: torch.zeros(1, 2),
        lambda: torch.tensor(-100.0),  # alpha 0
        lambda observation, action: torch.tensor([[[4.0, 100.0]]]),
        minibatch,
        torch.zeros(2, 1, 1),
        torch.tensor([0.25, 0.75]),
        gamma=0.5,
        target_entropy=0.0,
        dropped_quantiles=1,
    )
    # One atom is left: y = 1 + 0.5 * 4 = 3. Errors 2.5 and 0.5: Huber 2 and 0.125.
    expected = (0.25 * 2.0 + 0.75 * 0.125) / 2
    assert losses[0].item() == pytest.approx(expected)
    assert losses[1].item() == pytest.approx(-1.0)  # the mean atom at action 0
    assert statistics[2].item() == pytest.approx(1.5)


def test_a_terminated_transition_is_worth_its_reward():
    """The expected quantiles 3 and 3 have no error."""
    minibatch = {
        "observation": torch.zeros(1, 3),
        "next_observation": torch.zeros(1, 3),
        "action": torch.zeros(1, 1),
        "reward": torch.tensor([3.0]),
        "terminated": torch.tensor([True]),
    }
    losses, _ = tqc_losses(
        lambda observation, action: torch.full((2, 1, 2), 3.0),
        lambda observation: torch.zeros(1, 2),
        lambda: torch.tensor(0.0),
        lambda observation, action: torch.full((2, 1, 2), 50.0),
        minibatch,
        torch.zeros(2, 1, 1),
        torch.tensor([0.25, 0.75]),
        gamma=0.9,
        target_entropy=0.0,
        dropped_quantiles=0,
    )
    assert losses[0].item() == 0.0


@pytest.mark.parametrize("alpha", ["auto", 0.1])
def test_the_gradient_reaches_every_network_and_none_that_is_frozen(fit: Fit, alpha: Any):
    agent = TQC("Pendulum-v1", 64, alpha=alpha, num_critics=5, **SMALL)
    before = {name: (id(p), p.detach().clone()) for name, p in agent.named_parameters()}
    fit(agent)
    for name, parameter in agent.named_parameters():
        identity, old = before[name]
        assert id(parameter) == identity, name
        assert type(parameter) is nn.Parameter, name
        learns = not (name == "temperature.log_alpha" and alpha != "auto")
        assert torch.equal(parameter, old) is not learns, name
    assert agent.critic.mlp.weights[-1].shape == (5, 16, 25)


def test_one_quantile_per_critic_is_enough(fit: Fit):
    agent = TQC("Pendulum-v1", 32, num_quantiles=1, dropped_quantiles=0, **SMALL)
    fit(agent)
    assert agent.gradient_steps == 17
    assert agent.critic(torch.zeros(4, 3), torch.zeros(4, 1)).shape == (2, 4, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_quantiles": 0}, "expected num_quantiles to be at least 1, received 0"),
        ({"dropped_quantiles": 25}, r"expected dropped_quantiles to be in \[0, 24\], received 25"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        TQC("Pendulum-v1", **arguments)
