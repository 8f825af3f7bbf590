"""Ensembles of critics: several networks of one shape, evaluated together."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor, nn

from lightning_rl.errors import ConfigError
from lightning_rl.functional.grouped import grouped_product
from lightning_rl.networks.encoders import make_encoder
from lightning_rl.networks.mlp import activation_functions, build_network
from lightning_rl.types import TensorObservation

NetworkFactory = Callable[[int, int], nn.Module]


class EnsembleMLP(nn.Module):
    """M fully connected networks on the same `(B, input_size)`.

    Each starts with PyTorch's default initialisation of `nn.Linear`.

    Args:
        num_members: M.
        input_size: Features per row.
        hidden_sizes: Units of each hidden layer.
        output_size: Numbers per row of each network's result.
        activation: A key of `networks.mlp.ACTIVATIONS`.

    Raises:
        ConfigError: A size is not positive, or the activation is unknown.
    """

    weights: Sequence[Tensor]
    biases: Sequence[Tensor]

    def __init__(
        self,
        num_members: int,
        input_size: int,
        hidden_sizes: Sequence[int],
        output_size: int,
        activation: str = "relu",
    ) -> None:
        super().__init__()
        sizes = [input_size, *hidden_sizes, output_size]
        if num_members < 1 or any(size < 1 for size in sizes):
            raise ConfigError(f"expected positive sizes, got {num_members} networks of {sizes}")
        self._activation, _ = activation_functions(activation)
        self.activation = activation.lower()
        self.num_members = num_members
        weights, biases = [], []
        for fan_in, fan_out in pairwise(sizes):
            bound = 1.0 / math.sqrt(fan_in)
            weights.append(torch.empty(num_members, fan_in, fan_out).uniform_(-bound, bound))
            biases.append(torch.empty(num_members, 1, fan_out).uniform_(-bound, bound))
        self.weights = nn.ParameterList(weights)  # type: ignore[assignment]
        self.biases = nn.ParameterList(biases)  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, input_size)` to `(M, B, output_size)`."""
        return self.first(self.num_members, x)

    def least(self, x: Tensor) -> Tensor:
        """Return the least of the networks' single outputs, `(B,)`, for a loss of `x` alone.

        Its gradient goes to `x` and not to the parameters.
        """
        if self.activation != "relu":
            return self.forward(x).squeeze(-1).amin(0)
        parameters = (*self.weights, *self.biases)
        return _LeastOutput.apply(x, *(parameter.detach() for parameter in parameters))

    def first(self, members: int, x: Tensor) -> Tensor:
        """Return what the first networks alone make of `x`, `(members, B, output_size)`."""
        layers = [
            (weight.unbind(), bias.squeeze(1).unbind())
            for weight, bias in zip(self.weights, self.biases, strict=True)
        ]
        outputs = []
        for member in range(members):
            y = x
            for index, (weights, biases) in enumerate(layers):
                y = torch.addmm(biases[member], y, weights[member])
                if index < len(layers) - 1:
                    y = self._activation(y)
            outputs.append(y)
        return torch.stack(outputs)


class _LeastOutput(torch.autograd.Function):
    """The least of M networks with ReLU, each row of whose gradient goes back through one of them.

    What autograd records instead multiplies M matrices of which all rows but one in M are zero. In
    SAC's actor loss that is one of its three large products on the way back.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, *parameters: Tensor) -> Tensor:
        """Return the least output of every row; `parameters` are all weights, then biases."""
        count = len(parameters) // 2
        layers = list(zip(parameters[:count], parameters[count:], strict=True))
        hidden: list[list[Tensor]] = [[] for _ in layers[1:]]
        values = []
        for member in range(len(parameters[0])):
            y = x
            for (weights, biases), outputs in zip(layers, hidden, strict=False):
                y = torch.relu(torch.addmm(biases[member, 0], y, weights[member]))
                outputs.append(y)
            weights, biases = layers[-1]
            values.append(torch.addmm(biases[member, 0], y, weights[member]).squeeze(-1))
        value, least = torch.stack(values).min(0)
        ctx.save_for_backward(least, *map(torch.stack, hidden), *parameters[:count])
        return value

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient of the input, computed with the rows sorted by their network."""
        least, *saved = ctx.saved_tensors
        half = len(saved) // 2
        hidden, weights = saved[:half], saved[half:]
        order = least.argsort()
        members = least[order]
        # Up to which row the first networks reach.
        ends = (least <= torch.arange(len(weights[0]), device=least.device)[:, None]).sum(1)
        delta = gradients[0][order][:, None] * weights[-1].squeeze(-1)[members]
        for y, weight in zip(reversed(hidden), reversed(weights[:-1]), strict=True):
            delta = torch.where(y[members, order] > 0, delta, 0.0)
            delta = grouped_product(delta, weight.mT, ends)
        return delta[order.argsort()], *(None for _ in range(2 * len(weights)))


class CriticEnsemble(nn.Module):
    """M action values, or M vectors, of an observation and an action.

    Args:
        observation_space: A leaf space or a flat Dict; its encoder is shared by the members.
        action_size: Numbers of one action; 0 for critics of observations alone.
        num_critics: M.
        hidden_sizes: Units of each hidden layer of the default networks.
        num_outputs: Numbers per row of each critic; None for one, without a dimension of its own.
        network: Class or function `(input_size, output_size) -> module`, called once per critic;
            None for an `EnsembleMLP` with ReLU.
    """

    members: nn.ModuleList | None

    def __init__(
        self,
        observation_space: spaces.Space,
        action_size: int,
        num_critics: int = 2,
        hidden_sizes: Sequence[int] = (256, 256),
        num_outputs: int | None = None,
        network: NetworkFactory | None = None,
    ) -> None:
        super().__init__()
        self.encoder = make_encoder(observation_space)
        self.num_outputs = num_outputs
        width = self.encoder.output_size + action_size
        if network is None:
            self.mlp = EnsembleMLP(num_critics, width, hidden_sizes, num_outputs or 1)
            self.members = None
        else:
            self.members = nn.ModuleList(
                build_network(network, network, width, num_outputs or 1) for _ in range(num_critics)
            )

    def forward(
        self,
        observation: TensorObservation,
        action: Tensor | None = None,
        num_members: int | None = None,
        least: bool = False,
    ) -> Tensor:
        """Return values `(M, B)`, or with `num_outputs` `(M, B, num_outputs)`, as float32.

        Args:
            observation: `(B, *obs_shape)`.
            action: `(B, action_size)`; None with `action_size` 0.
            num_members: Of the first critics only, at no cost for the others; None for all.
            least: Return the least of all values, `(B,)`, for a loss that moves the action alone.
        """
        features = self.encoder(observation)
        if action is not None:
            features = torch.cat((features, action), -1)
        if self.members is None and least:
            return self.mlp.least(features).float()
        if self.members is None:
            values = self.mlp.first(num_members or self.mlp.num_members, features)
        else:
            members = self.members[:num_members]
            values = torch.stack([member(features) for member in members])
        values = (values.squeeze(-1) if self.num_outputs is None else values).float()
        return values.amin(0) if least else values
