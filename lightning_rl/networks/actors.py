"""Actors of off-policy methods for Box actions, and the temperature of maximum-entropy methods.

Actions lie in [-1, 1]; the environment layer rescales them to the space's bounds. Observations
come normalised already, since one normaliser serves actor and critics.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from gymnasium import spaces
from torch import Tensor, nn

from lightning_rl.errors import check_choice, check_ranges
from lightning_rl.networks.acting import ActingFunction, acting_function
from lightning_rl.networks.encoders import make_encoder
from lightning_rl.networks.mlp import MLP, build_network
from lightning_rl.types import TensorObservation


class Actor(nn.Module):
    """Encoder and network of a policy.

    Args:
        observation_space: A leaf space or a flat Dict.
        num_outputs: Numbers per row of the result.
        hidden_sizes: Units of each hidden layer of the default network.
        network: Class or function `(input_size, output_size) -> module`; None for an `MLP` with
            ReLU and PyTorch's default initialisation.
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        num_outputs: int,
        hidden_sizes: Sequence[int] = (256, 256),
        network: Callable[[int, int], nn.Module] | None = None,
    ) -> None:
        super().__init__()

        def default(input_size: int, output_size: int) -> MLP:
            return MLP(input_size, output_size, hidden_sizes, "relu", orthogonal=False)

        self.encoder = make_encoder(observation_space)
        self.network = build_network(network, default, self.encoder.output_size, num_outputs)

    def forward(self, observation: TensorObservation) -> Tensor:
        """Return `(B, num_outputs)` float32 of normalised observations `(B, *obs_shape)`."""
        return self.network(self.encoder(observation)).float()

    def acting_function(self, normalizer: nn.Module | None = None) -> ActingFunction:
        """Return `forward` as a lean function to NumPy, behind `normalizer` if there is one."""
        return acting_function(normalizer, self.encoder, self.network)


class Temperature(nn.Module):
    """The weight alpha of the policy's entropy, as its logarithm.

    Args:
        alpha: A number, at least 0, that stays; or `auto` to learn it.
        initial: First value with `auto`, above 0.

    Raises:
        ConfigError: For numbers outside their range.
    """

    def __init__(self, alpha: Literal["auto"] | float = "auto", initial: float = 1.0) -> None:
        super().__init__()
        if isinstance(alpha, str):
            check_choice("alpha", alpha, ("auto",))
        check_ranges(
            {
                "alpha": (None if isinstance(alpha, str) else alpha, 0.0, None),
                "initial_alpha": (initial, 1e-8, None),
            }
        )
        self.is_learned = isinstance(alpha, str)
        value = torch.tensor(initial if isinstance(alpha, str) else alpha, dtype=torch.float32)
        self.log_alpha = nn.Parameter(value.log(), requires_grad=self.is_learned)

    def forward(self) -> Tensor:
        """Return log alpha, a scalar."""
        return self.log_alpha
