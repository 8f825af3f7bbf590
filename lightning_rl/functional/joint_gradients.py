"""Gradients of several networks, each of its own loss, in one pure function; eager or compiled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_rl.functional.compilation import compile_function
from lightning_rl.functional.gradients import is_traceable, stateless, tensors_of
from lightning_rl.functional.parameters import FlatParameters

Tensors = dict[str, Tensor]
JointLoss = Callable[..., tuple[Sequence[Tensor], Tensor]]
"""`loss(*networks, *frozen, *inputs) -> (scalars, statistics)`: scalar i is minimised with respect
to network i alone, whatever else it depends on; scalars behind the last network are not."""

JointGradient = Callable[..., tuple[tuple[Tensor, ...], Tensor]]
"""`gradient(*inputs) -> (a flat gradient per network, statistics and the joint gradient's norm)`.
"""


def joint_gradient_function(
    loss: JointLoss,
    networks: Sequence[nn.Module],
    parameters: Sequence[FlatParameters],
    compiled: bool,
    frozen: Sequence[nn.Module] = (),
) -> JointGradient:
    """Return the function from the loss's inputs to the gradient of every network.

    All gradients are taken at the same parameters, before any of them is applied. Compiled, the
    forward passes, what the losses share of them, and all backward passes are one program, recorded
    from what autograd does; with guards where a network is not `is_traceable`.

    Args:
        loss: Reads nothing but its arguments; numbers that change from call to call must be tensors
            among them. Calls networks like modules.
        networks: Those to train, in the order of the loss's arguments and scalars.
        parameters: Flat view of each network's trainable parameters.
        compiled: Whether to compile.
        frozen: Networks that the loss calls and that get no gradient, such as a target network.
    """
    return (_compiled if compiled else _eager)(loss, networks, parameters, frozen)


def _eager(
    loss: JointLoss,
    networks: Sequence[nn.Module],
    parameters: Sequence[FlatParameters],
    frozen: Sequence[nn.Module],
) -> JointGradient:
    leaves: list[list[Tensor]] = [list(flat.named.values()) for flat in parameters]

    def gradient(*inputs: Any) -> tuple[tuple[Tensor, ...], Tensor]:
        with torch.enable_grad():
            losses, statistics = loss(*networks, *frozen, *inputs)
            parts, statistics = _differentiate(losses, leaves, statistics)
        return tuple(map(_flatten, parts)), statistics

    return gradient


def _compiled(
    loss: JointLoss,
    networks: Sequence[nn.Module],
    parameters: Sequence[FlatParameters],
    frozen: Sequence[nn.Module],
) -> JointGradient:
    modules = (*networks, *frozen)

    def whole(tensors: list[Tensors], inputs: Any) -> tuple[Tensor, ...]:
        parts, statistics = differentiate_functionally(loss, modules, parameters, tensors, inputs)
        return (*map(_flatten, parts), statistics)

    # Detached views of the same memory: in-place updates of the parameters are seen.
    tensors = [tensors_of(module) for module in modules]
    program = compile_function(whole, True, all(map(is_traceable, modules)), [tensors])

    def gradient(*inputs: Any) -> tuple[tuple[Tensor, ...], Tensor]:
        *gradients, statistics = program(inputs)
        return tuple(gradients), statistics

    return gradient


def differentiate_functionally(
    loss: JointLoss,
    modules: Sequence[nn.Module],
    parameters: Sequence[FlatParameters],
    tensors: Sequence[Tensors],
    inputs: Any,
) -> tuple[list[list[Tensor]], Tensor]:
    """Return every network's gradients, parameter by parameter, and statistics with their norm.

    Args:
        loss: See `joint_gradient_function`.
        modules: Networks and frozen ones, called with `tensors` in place of their own.
        parameters: Of the networks, which come first.
        tensors: By name, of each module.
        inputs: Of the loss.
    """
    leaves = [
        [values[name].detach().requires_grad_() for name in flat.named]
        for values, flat in zip(tensors, parameters, strict=False)
    ]
    trained: list[Tensors] = [
        dict(zip(flat.named, group, strict=True))
        for flat, group in zip(parameters, leaves, strict=True)
    ]
    trained += [{}] * (len(modules) - len(parameters))
    calls = [
        stateless(module, {**values, **own})
        for module, values, own in zip(modules, tensors, trained, strict=True)
    ]
    with torch.enable_grad():
        losses, statistics = loss(*calls, *inputs)
        return _differentiate(losses, leaves, statistics)


def _differentiate(
    losses: Sequence[Tensor], leaves: Sequence[Sequence[Tensor]], statistics: Tensor
) -> tuple[list[list[Tensor]], Tensor]:
    parts = []
    for index, (loss, group) in enumerate(zip(losses, leaves, strict=False)):
        # The losses share parts of the graph, which the last one may free.
        retain = index + 1 < len(leaves)
        parts.append(list(torch.autograd.grad(loss, group, retain_graph=retain)))
    squares = torch.stack([part.square().sum() for group in parts for part in group])
    return parts, torch.cat((statistics, squares.sum().sqrt().view(1)))


def _flatten(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat([part.reshape(-1) for part in parts])
