"""Policies: actor networks, and the actor-critic module that on-policy algorithms train."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from lightning_rl.errors import ConfigError
from lightning_rl.functional.masks import (
    ACTION_MASK,
    mask_logits,
    mask_logits_array,
    split_mask,
    visible,
)
from lightning_rl.functional.parameters import check_unique_names
from lightning_rl.networks.acting import ActingFunction, acting_function
from lightning_rl.networks.distributions import make_action_head
from lightning_rl.networks.encoders import make_encoder
from lightning_rl.networks.mlp import MLP, NetworkChoice, build_network
from lightning_rl.networks.normalization import RunningNormalizer
from lightning_rl.networks.values import MLPCritic, ObservationFunction, chain_inference
from lightning_rl.types import Array, TensorObservation


class MLPActor(MLP):
    """Policy network: an `MLP` whose last layer starts with gain 0.01, for a near uniform start.

    Args:
        input_size: Features per row.
        output_size: Numbers per row that the action head asks for.
        hidden_sizes: Units of each hidden layer.
        activation: A key of `ACTIVATIONS`.
        output_gain: Gain of the last layer.
        orthogonal: See `MLP`.
    """

    def __init__(
        self,
        input_size: int,
        output_size: int,
        hidden_sizes: Sequence[int] = (64, 64),
        activation: str = "tanh",
        output_gain: float = 0.01,
        orthogonal: bool = True,
    ) -> None:
        super().__init__(input_size, output_size, hidden_sizes, activation, output_gain, orthogonal)


class ActorCritic(nn.Module):
    """Policy and state-value networks for one observation and one action space.

    An encoder with parameters (images) is shared by both networks; with `shared_trunk` they also
    share the hidden layers and keep one linear layer each. Every parameter has exactly one name.

    Args:
        observation_space: A leaf space or a flat Dict.
        action_space: Discrete, Box, MultiDiscrete or MultiBinary.
        actor: A module, or a class or function `(input_size, output_size) -> module`; None for an
            `MLPActor`.
        critic: The same with `output_size` 1; None for an `MLPCritic`.
        hidden_sizes: Units of each hidden layer of the default networks or of the trunk.
        activation: Activation of the default networks and of the trunk.
        shared_trunk: One stack of hidden layers for actor and critic.
        log_std_init: First log standard deviation of every dimension of a Box action.
        normalize_observation: Normalise float entries by running statistics.
        mask_actions: Observations hold the mask of valid actions; it is no input of the networks,
            and leaves the others no probability.

    Raises:
        ConfigError: A space is not supported, or actor and critic share a parameter.
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        actor: NetworkChoice = None,
        critic: NetworkChoice = None,
        hidden_sizes: Sequence[int] = (64, 64),
        activation: str = "tanh",
        shared_trunk: bool = False,
        log_std_init: float = 0.0,
        normalize_observation: bool = False,
        mask_actions: bool = False,
    ) -> None:
        super().__init__()
        self.mask_actions = mask_actions
        if mask_actions:
            observation_space = visible_space(observation_space)
        head = make_action_head(action_space)
        sizes = tuple(hidden_sizes)
        self.observation_normalizer = (
            RunningNormalizer(observation_space) if normalize_observation else None
        )
        self.encoder = make_encoder(observation_space)
        self.trunk: MLP | None = None
        width = self.encoder.output_size
        if shared_trunk:
            self.trunk = _make_trunk(width, sizes, activation)
            width, sizes = sizes[-1], ()

        def default_actor(input_size: int, output_size: int) -> MLPActor:
            return MLPActor(input_size, output_size, sizes, activation)

        def default_critic(input_size: int, output_size: int) -> MLPCritic:
            return MLPCritic(input_size, output_size, sizes, activation)

        self.actor = build_network(actor, default_actor, width, head.num_outputs)
        self.critic = build_network(critic, default_critic, width, 1)
        self.log_std: nn.Parameter | None = None
        if head.has_log_std:
            self.log_std = nn.Parameter(torch.full((head.num_outputs,), float(log_std_init)))
        try:
            check_unique_names(self)
        except ValueError as error:
            raise ConfigError(f"{error}; set shared_trunk for a shared trunk") from None

    def forward(self, observation: TensorObservation) -> tuple[Tensor, Tensor]:
        """Return distribution parameters `(B, P)` and values `(B,)` of `(B, *obs_shape)`."""
        seen, mask = split_mask(observation, self.mask_actions)
        features = self._features(seen)
        return self._distribution_parameters(features, mask), self._value(features)

    def distribution_parameters(self, observation: TensorObservation) -> Tensor:
        """Return the distribution parameters `(B, P)` float32 for the action head."""
        seen, mask = split_mask(observation, self.mask_actions)
        return self._distribution_parameters(self._features(seen), mask)

    def value(self, observation: TensorObservation) -> Tensor:
        """Return the values `(B,)` float32."""
        return self._value(self._features(split_mask(observation, self.mask_actions)[0]))

    def inference_function(self) -> ObservationFunction:
        """Return a lean `distribution_parameters` for acting; see `MLP.inference_function`."""
        actor = chain_inference(self.observation_normalizer, self.encoder, self.trunk, self.actor)
        if self.mask_actions:
            return _masked(actor)
        if self.log_std is None:
            return actor
        log_std = self.log_std.detach()
        return lambda observation: _append_log_std(actor(observation), log_std)

    def acting_function(self) -> ActingFunction:
        """Return `distribution_parameters` as a lean function to NumPy; see `acting_function`."""
        modules = (self.observation_normalizer, self.encoder, self.trunk, self.actor)
        outputs = acting_function(*modules)
        if self.mask_actions:
            return _with_mask(outputs)
        return outputs if self.log_std is None else _with_log_std(outputs, self.log_std)

    def _features(self, observation: TensorObservation) -> Tensor:
        if self.observation_normalizer is not None:
            observation = self.observation_normalizer(observation)
        features = self.encoder(observation)
        return features if self.trunk is None else self.trunk(features)

    def _distribution_parameters(self, features: Tensor, mask: Tensor | None = None) -> Tensor:
        outputs = self.actor(features).float()
        if mask is not None:
            return mask_logits(outputs, mask)
        return outputs if self.log_std is None else _append_log_std(outputs, self.log_std)

    def _value(self, features: Tensor) -> Tensor:
        return self.critic(features).float().squeeze(-1)


