"""Multi-layer perceptron with a lean forward pass, and helpers to build and run networks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_rl.errors import ConfigError, did_you_mean
from lightning_rl.networks.noisy import NoisyLinear, has_noise

TensorFunction: TypeAlias = Callable[[Tensor], Tensor]

ACTIVATIONS: dict[str, tuple[TensorFunction, TensorFunction]] = {
    "tanh": (torch.tanh, torch.tanh_),
    "relu": (torch.relu, torch.relu_),
    "elu": (F.elu, lambda x: F.elu(x, inplace=True)),
    "selu": (torch.selu, torch.selu_),
    "silu": (F.silu, lambda x: F.silu(x, inplace=True)),
    "gelu": (F.gelu, F.gelu),
    "mish": (F.mish, lambda x: F.mish(x, inplace=True)),
    "leaky_relu": (F.leaky_relu, lambda x: F.leaky_relu(x, inplace=True)),
    "softplus": (F.softplus, F.softplus),
    "sigmoid": (torch.sigmoid, torch.sigmoid_),
    "identity": (lambda x: x, lambda x: x),
}
"""Name to the function and to its in-place form (the function itself where PyTorch has none)."""


def activation_functions(name: str) -> tuple[TensorFunction, TensorFunction]:
    """Return the activation called `name` and its in-place form.

    Raises:
        ConfigError: No activation has this name.
    """
    try:
        return ACTIVATIONS[name.lower()]
    except (KeyError, AttributeError):
        hint = did_you_mean(str(name), ACTIVATIONS)
        raise ConfigError(
            f"unknown activation {name!r}{hint}; expected one of {', '.join(ACTIVATIONS)}"
        ) from None


def initialize_orthogonal(layer: nn.Linear | nn.Conv2d, gain: float) -> None:
    """Set an orthogonal weight times `gain` (Saxe et al., 2014) and a zero bias."""
    nn.init.orthogonal_(layer.weight, gain)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


class MLP(nn.Module):
    """Fully connected network on `(B, input_size)`.

    The layers are `nn.Linear` modules; the forward pass is a chain of `torch.addmm` on their
    weights, which halves the number of dispatches of `nn.Sequential` on the small batches of
    acting.

    Args:
        input_size: Features per row.
        output_size: Numbers per row of the result.
        hidden_sizes: Units of each hidden layer; empty for one linear map.
        activation: A key of `ACTIVATIONS`.
        output_gain: Gain of the last layer's orthogonal initialisation (0.01 for actors keeps the
            first policy near uniform; Andrychowicz et al., 2021, https://arxiv.org/abs/2006.05990).
        orthogonal: Orthogonal weights with gain sqrt(2) and zero biases, as in CleanRL and SB3;
            False keeps PyTorch's default.
        activate_output: Apply the activation after the last layer too, as a trunk needs.
        linear: Class of the layers, with `weight` and `bias`.

    Raises:
        ConfigError: A size is not positive, or the activation is unknown.
    """

    layers: Sequence[nn.Linear]

    def __init__(
        self,
        input_size: int,
        output_size: int,
        hidden_sizes: Sequence[int] = (64, 64),
        activation: str = "tanh",
        output_gain: float = 1.0,
        orthogonal: bool = True,
        activate_output: bool = False,
        linear: Callable[[int, int], nn.Module] = nn.Linear,
    ) -> None:
        super().__init__()
        sizes = [input_size, *hidden_sizes, output_size]
        check_layer_sizes(sizes)
        self._activation, self._activation_ = activation_functions(activation)
        self.activation = activation.lower()
        self.input_size = input_size
        self.output_size = output_size
        self.activate_output = activate_output
        self.layers = nn.ModuleList(  # type: ignore[assignment]  # ModuleList is not generic
            linear(fan_in, fan_out) for fan_in, fan_out in pairwise(sizes)
        )
        if orthogonal:
            gains = [math.sqrt(2.0)] * len(hidden_sizes) + [output_gain]
            for layer, gain in zip(self.layers, gains, strict=True):
                initialize_orthogonal(layer, gain)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, input_size)` to `(B, output_size)`."""
        last = len(self.layers) - 1
        for index, layer in enumerate(self.layers):
            x = torch.addmm(layer.bias, x, layer.weight.t())
            if index < last or self.activate_output:
                x = self._activation(x)
        return x

    @property
    def stores_weights(self) -> bool:
        """Whether every layer stores its weights and computes none, as parametrizations do.

        Only stored weights can be read through views.
        """
        stored = [dict(layer.named_parameters(recurse=False)) for layer in self.layers]
        return all("weight" in names and "bias" in names for names in stored)

    def inference_function(self) -> TensorFunction:
        """Return a function equal to `forward` for acting: no gradients, the fewest dispatches.

        It reads the weights through views, so in-place updates of them are seen. Whatever replaces
        their data (`flatten_parameters`, `module.to(device)`) needs a new function, and so do noisy
        layers when their noise has changed; making one takes microseconds. The result is a new
        tensor at each call.
        """
        if not self.stores_weights and not has_noise(self):
            return torch.no_grad()(self)
        return _InferenceChain(self, self._activation_)


