"""Networks as NumPy functions, for acting on a CPU.

Between two env steps, which are Python and NumPy, a PyTorch call finds its code evicted from the
processor's caches: a small policy that takes 30 µs in a loop of its own took 80 µs there, and 20 µs
as the same matrix products in NumPy (docs/performance.md). What is learned from is computed in
PyTorch, from the stored observations and actions.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import nn

from lightning_rl.networks.encoders import IdentityEncoder
from lightning_rl.networks.mlp import MLP, inference_function_of
from lightning_rl.networks.noisy import has_noise
from lightning_rl.networks.normalization import EPS, RunningNormalizer
from lightning_rl.types import Array, TensorObservation

ActingFunction: TypeAlias = Callable[[TensorObservation], Array]
"""From observations `(N, *obs_shape)` to outputs `(N, P)` float32, valid until the next call."""

ArrayFunction: TypeAlias = Callable[[Array], Array]

_ZERO = np.zeros((), dtype=np.float32)  # NumPy would convert a Python number at every call

_ACTIVATIONS: dict[str, ArrayFunction] = {
    "tanh": lambda x: np.tanh(x, out=x),
    "relu": lambda x: np.maximum(x, _ZERO, out=x),
    "identity": lambda x: x,
}
"""Name to in-place function; networks with other activations act in PyTorch."""


def acting_function(*modules: nn.Module | None) -> ActingFunction:
    """Return the function that applies `modules` in turn, in NumPy where that is possible.

    Weights and running statistics are read through views, so in-place updates are seen; make a new
    function when their data are replaced, and when the noise of noisy layers has changed. Under
    autocast the result is PyTorch's, since acting must round as the update does.

    Args:
        *modules: None is left out. On a CPU, float32 `MLP`s that store their weights or have noise,
            the normaliser of a plain observation, encoders that change nothing and modules with an
            `array_function` method run in NumPy; one other module, and all run in PyTorch.
    """
    present = [m for m in modules if m is not None and not isinstance(m, IdentityEncoder)]
    functions = [_array_function(module) for module in present]
    if torch.is_autocast_enabled("cpu") or any(function is None for function in functions):
        return _tensor_function(present)
    steps: list[Any] = functions
    seen: Any = None
    array: Any = None

    def act(observation: Any) -> Array:
        nonlocal seen, array
        if observation is not seen:  # between env steps it is the same tensor, rewritten in place
            seen, array = observation, observation.numpy()
        result = array
        for step in steps:
            result = step(result)
        return result

    return act


def _array_function(module: nn.Module) -> ArrayFunction | None:
    if any(tensor.device.type != "cpu" for tensor in chain(module.parameters(), module.buffers())):
        return None
    if isinstance(module, RunningNormalizer) and set(module.leaves) == {"observation"}:
        return _normalizer_function(module)
    if type(module).forward is MLP.forward and module.activation in _ACTIVATIONS:
        readable = module.stores_weights or has_noise(module)
        return _mlp_function(module) if readable else None
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
    # Biases are rows `(1, P)`: for one environment NumPy need not broadcast, which halves the time.
    layers = [(x.weight.detach().numpy().T, x.bias.detach().numpy()[None]) for x in module.layers]
    hidden = _ACTIVATIONS[module.activation]
    activations = [hidden] * len(layers)
    if not module.activate_output:
        activations[-1] = _ACTIVATIONS["identity"]
    prepared: dict[int, list[tuple[Array, Array, Array, ArrayFunction]]] = {}

    def run(x: Array) -> Array:
        steps = prepared.get(len(x))
        if steps is None:
            steps = prepared[len(x)] = [
                (weight, bias, np.empty((len(x), bias.shape[1]), np.float32), activate)
                for (weight, bias), activate in zip(layers, activations, strict=True)
            ]
        for weight, bias, output, activate in steps:
            x = activate(np.add(np.dot(x, weight, out=output), bias, out=output))
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
