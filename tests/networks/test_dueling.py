"""The dueling architecture: how its streams are joined, and that acting computes the same."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_rl.errors import ConfigError
from lightning_rl.networks.acting import acting_function
from lightning_rl.networks.dueling import DuelingMLP
from lightning_rl.networks.noisy import redraw_noise


def test_streams_are_joined_as_published() -> None:
    network = DuelingMLP(1, 3, ())
    with torch.no_grad():
        network.value.layers[0].weight.fill_(0.0)
        network.value.layers[0].bias.fill_(10.0)
        network.advantage.layers[0].weight.fill_(0.0)
        network.advantage.layers[0].bias.copy_(torch.tensor([1.0, 2.0, 6.0]))
    assert network(torch.zeros(2, 1)).tolist() == [[8.0, 9.0, 13.0]] * 2


def test_atoms_are_joined_one_by_one() -> None:
    network = DuelingMLP(4, 2, (8, 8), num_atoms=3)
    x = torch.randn(5, 4)
    hidden = network.trunk(x)
    value, advantage = network.value(hidden), network.advantage(hidden)
    joined = network(x)
    assert joined.shape == (5, 6)
    for row in range(5):
        for atom in range(3):
            a = [advantage[row, atom].item(), advantage[row, 3 + atom].item()]
            for action in range(2):
                expected = value[row, atom].item() + a[action] - sum(a) / 2
                found = joined[row, action * 3 + atom].item()
                assert found == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("noisy", [False, True])
@pytest.mark.parametrize("hidden_sizes", [(), (8,), (8, 8), (8, 8, 8)])
def test_acting_in_numpy_equals_the_module(hidden_sizes: tuple[int, ...], noisy: bool) -> None:
    network = DuelingMLP(4, 3, hidden_sizes, 2, noisy=noisy)
    redraw_noise(torch.Generator().manual_seed(0), network)
    act = acting_function(network)
    for rows in (1, 6):
        x = torch.randn(rows, 4)
        torch.testing.assert_close(torch.from_numpy(act(x)), network(x).detach())


@pytest.mark.parametrize("hidden_sizes", [(0,), (4, 0), (0, 4)])
def test_a_layer_without_units_is_refused(hidden_sizes: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="expected positive layer sizes, got"):
        DuelingMLP(4, 2, hidden_sizes)


def test_every_parameter_learns() -> None:
    network = DuelingMLP(4, 3, (8, 8))
    network(torch.randn(6, 4))[:, 0].sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


def test_acting_falls_back_to_pytorch_for_other_activations() -> None:
    network = nn.Sequential(DuelingMLP(4, 3, (8, 8), activation="gelu"))[0]
    x = torch.randn(3, 4)
    torch.testing.assert_close(torch.from_numpy(acting_function(network)(x)), network(x).detach())