def check_layer_sizes(sizes: Sequence[int]) -> None:
    """Raise a `ConfigError` unless all sizes are positive."""
    if any(size < 1 for size in sizes):
        raise ConfigError(f"expected positive layer sizes, got {list(sizes)}")


def linear_layers(noisy: bool) -> Callable[[int, int], nn.Module]:
    """Return the class of an `MLP`'s layers: plain ones, or noisy ones."""
    return NoisyLinear if noisy else nn.Linear


class _InferenceChain:
    """`activation(x @ W + b)` per layer, the hidden ones written into buffers that are reused.

    For every batch size seen, biases are expanded and buffers allocated once: on batches as small
    as those of acting, an expansion or allocation costs as much as the arithmetic.
    """

    _MAX_BATCH_SIZES = 16

    def __init__(self, mlp: MLP, activation_: TensorFunction) -> None:
        self._layers = [(x.bias.detach(), x.weight.detach().t()) for x in mlp.layers]
        self._activate_output = mlp.activate_output
        self._activation_ = activation_
        self._device_type = self._layers[0][0].device.type
        self._prepared: dict[int, tuple[list[tuple[Tensor, Tensor, Tensor]], Tensor, Tensor]] = {}

    def __call__(self, x: Tensor) -> Tensor:
        """Map `(B, input_size)` to `(B, output_size)`."""
        activation_ = self._activation_
        rows = x.shape[0]
        hidden, bias, weight = self._prepared.get(rows) or self._prepare(rows)
        if torch.is_autocast_enabled(self._device_type):
            # `out=` escapes autocast; acting must round as the update does, or its ratios are off.
            for hidden_bias, hidden_weight, _ in hidden:
                x = activation_(torch.addmm(hidden_bias, x, hidden_weight))
        else:
            for hidden_bias, hidden_weight, buffer in hidden:
                x = activation_(torch.addmm(hidden_bias, x, hidden_weight, out=buffer))
        x = torch.addmm(bias, x, weight)
        return activation_(x) if self._activate_output else x

    def _prepare(self, rows: int) -> tuple[list[tuple[Tensor, Tensor, Tensor]], Tensor, Tensor]:
        if len(self._prepared) >= self._MAX_BATCH_SIZES:
            self._prepared.clear()
        # Buffers made in inference mode could not be written to outside of it.
        with torch.inference_mode(False):
            hidden = [
                (bias.expand(rows, -1), weight, bias.new_empty(rows, bias.shape[0]))
                for bias, weight in self._layers[:-1]
            ]
            bias, weight = self._layers[-1]
            prepared = hidden, bias.expand(rows, -1), weight
        self._prepared[rows] = prepared
        return prepared


def inference_function_of(module: nn.Module) -> TensorFunction:
    """Return the module's `inference_function()` if it has one, else a call without gradients."""
    make = getattr(module, "inference_function", None)
    if make is not None:
        return make()
    return torch.no_grad()(module)


NetworkChoice: TypeAlias = "nn.Module | Callable[[int, int], nn.Module] | None"
"""A module, a class or function `(input_size, output_size) -> module`, or None for the default."""


def build_network(
    choice: NetworkChoice,
    default: Callable[[int, int], nn.Module],
    input_size: int,
    output_size: int,
) -> nn.Module:
    """Return the chosen network for these sizes.

    Args:
        choice: See `NetworkChoice`.
        default: Used for None.
        input_size: Features per row that the network will get.
        output_size: Numbers per row that it must return.

    Raises:
        ConfigError: The choice is none of these, or does not build a module.
    """
    if isinstance(choice, nn.Module):
        return choice
    factory = default if choice is None else choice
    network = factory(input_size, output_size) if callable(factory) else factory
    if not isinstance(network, nn.Module):
        raise ConfigError(
            "expected a torch.nn.Module or a function (input_size, output_size) -> torch.nn.Module,"
            f" got {choice!r}"
        )
    return network
