"""Policies with memory: an actor-critic behind one LSTM or GRU cell."""

from __future__ import annotations

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from lightning_rl.errors import check_choice
from lightning_rl.functional.masks import mask_logits, split_mask
from lightning_rl.functional.trees import map_tree
from lightning_rl.networks.encoders import make_encoder
from lightning_rl.networks.greedy import GreedyPolicy
from lightning_rl.networks.mlp import NetworkChoice
from lightning_rl.networks.normalization import RunningNormalizer
from lightning_rl.networks.policies import ActorCritic, visible_space
from lightning_rl.types import TensorObservation

CELLS = {"lstm": nn.LSTM, "gru": nn.GRU}
"""LSTM: Hochreiter and Schmidhuber (1997); GRU: Cho et al. (2014)."""


class RecurrentActorCritic(nn.Module):
    """Policy and state value of a history of observations.

    Observations are normalised and encoded, then one cell, shared by actor and critic, carries what
    is worth remembering. Its state is one float vector per row (for an LSTM hidden and cell state
    side by side); an episode begins with zeros.

    Attributes:
        state_size: Numbers of the state of one row, S.

    Args:
        observation_space: A leaf space or a flat Dict.
        action_space: Discrete, Box, MultiDiscrete or MultiBinary.
        cell: A key of `CELLS`.
        hidden_size: Units of the cell.
        actor: Network behind the cell; see `ActorCritic`.
        critic: The same for the value.
        hidden_sizes: Units of each hidden layer of the default networks.
        activation: Their activation.
        log_std_init: First log standard deviation of every dimension of a Box action.
        normalize_observation: Normalise float entries by running statistics.
        mask_actions: See `ActorCritic`.
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        cell: str = "lstm",
        hidden_size: int = 64,
        actor: NetworkChoice = None,
        critic: NetworkChoice = None,
        hidden_sizes: tuple[int, ...] = (64,),
        activation: str = "tanh",
        log_std_init: float = 0.0,
        normalize_observation: bool = False,
        mask_actions: bool = False,
    ) -> None:
        super().__init__()
        self.mask_actions = mask_actions
        if mask_actions:
            observation_space = visible_space(observation_space)
        check_choice("cell", cell, CELLS)
        self.observation_normalizer = (
            RunningNormalizer(observation_space) if normalize_observation else None
        )
        self.encoder = make_encoder(observation_space)
        self.memory = CELLS[cell](self.encoder.output_size, hidden_size, batch_first=True)
        for name, parameter in self.memory.named_parameters():
            if name.startswith("weight"):
                nn.init.orthogonal_(parameter)
            else:
                nn.init.zeros_(parameter)
        remembered = spaces.Box(-np.inf, np.inf, (hidden_size,), np.float32)
        self.heads = ActorCritic(
            remembered, action_space, actor, critic, hidden_sizes, activation, False, log_std_init
        )
        self.is_lstm = cell == "lstm"
        self.state_size = hidden_size * (2 if self.is_lstm else 1)

    def forward(
        self, observation: TensorObservation, state: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return what one step gives.

        Args:
            observation: `(B, *obs_shape)`.
            state: `(B, S)` float32, of before the observation.

        Returns:
            Distribution parameters `(B, P)`, values `(B,)` and the state `(B, S)` afterwards.
        """
        hidden, state = self.remember(observation, state)
        distribution, value = self.heads(hidden)
        return self._masked(distribution, observation), value, state

    def act(self, observation: TensorObservation, state: Tensor) -> tuple[Tensor, Tensor]:
        """Return `forward` without the values."""
        hidden, state = self.remember(observation, state)
        distribution = self.heads.distribution_parameters(hidden)
        return self._masked(distribution, observation), state

    def remember(self, observation: TensorObservation, state: Tensor) -> tuple[Tensor, Tensor]:
        """Return the cell's output `(B, H)` and its next state `(B, S)` after one step."""
        features, cell = self._features(observation), self.memory
        weights = cell.weight_ih_l0, cell.weight_hh_l0, cell.bias_ih_l0, cell.bias_hh_l0
        if self.is_lstm:
            hidden, memory = state.chunk(2, dim=-1)
            hidden, memory = torch.lstm_cell(features, (hidden, memory), *weights)
            return hidden, torch.cat((hidden, memory), dim=-1)
        hidden = torch.gru_cell(features, state, *weights)
        return hidden, hidden

    def sequence(self, observation: TensorObservation, state: Tensor) -> tuple[Tensor, Tensor]:
        """Return distribution parameters `(B, L, P)` and values `(B, L)` of whole sequences.

        Args:
            observation: `(B, L, *obs_shape)`, steps of one episode in order.
            state: `(B, S)`, of before the first of them.
        """
        rows, length = _leading(observation)
        features = self._features(map_tree(lambda leaf: leaf.flatten(0, 1), observation))
        # Contiguous states: cuDNN takes no others.
        parts = [part[None].contiguous() for part in state.chunk(2 if self.is_lstm else 1, -1)]
        first = (parts[0], parts[1]) if self.is_lstm else parts[0]
        hidden, _ = self.memory(features.view(rows, length, -1), first)
        distribution, value = self.heads(hidden.reshape(rows * length, -1))
        distribution = self._masked(distribution.view(rows, length, -1), observation)
        return distribution, value.view(rows, length)

    def _masked(self, distribution: Tensor, observation: TensorObservation) -> Tensor:
        mask = split_mask(observation, self.mask_actions)[1]
        return distribution if mask is None else mask_logits(distribution, mask)

    def _features(self, observation: TensorObservation) -> Tensor:
        observation, _ = split_mask(observation, self.mask_actions)
        if self.observation_normalizer is not None:
            observation = self.observation_normalizer(observation)
        return self.encoder(observation)


class GreedyRecurrentPolicy(GreedyPolicy):
    """The greedy policy with its state as an explicit input and output.

    Args:
        network: What it acts by.
        select: From distribution parameters to actions; tensor operations only.
    """

    network: RecurrentActorCritic

    def __init__(self, network: RecurrentActorCritic, select: object) -> None:
        super().__init__(network, select)  # type: ignore[arg-type]
        self.state_shape = (network.state_size,)

    def forward(  # type: ignore[override]  # the state is what it has in addition
        self, observation: TensorObservation, state: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the actions `(B, *action_shape)` and the next state `(B, S)`."""
        distribution, state = self.network.act(observation, state)
        return self.select(distribution), state


def _leading(observation: TensorObservation) -> tuple[int, int]:
    leaf = next(iter(observation.values())) if isinstance(observation, dict) else observation
    return leaf.shape[0], leaf.shape[1]
