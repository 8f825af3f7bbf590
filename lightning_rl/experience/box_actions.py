"""What off-policy algorithms with Box actions share between the environment and the networks."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from lightning_rl.buffers.replay import Transitions
from lightning_rl.errors import ConfigError
from lightning_rl.experience.agent_state import Agent
from lightning_rl.experience.collector import Act, Collector
from lightning_rl.experience.hyperparameters import check_common_ranges, choose_learning_rates
from lightning_rl.experience.off_policy import (
    OffPolicySource,
    gradient_steps_in,
    make_source,
    prepare_minibatch,
)
from lightning_rl.experience.running_statistics import make_reward_normalizer
from lightning_rl.experience.state_dependent import StateDependentNoise
from lightning_rl.functional.compilation import resolve_compile
from lightning_rl.functional.soft_actor_critic import squashed_gaussian_array, squashed_mode
from lightning_rl.networks.actors import Actor, StateDependentActor
from lightning_rl.networks.greedy import GreedyPolicy
from lightning_rl.networks.normalization import RunningNormalizer
from lightning_rl.networks.specification import network_factory
from lightning_rl.types import Array, TensorObservation

_TAKEN = (
    "capacity",
    "batch_size",
    "learning_starts",
    "train_frequency",
    "tau",
    "gamma",
    "env_steps_per_iteration",
)


def take_arguments(agent: Agent) -> None:
    """Check and set what the constructors of all these algorithms take, under the same names.

    They are `capacity`, `batch_size`, `learning_starts`, `train_frequency`, `gradient_steps` (as
    `gradient_steps_per_update`, since agents count those), `tau`, `gamma`, `replay` (as
    `replay_spec`), `env_steps_per_iteration`, `compile` (resolved, as `compiled`), and the learning
    rates as one list of the critics', the actor's and, where there is one, the temperature's. The
    normalisers are those that the environment's configuration asks for.

    Raises:
        ConfigError: For values outside their range.
    """
    arguments: dict[str, Any] = agent._arguments
    check_common_ranges(arguments)
    for name in _TAKEN:
        setattr(agent, name, arguments.get(name))
    agent.gradient_steps_per_update = arguments["gradient_steps"]
    agent.replay_spec = arguments["replay"]
    names = [f"{network}_learning_rate" for network in ("critic", "actor", "alpha")]
    own = [arguments[name] for name in names if name in arguments]
    agent.learning_rates = choose_learning_rates(arguments["learning_rate"], *own)
    config, frequency = agent.env_config, arguments["train_frequency"]
    agent.observation_normalizer = (
        RunningNormalizer(agent.observation_space) if config.normalize_observation else None
    )
    agent.reward_normalizer = make_reward_normalizer(config, arguments["gamma"])
    updates = gradient_steps_in(agent.budget, frequency, arguments["gradient_steps"])
    agent.compiled = resolve_compile(arguments["compile"], updates)


def rescale_box_actions(agent: Agent) -> int:
    """Have the agent's actions rescaled from [-1, 1] to the bounds; return their dimensions.

    The environment's configuration is copied, since it may be shared.

    Raises:
        ConfigError: When the action space is no bounded Box of floats.
    """
    space, name = agent.action_space, type(agent).__name__
    is_float = isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating)
    if not is_float or not space.is_bounded() or not space.shape:
        raise ConfigError(
            f"{name} expects a Box action space of floats with finite bounds and a shape such as "
            f"(1,), received {space}"
        )
    agent.env_config = copy.copy(agent.env_config)
    agent.env_config.action = "rescale"
    return int(np.prod(space.shape))


def normalize(agent: Agent, observation: TensorObservation) -> TensorObservation:
    """Return observations `(B, *obs_shape)`, normalised if the run does that."""
    normalizer: RunningNormalizer | None = agent.observation_normalizer
    return observation if normalizer is None else normalizer(observation)


def prepared(agent: Agent, minibatches: Iterable[Transitions]) -> Iterator[dict[str, Any]]:
    """Yield minibatches on the agent's device, normalised if the run does that."""
    for transitions in minibatches:
        minibatch = prepare_minibatch(agent, transitions)
        if agent.observation_normalizer is not None:
            for name in ("observation", "next_observation"):
                minibatch[name] = agent.observation_normalizer(minibatch[name])
        yield minibatch


def update_noise(agent: Agent, *draws: int) -> Tensor:
    """Return standard normal noise `(*draws, B, A)` of an update, from the run's own stream."""
    shape = (*draws, agent.batch_size, agent.action_size)
    return torch.randn(shape, generator=agent.streams.torch("update")).to(agent.device)


def shape_actions(agent: Agent, actions: Any) -> Any:
    """Return actions `(N, A)` as `(N, *action_shape)`."""
    return actions.reshape(len(actions), *agent.action_space.shape)


def uniform_actions(agent: Agent, num_steps: int) -> Act:
    """Return the policy of the env steps before `learning_starts`: uniform in [-1, 1]."""
    shape = (num_steps, agent.env_config.num_envs, *agent.action_space.shape)
    random = agent.streams.numpy("exploration").random(shape, dtype=np.float32)
    actions = 2.0 * random - 1.0
    return lambda observation, step: actions[step]


