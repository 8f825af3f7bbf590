"""What off-policy algorithms with Box actions share between the environment and the networks."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium import spaces
from torch import Tensor, nn

from lightning_rl.errors import ConfigError
from lightning_rl.experience.agent_state import Agent
from lightning_rl.experience.collector import Act
from lightning_rl.networks.greedy import GreedyPolicy
from lightning_rl.networks.normalization import RunningNormalizer
from lightning_rl.types import Array, TensorObservation


def rescale_box_actions(agent: Agent) -> int:
    """Have the agent's actions rescaled from [-1, 1] to the bounds; return their dimensions.

    The environment's configuration is copied, since it may be shared.

    Raises:
        ConfigError: When the action space is no bounded Box of floats.
    """
    space, name = agent.action_space, type(agent).__name__
    is_float = isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating)
    if not is_float or not space.is_bounded():
        raise ConfigError(
            f"{name} expects a Box action space of floats with finite bounds, received {space}"
        )
    agent.env_config = copy.copy(agent.env_config)
    agent.env_config.action = "rescale"
    return int(np.prod(space.shape))


def make_observation_normalizer(agent: Agent) -> RunningNormalizer | None:
    """Return the one normaliser of actor and critics that `env.normalize_observation` asks for."""
    if not agent.env_config.normalize_observation:
        return None
    return RunningNormalizer(agent.observation_space)


def normalize(agent: Agent, observation: TensorObservation) -> TensorObservation:
    """Return observations `(B, *obs_shape)`, normalised if the run does that."""
    normalizer: RunningNormalizer | None = agent.observation_normalizer
    return observation if normalizer is None else normalizer(observation)


def normalize_minibatch(agent: Agent, minibatch: dict[str, Any]) -> dict[str, Any]:
    """Normalise the observations of a prepared minibatch, in place; return it."""
    if agent.observation_normalizer is not None:
        for name in ("observation", "next_observation"):
            minibatch[name] = agent.observation_normalizer(minibatch[name])
    return minibatch


def shape_actions(agent: Agent, actions: Any) -> Any:
    """Return actions `(N, A)` as `(N, *action_shape)`."""
    return actions.reshape(len(actions), *agent.action_space.shape)


def uniform_actions(agent: Agent, num_steps: int) -> Act:
    """Return the policy of the env steps before `learning_starts`: uniform in [-1, 1]."""
    shape = (num_steps, agent.env_config.num_envs, *agent.action_space.shape)
    random = agent.streams.numpy("exploration").random(shape, dtype=np.float32)
    actions = 2.0 * random - 1.0
    return lambda observation, step: actions[step]


def standard_normal(agent: Agent, *shape: int) -> Array:
    """Return exploration noise from the run's own stream, float32."""
    return agent.streams.numpy("exploration").standard_normal(shape, dtype=np.float32)


def greedy_policy(
    agent: Agent, actor: nn.Module, select: Callable[[Tensor], Tensor]
) -> GreedyPolicy:
    """Return the policy module: normaliser, actor, and `select` from its outputs to `(B, A)`."""
    normalizer = agent.observation_normalizer
    network = actor if normalizer is None else nn.Sequential(normalizer, actor)
    shape = agent.action_space.shape
    return GreedyPolicy(network, lambda outputs: select(outputs).unflatten(-1, shape))
