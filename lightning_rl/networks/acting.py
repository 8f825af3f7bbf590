"""Networks as NumPy functions, for acting on a CPU.

Between two env steps, which are Python and NumPy, a PyTorch call finds its code evicted from the
processor's caches: a small policy that takes 30 µs in a loop of its own took 80 µs there, and 20 µs
as the same matrix products in NumPy (docs/performance.md). What is learned from is computed in
PyTorch, from the stored observations and actions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import nn

from lightning_rl.networks.encoders import IdentityEncoder
from lightning_rl.networks.mlp import MLP, inference_function_of
from lightning_rl.networks.normalization import EPS, RunningNormalizer
from lightning_rl.types import Array, TensorObservation

ActingFunction: TypeAlias = Callable[[TensorObservation], Array]
"""From observations `(N, *obs_shape)` to outputs `(N, P)` float32, valid until the next call."""

ArrayFunction: TypeAlias = Callable[[Array], Array]

_ACTIVATIONS: dict[str, ArrayFunction] = {
    "tanh": lambda x: np.tanh(x, out=x),
    "relu": lambda x: np.maximum(x, 0.0, out=x),
    "identity": lambda x: x,
}
"""Name to in-place function; networks with other activations act in PyTorch."""


def acting_function(*modules: nn.Module | None) -> ActingFunction:
    """Return the function that applies `modules` in turn, in NumPy where that is possible.

    Weights and running statistics are read through views, so in-place updates are seen; make a new
    function when their data are replaced, and when the noise of noisy layers has changed. Under
    autocast the result is PyTorch's, since acting must round as the update does.

    Args:
        *modules: None is left out. On a CPU, float32 `MLP`s, the normaliser of a plain observation,
            encoders that change nothing and modules with an `array_function` method run in NumPy;
            one other module, and all run in PyTorch.
    """
    present = [m for m in modules if m is not None and not isinstance(m, IdentityEncoder)]
    functions = [_array_function(module) for module in present]
    if torch.is_autocast_enabled("cpu") or any(function is None for function in functions):
        return _tensor_function(present)
    steps: list[Any] = functions

    def act(observation: Any) -> Array:
        result = observation.numpy()
        for step in steps:
            result = step(result)
        return result

    return act


def _array_function(module: nn.Module) -> ArrayFunction | None:
    if any(tensor.device.type != "cpu" for tensor in module.state_dict().values()):
        return None
    if isinstance(module, RunningNormalizer) and set(module.leaves) == {"observation"}:
        return _normalizer_function(module)
    if type(module).forward is MLP.forward and module.activation in _ACTIVATIONS:
        return _mlp_function(module)
    make: Callable[..., ArrayFunction | None] | None = getattr(module, "array_function", None)
    return make(_array_function) if make is not None else None


def _normalizer_function(module: RunningNormalizer) -> ArrayFunction:
    moments, clip, eps = module.leaves["observation"], module.clip, np.float32(EPS)
    mean, var = moments.mean.numpy(), moments.var.numpy()

    def normalize(x: Array) -> Array:
        scaled = (x - mean) / np.sqrt(var + eps)
        return np.clip(scaled, -clip, clip, out=scaled)

    return normalize


def _mlp_function(module: Any) -> ArrayFunction:
    layers = [(x.weight.detach().numpy().T, x.bias.detach().numpy()) for x in module.layers]
    activate = _ACTIVATIONS[module.activation]
    last = len(layers) - (0 if module.activate_output else 1)
    buffers: dict[int, list[Array]] = {}

    def run(x: Array) -> Array:
        outputs = buffers.get(len(x))
        if outputs is None:
            outputs = [np.empty((len(x), len(bias)), np.float32) for _, bias in layers]
            buffers[len(x)] = outputs
        for index, (weight, bias) in enumerate(layers):
            x = np.dot(x, weight, out=outputs[index])
            np.add(x, bias, out=x)
            if index < last:
                activate(x)
        return x

    return run


def _tensor_function(modules: list[nn.Module]) -> ActingFunction:
    steps = [inference_function_of(module) for module in modules]
    parameter = next((p for module in modules for p in module.parameters()), None)
    device = torch.device("cpu") if parameter is None else parameter.device

    def act(observation: Any) -> Array:
        if device.type != "cpu":
            observation = _to(observation, device)
        for step in steps:
            observation = step(observation)
        return observation.float().numpy(force=True)

    return act


def _to(observation: TensorObservation, device: torch.device) -> TensorObservation:
    if isinstance(observation, dict):
        return {key: leaf.to(device) for key, leaf in observation.items()}
    return observation.to(device)