def noisy_actions(agent: Agent, num_steps: int) -> Act:
    """Return the exploring policy of a deterministic actor: its action plus noise, cut to [-1, 1].

    Args:
        agent: With `action_noise`, and `policy`, the actor's outputs before `tanh`.
        num_steps: Steps of the rollout.
    """
    if agent.env_steps < agent.learning_starts:
        return uniform_actions(agent, num_steps)
    noise = agent.action_noise.draw(agent.streams, num_steps)
    policy = agent.policy

    def act(observation: TensorObservation, step: int) -> Array:
        action = np.tanh(policy(observation)) + noise[step]
        return shape_actions(agent, np.clip(action, -1.0, 1.0, out=action))

    return act


def act_with_noise(agent: Agent, observation: TensorObservation, deterministic: bool) -> Array:
    """Return a deterministic actor's actions, with Gaussian noise unless `deterministic`."""
    with torch.no_grad():
        action = torch.tanh(agent.actor(normalize(agent, observation))).numpy(force=True)
    if not deterministic:
        noise = standard_normal(agent, *action.shape) * agent.action_noise.scale
        action = np.clip(action + noise, -1.0, 1.0)
    return shape_actions(agent, action)


def make_squashed_actor(agent: Agent) -> Actor | StateDependentActor:
    """Return the actor of squashed Gaussians that `actor`, `hidden_sizes` and `use_sde` ask for.

    With `use_sde` the agent gets a `state_noise`, too.

    Raises:
        ConfigError: For values of `sde_sample_freq` and `hidden_sizes` that cannot work.
    """
    arguments: dict[str, Any] = agent._arguments
    space, sizes = agent.observation_space, tuple(arguments["hidden_sizes"])
    size, network = agent.action_size, network_factory(arguments["actor"])
    if not arguments["use_sde"]:
        return Actor(space, 2 * size, sizes, network)
    actor = StateDependentActor(space, size, sizes, network, arguments["log_std_init"])
    shape = (agent.env_config.num_envs, *actor.log_std.shape)
    agent.state_noise = StateDependentNoise(arguments["sde_sample_freq"], shape)
    return actor


def squashed_actions(agent: Agent, num_steps: int) -> Act:
    """Return the exploring policy of an actor of squashed Gaussians: samples of it.

    Args:
        agent: With `policy`, the actor's distribution parameters, or those of a state-dependent
            actor and a `state_noise`.
        num_steps: Steps of the rollout.
    """
    if agent.env_steps < agent.learning_starts:
        return uniform_actions(agent, num_steps)
    if isinstance(agent.actor, StateDependentActor):
        return _state_dependent_actions(agent, num_steps)
    noise = standard_normal(agent, num_steps, agent.env_config.num_envs, agent.action_size)
    policy = agent.policy
    return lambda observation, step: shape_actions(
        agent, squashed_gaussian_array(policy(observation), noise[step])
    )


def _state_dependent_actions(agent: Agent, num_steps: int) -> Act:
    std = agent.actor.log_std.detach().exp().numpy(force=True)
    noise = agent.state_noise.begin_rollout(agent.streams.numpy("exploration"), num_steps, std)
    policy, size = agent.policy, agent.action_size

    def act(observation: TensorObservation, step: int) -> Array:
        outputs = policy(observation)
        mean, features = outputs[:, :size], outputs[:, size:]
        return shape_actions(agent, np.tanh(mean + noise(features, step)))

    return act


def act_squashed(agent: Agent, observation: TensorObservation, deterministic: bool) -> Array:
    """Return the squashed mean of the actor's Gaussians, or samples of them.

    Samples have noise of their own in each row, also where training explores with `state_noise`.
    """
    with torch.no_grad():
        parameters = agent.actor(normalize(agent, observation)).cpu()
    if deterministic:
        return shape_actions(agent, squashed_mode(parameters).numpy())
    noise = standard_normal(agent, len(parameters), agent.action_size)
    return shape_actions(agent, squashed_gaussian_array(parameters.numpy(), noise))


def standard_normal(agent: Agent, *shape: int) -> Array:
    """Return exploration noise from the run's own stream, float32."""
    return agent.streams.numpy("exploration").standard_normal(shape, dtype=np.float32)


def acting_source(agent: Agent, collector: Collector) -> OffPolicySource:
    """Return the experience source; have the agent act by a lean function, its `policy`."""
    with agent.precision_context():
        agent.policy = agent.actor.acting_function(agent.observation_normalizer)
    return make_source(agent, collector)


def greedy_policy(
    agent: Agent, actor: nn.Module, select: Callable[[Tensor], Tensor]
) -> GreedyPolicy:
    """Return the policy module: normaliser, actor, and `select` from its outputs to `(B, A)`."""
    normalizer = agent.observation_normalizer
    network = actor if normalizer is None else nn.Sequential(normalizer, actor)
    shape = agent.action_space.shape
    return GreedyPolicy(network, lambda outputs: select(outputs).unflatten(-1, shape))
