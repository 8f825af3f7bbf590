"""Value networks: state values for actor-critic methods and action values for Q-learning."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from gymnasium import spaces
from torch import Tensor, nn

from lightning_rl.errors import ConfigError
from lightning_rl.networks.acting import ActingFunction, acting_function
from lightning_rl.networks.dueling import DuelingMLP
from lightning_rl.networks.encoders import IdentityEncoder, make_encoder
from lightning_rl.networks.mlp import (
    MLP,
    NetworkChoice,
    build_network,
    inference_function_of,
    linear_layers,
)
from lightning_rl.networks.normalization import RunningNormalizer
from lightning_rl.types import TensorObservation

ObservationFunction: TypeAlias = Callable[[TensorObservation], Tensor]


class MLPCritic(MLP):
    """State-value network: an `MLP` whose last layer starts with gain 1.

    Args:
        input_size: Features per row.
        output_size: Numbers per row, 1 for a state value.
        hidden_sizes: Units of each hidden layer.
        activation: A key of `ACTIVATIONS`.
        output_gain: Gain of the last layer.
        orthogonal: See `MLP`.
    """

    def __init__(
        self,
        input_size: int,
        output_size: int = 1,
        hidden_sizes: Sequence[int] = (64, 64),
        activation: str = "tanh",
        output_gain: float = 1.0,
        orthogonal: bool = True,
    ) -> None:
        super().__init__(input_size, output_size, hidden_sizes, activation, output_gain, orthogonal)


class QNetwork(nn.Module):
    """Action values `(B, num_actions)` of an observation (Mnih et al., 2015).

    With `num_atoms` the result is `(B, num_actions, num_atoms)`: several numbers for each action,
    such as the logits or quantiles of a distribution of returns.

    Args:
        observation_space: A leaf space or a flat Dict.
        num_actions: Size of the Discrete action space.
        hidden_sizes: Units of each hidden layer of the default network.
        activation: Activation of the default network.
        network: A module, or a class or function `(input_size, output_size) -> module`; None for an
            `MLP` with PyTorch's default initialisation, as in CleanRL and SB3.
        normalize_observation: Normalise float entries by running statistics.
        num_atoms: Numbers per action; None for one, without a dimension of its own.
        dueling: Dueling streams in the default network.
        noisy: Noisy layers in the default network.
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        num_actions: int,
        hidden_sizes: Sequence[int] = (120, 84),
        activation: str = "relu",
        network: NetworkChoice = None,
        normalize_observation: bool = False,
        num_atoms: int | None = None,
        dueling: bool = False,
        noisy: bool = False,
    ) -> None:
        super().__init__()
        if network is not None and (dueling or noisy):
            raise ConfigError("dueling and noisy shape the default network; leave out network")
        self.num_atoms = num_atoms
        atoms = 1 if num_atoms is None else num_atoms

        def default(input_size: int, output_size: int) -> nn.Module:
            if dueling:
                return DuelingMLP(input_size, num_actions, hidden_sizes, atoms, activation, noisy)
            linear = linear_layers(noisy)
            return MLP(
                input_size, output_size, hidden_sizes, activation, orthogonal=False, linear=linear
            )

        self.observation_normalizer = (
            RunningNormalizer(observation_space) if normalize_observation else None
        )
        self.encoder = make_encoder(observation_space)
        self.network = build_network(
            network, default, self.encoder.output_size, num_actions * atoms
        )

    def forward(self, observation: TensorObservation) -> Tensor:
        """Return the action values `(B, num_actions)` float32 of `(B, *obs_shape)`."""
        if self.observation_normalizer is not None:
            observation = self.observation_normalizer(observation)
        values = self.network(self.encoder(observation)).float()
        return values if self.num_atoms is None else values.unflatten(-1, (-1, self.num_atoms))

    def acting_function(self) -> ActingFunction:
        """Return `forward` as a lean function to NumPy, flat `(B, ...)`; see `acting_function`."""
        return acting_function(self.observation_normalizer, self.encoder, self.network)

    def inference_function(self) -> ObservationFunction:
        """Return a lean function equal to `forward`, for acting; see `MLP.inference_function`."""
        return chain_inference(self.observation_normalizer, self.encoder, self.network)


def chain_inference(*modules: nn.Module | None) -> ObservationFunction:
    """Return a lean function that applies the modules in turn, without gradients, to float32.

    Args:
        *modules: None and encoders that change nothing are left out.
    """
    steps: list[Callable[[Any], Tensor]] = [
        inference_function_of(module)
        for module in modules
        if module is not None and not isinstance(module, IdentityEncoder)
    ]
    if len(steps) == 1:
        only = steps[0]
        return lambda observation: only(observation).float()

    def run(observation: TensorObservation) -> Tensor:
        result: Any = observation
        for step in steps:
            result = step(result)
        return result.float()

    return torch.no_grad()(run)
