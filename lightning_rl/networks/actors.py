"""Actors of off-policy methods for Box actions, and the temperature of maximum-entropy methods.

Actions lie in [-1, 1]; the environment layer rescales them to the space's bounds. Observations
come normalised already, since one normaliser serves actor and critics.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from lightning_rl.errors import ConfigError, check_choice, check_ranges
from lightning_rl.networks.acting import ActingFunction, ArrayFunction, acting_function
from lightning_rl.networks.encoders import make_encoder
from lightning_rl.networks.mlp import MLP, build_network
from lightning_rl.types import Array, TensorObservation

MEAN_LIMIT = 2.0
"""Largest magnitude of a state-dependent actor's mean, before `tanh`; as in SB3's SAC.

SB3 cuts the mean there. Approached smoothly it keeps a gradient: cut, 4 of 9 runs on a probe
environment ended with a mean that could no longer move; smoothly, none of the same 9.
"""
VARIANCE_FLOOR = 1e-6
"""Added to a state-dependent variance, which is 0 where all features are; as in SB3."""


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


class StateDependentActor(nn.Module):
    """Policy whose noise is a linear function of its last features (gSDE).

    Raffin et al., 2022, https://arxiv.org/abs/2005.05719. With features z(s), the action before
    `tanh` is `mean(z) + z @ W`, where each entry of the matrix W `(F, A)` is normal with a standard
    deviation of its own, which is learned. While W is kept, the same observation gets the same
    noise. Over all W the action is normal with variance `z^2 @ exp(2 log_std)`, which is what the
    update works with, gradients to the features included.

    Args:
        observation_space: A leaf space or a flat Dict.
        action_size: A.
        hidden_sizes: Units of each hidden layer; the last are the features, F.
        network: Class or function `(input_size, F) -> module` that makes the features; None for an
            `MLP` with ReLU, also behind its last layer, and PyTorch's default initialisation.
        log_std_init: First logarithm of all standard deviations.

    Raises:
        ConfigError: Without hidden layers.
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_size: int,
        hidden_sizes: Sequence[int] = (256, 256),
        network: Callable[[int, int], nn.Module] | None = None,
        log_std_init: float = -3.0,
    ) -> None:
        super().__init__()
        if not hidden_sizes:
            raise ConfigError("expected hidden_sizes with at least one layer for use_sde, got none")
        *hidden, num_features = hidden_sizes

        def default(input_size: int, output_size: int) -> MLP:
            return MLP(
                input_size, output_size, hidden, "relu", orthogonal=False, activate_output=True
            )

        self.encoder = make_encoder(observation_space)
        self.network = build_network(network, default, self.encoder.output_size, num_features)
        self.mean = nn.Linear(num_features, action_size)
        self.log_std = nn.Parameter(torch.full((num_features, action_size), float(log_std_init)))

    def forward(self, observation: TensorObservation) -> Tensor:
        """Return mean and log standard deviation `(B, 2A)` float32 before `tanh`."""
        features = self.network(self.encoder(observation)).float()
        mean = _limited(self.mean(features)).float()
        variance = features.square() @ (2.0 * self.log_std).exp()
        return torch.cat((mean, 0.5 * (variance.float() + VARIANCE_FLOOR).log()), dim=-1)

    def acting_function(self, normalizer: nn.Module | None = None) -> ActingFunction:
        """Return a lean function to mean and features `(N, A + F)`; noise is the caller's affair.

        Args:
            normalizer: Of observations, if there is one.
        """
        return acting_function(normalizer, self.encoder, self.network, _MeanAndFeatures(self.mean))


def _limited(mean: Tensor) -> Tensor:
    return MEAN_LIMIT * torch.tanh(mean / MEAN_LIMIT)


class _MeanAndFeatures(nn.Module):
    """From features `(B, F)` to `cat(mean, features)`."""

    def __init__(self, mean: nn.Linear) -> None:
        super().__init__()
        self.mean = mean

    def forward(self, features: Tensor) -> Tensor:
        mean = _limited(self.mean(features))
        return torch.cat((mean.float(), features.float()), dim=-1)

    def array_function(self, make: Callable[[nn.Module], Any]) -> ArrayFunction:
        """Return `forward` on NumPy arrays."""
        weight, bias = self.mean.weight.detach().numpy().T, self.mean.bias.detach().numpy()

        def run(features: Array) -> Array:
            mean = MEAN_LIMIT * np.tanh((features @ weight + bias) / MEAN_LIMIT)
            return np.concatenate((mean, features), axis=1)

        return run


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
