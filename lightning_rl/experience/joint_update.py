"""The gradient step of several networks and their targets: one program where that is possible."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from lightning_rl.experience.agent_state import Agent
from lightning_rl.functional.gradients import is_traceable
from lightning_rl.functional.joint_gradients import JointLoss, joint_gradient_function
from lightning_rl.functional.joint_updates import JointUpdate, joint_update_program
from lightning_rl.functional.optimizers import FlatAdam
from lightning_rl.functional.parameters import FlatParameters, polyak_update


def make_joint_update(
    agent: Agent,
    loss: JointLoss,
    networks: Sequence[nn.Module],
    optimizers: Sequence[FlatAdam],
    frozen: Sequence[nn.Module] = (),
    targets: Sequence[tuple[nn.Module, FlatParameters]] = (),
) -> JointUpdate:
    """Return the function from a loss's inputs to its statistics that makes one gradient step.

    It takes the gradients of all networks at the same parameters, steps every optimizer, and has
    each target follow its network by `agent.tau`. Compiled, that is one program; in three steps,
    to the same effect, where ranks exchange gradients in between, on other devices than a CPU, and
    with networks of somebody else's.

    Args:
        agent: With `flats`, the flat parameters of its networks, of which `networks` are the first.
        loss: See `joint_gradient_function`.
        networks: Those to train, in the order of the loss's arguments.
        optimizers: Of `flats`, in this order.
        frozen: Networks that the loss calls and that get no gradient.
        targets: Of the first networks, one for each: a module of `frozen` and its parameters.
    """
    flats: list[FlatParameters] = agent.flats[: len(networks)]
    if agent.compiled and _is_one_program(agent, (*networks, *frozen)):
        followers = [target for target, _ in targets]
        program = joint_update_program(
            loss, networks, flats, optimizers, frozen, followers, agent.tau if targets else 1.0
        )

        def update_at_once(*inputs: Any) -> Tensor:
            statistics = program(*inputs)
            agent.gradient_steps += 1
            return statistics

        return update_at_once

    gradient = joint_gradient_function(loss, networks, flats, agent.compiled, frozen)

    def update(*inputs: Any) -> Tensor:
        gradients, statistics = gradient(*inputs)
        agent.apply_gradients(flats, gradients)
        for (_, target), online in zip(targets, flats, strict=False):
            polyak_update(target, online, agent.tau)
        return statistics

    return update


def _is_one_program(agent: Agent, modules: Sequence[nn.Module]) -> bool:
    alone = agent.num_ranks == 1
    return alone and agent.device.type == "cpu" and all(map(is_traceable, modules))
