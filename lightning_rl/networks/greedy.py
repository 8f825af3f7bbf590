"""The greedy policy as one module, as exported files hold it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from lightning_rl.types import TensorObservation


class GreedyPolicy(nn.Module):
    """From observations to the greedy policy's actions: a network and the choice from its outputs.

    Attributes:
        state_shape: Shape of a recurrent policy's state for one row, None without a state. A
            module with one maps `(observation, state (B, *state_shape) float32)` to `(action,
            state)`; an episode begins with zeros.

    Args:
        network: From observations `(B, *obs_shape)` to whatever `select` takes. Normalisation of
            observations is part of it.
        select: From the network's outputs to actions `(B, *action_shape)`; tensor operations only.
    """

    state_shape: tuple[int, ...] | None = None

    def __init__(self, network: nn.Module, select: Callable[[Any], Tensor]) -> None:
        super().__init__()
        self.network = network
        self.select = select

    def forward(self, observation: TensorObservation) -> Tensor:
        """Return the actions `(B, *action_shape)` of `(B, *obs_shape)`."""
        return self.select(self.network(observation))
