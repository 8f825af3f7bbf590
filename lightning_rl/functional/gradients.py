"""From a loss to a flat gradient: one pure function, run as it stands or compiled whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value

from lightning_rl.functional.compilation import compile_function
from lightning_rl.functional.parameters import FlatParameters, clip_by_global_norm

Loss = Callable[..., tuple[Tensor, Tensor]]
"""`loss(network, *frozen, *inputs) -> (scalar, statistics)`; calls networks like modules."""

Tensors = dict[str, Tensor]
GradientFunction = Callable[..., tuple[Tensor, Tensor]]
"""`gradient(*inputs) -> (flat gradient (P,), statistics and the gradient's norm)`."""


def gradient_function(
    loss: Loss,
    network: nn.Module,
    parameters: FlatParameters,
    compiled: bool,
    frozen: Sequence[nn.Module] = (),
    max_norm: float | None = None,
) -> GradientFunction:
    """Return the function from the loss's inputs to its gradient with respect to `network`.

    Compiled, forward pass, loss, backward pass, flattening and clipping are one program, which
    `torch.func` makes of a pure function of all tensors. Uncompiled, `torch.func` would cost as
    much as the update itself, so autograd does the same with the modules as they are.

    Args:
        loss: Reads nothing but its arguments; numbers that change from call to call (a clip range)
            must be tensors among them, so that they do not recompile.
        network: Module whose parameters are `parameters`.
        parameters: Flat view of the trainable parameters.
        compiled: Whether to compile.
        frozen: Networks that the loss calls and that get no gradient, such as a target network.
        max_norm: Clip the gradient to this norm; None for no clipping. The norm before clipping is
            appended to the statistics in any case.
    """
    if not compiled:
        return _eager(loss, network, parameters, frozen, max_norm)
    return _compiled(loss, network, parameters, frozen, max_norm)


def _clip(gradient: Tensor, statistics: Tensor, max_norm: float | None) -> tuple[Tensor, Tensor]:
    clipped, norm = clip_by_global_norm(gradient, float("inf") if max_norm is None else max_norm)
    return gradient if max_norm is None else clipped, torch.cat((statistics, norm.view(1)))


def _eager(
    loss: Loss,
    network: nn.Module,
    parameters: FlatParameters,
    frozen: Sequence[nn.Module],
    max_norm: float | None,
) -> GradientFunction:
    named = parameters.named

    def gradient(*inputs: Any) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            value, statistics = loss(network, *frozen, *inputs)
        gradients = torch.autograd.grad(value, list(named.values()))
        flat = parameters.flatten_gradients(dict(zip(named, gradients, strict=True)))
        return _clip(flat, statistics, max_norm)

    return gradient


def _compiled(
    loss: Loss,
    network: nn.Module,
    parameters: FlatParameters,
    frozen: Sequence[nn.Module],
    max_norm: float | None,
) -> GradientFunction:
    # Detached views of the same memory: autograd records nothing around the inner gradient.
    detached = {name: parameter.detach() for name, parameter in parameters.named.items()}

    def loss_of(
        values: Tensors, buffers: Tensors, frozen_tensors: list[Tensors], inputs: Any
    ) -> tuple[Tensor, Tensor]:
        online = stateless(network, {**values, **buffers})
        others = [stateless(*pair) for pair in zip(frozen, frozen_tensors, strict=True)]
        return loss(online, *others, *inputs)

    differentiate = grad_and_value(loss_of, has_aux=True)

    def whole(*arguments: Any) -> tuple[Tensor, Tensor]:
        gradients, (_, statistics) = differentiate(*arguments)
        return _clip(parameters.flatten_gradients(gradients), statistics, max_norm)

    traced = all(map(is_traceable, (network, *frozen)))
    buffers = dict(network.named_buffers())
    frozen_tensors = [tensors_of(module) for module in frozen]
    program = compile_function(whole, True, traced, (detached, buffers, frozen_tensors))
    return lambda *inputs: program(inputs)


def is_traceable(network: nn.Module) -> bool:
    """Return whether tracing once is enough: no recurrent cell, no module of somebody else's.

    Somebody's own module may act on Python state that changes from call to call.
    """
    return all(
        type(module).__module__.startswith(("torch.nn.", "lightning_rl."))
        and not isinstance(module, nn.RNNBase)
        for module in network.modules()
    )


def stateless(module: nn.Module, tensors: Tensors) -> Callable[..., Any]:
    """Return the module as a function that reads `tensors` instead of its own."""
    return lambda *arguments, **named: functional_call(module, tensors, arguments, named)


def tensors_of(module: nn.Module) -> Tensors:
    """Return parameters, detached, and buffers by name: views that see in-place updates."""
    return {
        **{name: parameter.detach() for name, parameter in module.named_parameters()},
        **dict(module.named_buffers()),
    }
