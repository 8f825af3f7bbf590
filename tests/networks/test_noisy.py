"""Noisy layers: their noise, where it comes from, and when there is none."""

from __future__ import annotations

import pytest
import torch

from lightning_rl.networks.acting import acting_function
from lightning_rl.networks.mlp import MLP
from lightning_rl.networks.noisy import (
    NoisyLinear,
    redraw_noise,
    with_own_noise,
    without_noise,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def layer_of_known_numbers() -> NoisyLinear:
    layer = NoisyLinear(2, 1)
    with torch.no_grad():
        layer.weight_mean.copy_(torch.tensor([[1.0, 2.0]]))
        layer.weight_sigma.copy_(torch.tensor([[0.5, 0.25]]))
        layer.bias_mean.fill_(3.0)
        layer.bias_sigma.fill_(0.5)
        layer.noise_in.copy_(torch.tensor([2.0, -1.0]))
        layer.noise_out.fill_(4.0)
    return layer


def test_the_output_against_literal_numbers() -> None:
    layer = layer_of_known_numbers()
    # Weights 1 + 0.5 * 8 and 2 + 0.25 * -4, bias 3 + 0.5 * 4.
    x = torch.tensor([[1.0, 10.0]])
    assert layer(x).tolist() == [[5.0 + 10.0 + 5.0]]
    layer.eval()
    assert layer(x).tolist() == [[1.0 + 20.0 + 3.0]]


def test_initialisation_as_published() -> None:
    layer = NoisyLinear(16, 400, sigma=0.5)
    assert layer.weight_sigma.unique().tolist() == [0.125]
    assert layer.bias_sigma.unique().tolist() == [0.125]
    for mean in (layer.weight_mean, layer.bias_mean):
        assert 0.24 < mean.abs().max().item() <= 0.25


def test_noise_is_a_signed_root_of_gaussian_numbers() -> None:
    layer = NoisyLinear(40_000, 1)
    layer.redraw(generator())
    squares = layer.noise_in.sign() * layer.noise_in.square()
    assert squares.mean().item() == pytest.approx(0.0, abs=0.02)
    assert squares.var().item() == pytest.approx(1.0, abs=0.03)


def test_noise_comes_from_the_given_stream_alone() -> None:
    network = MLP(3, 2, (4,), linear=NoisyLinear)
    before = torch.get_rng_state()
    redraw_noise(generator(1), network)
    first = {name: buffer.clone() for name, buffer in network.named_buffers()}
    assert len(first) == 4
    assert all((buffer != 0).all() for buffer in first.values())
    redraw_noise(generator(2), network)
    assert not any(torch.equal(first[name], b) for name, b in network.named_buffers())
    redraw_noise(generator(1), network)
    assert all(torch.equal(first[name], b) for name, b in network.named_buffers())
    assert torch.equal(torch.get_rng_state(), before)


def test_every_parameter_gets_a_gradient_from_noisy_outputs_only_means_without_noise() -> None:
    network = MLP(3, 2, (4,), activation="tanh", linear=NoisyLinear)
    redraw_noise(generator(), network)
    network(torch.randn(5, 3)).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())
    network.zero_grad()
    without_noise(network, torch.randn(5, 3)).sum().backward()
    assert network.training
    for name, parameter in network.named_parameters():
        assert (parameter.grad is None) == ("sigma" in name), name


def test_acting_in_numpy_has_the_noise_of_its_making() -> None:
    network = MLP(3, 2, (8,), activation="relu", linear=NoisyLinear)
    x = torch.randn(4, 3)
    with torch.no_grad():
        for seed in (0, 1):
            redraw_noise(generator(seed), network)
            acted = torch.from_numpy(acting_function(network)(x).copy())
            torch.testing.assert_close(acted, network(x))


def test_rows_with_noise_of_their_own_in_either_mode() -> None:
    network = MLP(3, 2, (4,), linear=NoisyLinear)
    x = torch.ones(6, 3)
    outputs = []
    for training in (True, False):
        network.train(training)
        outputs.append(with_own_noise(network, x, generator(4)))
        assert network.training is training
    assert torch.equal(*outputs)
    assert len(outputs[0].unique(dim=0)) == 6
    assert len(without_noise(network, x).unique(dim=0)) == 1