def visible_space(observation_space: spaces.Space) -> spaces.Space:
    """Return the space of what networks see of observations with masks.

    Raises:
        ConfigError: Observations have no masks.
    """
    if (
        not isinstance(observation_space, spaces.Dict)
        or ACTION_MASK not in observation_space.spaces
    ):
        raise ConfigError(
            f"mask_actions: expected observations with an entry {ACTION_MASK!r}, received the "
            f"space {observation_space}"
        )
    seen: Any = visible(observation_space.spaces)
    return spaces.Dict(seen) if isinstance(seen, dict) else seen


def _masked(outputs: ObservationFunction) -> ObservationFunction:
    def act(observation: Any) -> Tensor:
        return mask_logits(outputs(visible(observation)), observation[ACTION_MASK])

    return act


def _with_mask(outputs: ActingFunction) -> ActingFunction:
    def act(observation: Any) -> Array:
        return mask_logits_array(outputs(visible(observation)), observation[ACTION_MASK].numpy())

    return act


def _with_log_std(outputs: ActingFunction, log_std: Tensor) -> ActingFunction:
    log_std = log_std.detach()

    def act(observation: TensorObservation) -> Array:
        mean, row = outputs(observation), log_std.numpy(force=True)  # of this moment
        return np.concatenate((mean, np.broadcast_to(row, mean.shape)), axis=-1)

    return act


def _append_log_std(mean: Tensor, log_std: Tensor) -> Tensor:
    """Return `cat(mean, log_std)` as `(B, 2A)`."""
    return torch.cat((mean, log_std.expand_as(mean)), dim=-1)


def _make_trunk(input_size: int, sizes: tuple[int, ...], activation: str) -> MLP:
    if not sizes:
        raise ConfigError(
            "expected hidden_sizes with at least one layer for a shared trunk, got none"
        )
    return MLP(input_size, sizes[-1], sizes[:-1], activation, math.sqrt(2.0), activate_output=True)
