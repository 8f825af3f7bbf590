"""Noisy layers: exploration by noise on the weights, whose size is learned."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from operator import itemgetter

import torch
from torch import Tensor, nn

from lightning_rl.functional.trees import first_leaf, map_tree
from lightning_rl.types import TensorObservation


class NoisyLinear(nn.Module):
    """Linear layer with factorised Gaussian noise on its weights.

    Fortunato et al. (2018), https://arxiv.org/abs/1706.10295, equations 10 and 11:
    `w = mean + sigma * f(e_out) f(e_in)^T`, `b = mean + sigma * f(e_out)`, `f(x) = sgn(x) sqrt|x|`.
    The noise is a pair of buffers that change only in `redraw`, and so part of a checkpoint. In
    evaluation mode the layer is noiseless.

    Args:
        input_size: Features per row.
        output_size: Numbers per row of the result.
        sigma: First noise, times `1 / sqrt(input_size)`; 0.5 as published.
    """

    noise_in: Tensor
    noise_out: Tensor

    def __init__(self, input_size: int, output_size: int, sigma: float = 0.5) -> None:
        super().__init__()
        bound = 1.0 / math.sqrt(input_size)
        self.weight_mean = nn.Parameter(torch.empty(output_size, input_size))
        self.bias_mean = nn.Parameter(torch.empty(output_size))
        self.weight_sigma = nn.Parameter(torch.full((output_size, input_size), sigma * bound))
        self.bias_sigma = nn.Parameter(torch.full((output_size,), sigma * bound))
        nn.init.uniform_(self.weight_mean, -bound, bound)
        nn.init.uniform_(self.bias_mean, -bound, bound)
        self.register_buffer("noise_in", torch.zeros(input_size))
        self.register_buffer("noise_out", torch.zeros(output_size))

    @property
    def weight(self) -> Tensor:
        """Weights `(output_size, input_size)` with the present noise."""
        if not self.training:
            return self.weight_mean
        return self.weight_mean + self.weight_sigma * torch.outer(self.noise_out, self.noise_in)

    @property
    def bias(self) -> Tensor:
        """Biases `(output_size,)` with the present noise."""
        return (
            self.bias_mean + self.bias_sigma * self.noise_out if self.training else self.bias_mean
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, input_size)` to `(B, output_size)`; all rows get the same noise."""
        return torch.addmm(self.bias, x, self.weight.t())

    @torch.no_grad()
    def redraw(self, generator: torch.Generator) -> None:
        """Draw new noise in place; `generator` is the CPU's, whatever the device."""
        for noise in (self.noise_in, self.noise_out):
            drawn = torch.randn(noise.shape, generator=generator)
            noise.copy_(drawn.sign() * drawn.abs().sqrt())


def has_noise(network: nn.Module) -> bool:
    """Return whether the network has noisy layers."""
    return any(isinstance(module, NoisyLinear) for module in network.modules())


def redraw_noise(generator: torch.Generator, *networks: nn.Module) -> None:
    """Draw new noise for every noisy layer of the networks, in order."""
    for network in networks:
        for module in network.modules():
            if isinstance(module, NoisyLinear):
                module.redraw(generator)


@contextlib.contextmanager
def _mode(network: nn.Module, training: bool) -> Iterator[None]:
    before = network.training
    if before != training:
        network.train(training)
    try:
        yield
    finally:
        if before != training:
            network.train(before)


def without_noise(network: nn.Module, observation: TensorObservation) -> Tensor:
    """Return the network's output for observations `(B, *obs_shape)` in evaluation mode."""
    with _mode(network, training=False):
        return network(observation)


def with_own_noise(
    network: nn.Module, observation: TensorObservation, generator: torch.Generator
) -> Tensor:
    """Return the network's output for observations `(B, *obs_shape)`, each with its own noise."""
    leaves = map_tree(lambda leaf: leaf.split(1), observation)
    outputs = []
    with _mode(network, training=True):
        for row in range(len(first_leaf(observation))):
            redraw_noise(generator, network)
            outputs.append(network(map_tree(itemgetter(row), leaves)))
    return torch.cat(outputs)
