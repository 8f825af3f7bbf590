"""Deep Q-network.

Mnih et al. (2015), https://doi.org/10.1038/nature14236. Minimises the squared temporal-difference
error

    L = E[ (r + gamma * (1 - terminated) * max_a' Q_target(s', a') - Q(s, a))^2 ]

over transitions replayed uniformly. With `double` (van Hasselt et al., 2016,
https://arxiv.org/abs/1509.06461) the online network chooses a' and the target network values it.
Deviation from the paper: Adam instead of RMSprop, and truncated episodes bootstrap.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor
from torch.nn import functional as F

from lightning_rl.algorithms.base import Algorithm
from lightning_rl.buffers.replay import ReplayBuffer, Transitions
from lightning_rl.envs.config import EnvConfig, EnvLike
from lightning_rl.errors import ConfigError, check_choice, check_ranges
from lightning_rl.experience.collector import Act, Collector
from lightning_rl.experience.off_policy import OffPolicySource, unit_env_steps
from lightning_rl.experience.running_statistics import (
    absorb_observations,
    absorb_rewards,
    make_reward_normalizer,
)
from lightning_rl.functional.compilation import CompileChoice, resolve_compile
from lightning_rl.functional.gradients import GradientFunction, gradient_function
from lightning_rl.functional.optimizers import FlatAdam
from lightning_rl.functional.parameters import flatten_parameters, polyak_update
from lightning_rl.functional.returns import td_target
from lightning_rl.functional.schedules import linear
from lightning_rl.networks.acting import ActingFunction
from lightning_rl.networks.greedy import GreedyPolicy
from lightning_rl.networks.specification import NetworkSpec, network_factory
from lightning_rl.networks.values import QNetwork
from lightning_rl.types import Array, Statistics, TensorObservation

STATISTICS = ("train/td_loss", "train/mean_q")
TRAINING_TAGS = (*STATISTICS, "train/grad_norm")
LOSSES = {"mse": F.mse_loss, "huber": F.smooth_l1_loss}


def bootstrap_value(next_q_target: Tensor, next_q_online: Tensor | None) -> Tensor:
    """Return the value `(B,)` of the next observation from action values `(B, n)`.

    Args:
        next_q_target: The target network's.
        next_q_online: The online network's for double Q-learning, which chooses the action; None to
            take the target network's own maximum.
    """
    if next_q_online is None:
        return next_q_target.amax(-1)
    return next_q_target.gather(-1, next_q_online.argmax(-1, keepdim=True)).squeeze(-1)


def dqn_loss(
    network: Callable[[TensorObservation], Tensor],
    target_network: Callable[[TensorObservation], Tensor],
    minibatch: dict[str, Any],
    gamma: float,
    double: bool,
    loss: str,
) -> tuple[Tensor, Tensor]:
    """Return the loss to minimise and the vector of `STATISTICS`.

    Args:
        network: From observations to action values `(B, n)`; a `QNetwork`.
        target_network: The same with the target network's parameters.
        minibatch: `observation`, `next_observation` `(B, *obs_shape)`, `action (B,)` int64,
            `reward (B,)`, `terminated (B,)` bool.
        gamma: Discount in [0, 1].
        double: Double Q-learning.
        loss: A key of `LOSSES`.
    """
    q_values = network(minibatch["observation"])
    q_value = q_values.gather(-1, minibatch["action"].unsqueeze(-1)).squeeze(-1)
    with torch.no_grad():
        next_observation = minibatch["next_observation"]
        next_value = bootstrap_value(
            target_network(next_observation), network(next_observation) if double else None
        )
        target = td_target(minibatch["reward"], minibatch["terminated"], next_value, gamma)
    td_loss = LOSSES[loss](q_value, target)
    return td_loss, torch.stack((td_loss, q_value.mean())).detach()


class DQN(Algorithm):
    """Deep Q-network for Discrete actions, with double Q-learning as a flag.

    Logs `train/td_loss` and `train/mean_q` (means over minibatches; the latter of the replayed
    actions' values), `train/epsilon`, `train/learning_rate`, `train/grad_norm` (before clipping)
    and `rollout/mean_reward` (per step).

    Args:
        env: Environment id, `EnvConfig`, mapping of its fields, or a class or factory.
        total_env_steps: Budget in env steps over all environments and ranks; default 100,000.
        total_episodes: Budget in finished episodes instead.
        schedule_env_steps: Env steps that schedules span; default the first `total_env_steps`.
        seed: Default: the value of `seed_everything`, else drawn and recorded.
        capacity: Transitions in the replay buffer.
        batch_size: Transitions of a minibatch.
        learning_starts: Env steps before the first update.
        train_frequency: Env steps between two updates (a multiple of `env.num_envs`).
        gradient_steps: Minibatches of one update.
        target_update_interval: Env steps between two updates of the target network.
        tau: Weight of the online network in such an update, in (0, 1]; 1 copies it.
        double: Double Q-learning.
        loss: `mse`, or `huber` (with threshold 1).
        epsilon_start: First probability of a random action.
        epsilon_end: Last one.
        epsilon_fraction: Part of the schedule over which it falls linearly, in (0, 1].
        gamma: Discount in [0, 1].
        learning_rate: Of Adam, above 0.
        max_grad_norm: Largest norm of a gradient.
        hidden_sizes: Units of each hidden layer of the default network.
        network: Network class as `{class_path, init_args}`, import path, or from Python a class or
            factory called with (input size, number of actions); default an `MLP` with ReLU.
        env_steps_per_iteration: Env steps of one training unit, between which metrics, evaluation
            and checkpoints happen.
        compile: Compile the update: true, false, or `auto` by the gradient steps in the budget.

    Raises:
        ConfigError: For values outside their range or spaces that are not supported.
    """

    source: OffPolicySource
    gradient: GradientFunction
    q_values: ActingFunction
    target_updates: Tensor

    def __init__(
        self,
        env: EnvLike = EnvConfig("CartPole-v1"),  # noqa: B008 - never changed
        total_env_steps: int | None = None,
        total_episodes: int | None = None,
        schedule_env_steps: int | None = None,
        seed: int | None = None,
        capacity: int = 100_000,
        batch_size: int = 128,
        learning_starts: int = 1_000,
        train_frequency: int = 4,
        gradient_steps: int = 1,
        target_update_interval: int = 500,
        tau: float = 1.0,
        double: bool = False,
        loss: Literal["mse", "huber"] = "mse",
        epsilon_start: float = 1.0,
        epsilon_end: float = 0.05,
        epsilon_fraction: float = 0.2,
        gamma: float = 0.99,
        learning_rate: float = 2.5e-4,
        max_grad_norm: float = 10.0,
        hidden_sizes: tuple[int, ...] = (120, 84),
        network: NetworkSpec = None,
        env_steps_per_iteration: int = 1_000,
        compile: CompileChoice = "auto",
    ) -> None:
        super().__init__(env, total_env_steps, total_episodes, schedule_env_steps, seed)
        if not isinstance(self.action_space, spaces.Discrete):
            raise ConfigError(f"DQN expects a Discrete action space, received {self.action_space}")
        check_ranges(
            {
                "capacity": (capacity, 1, None),
                "batch_size": (batch_size, 1, None),
                "learning_starts": (learning_starts, 0, None),
                "train_frequency": (train_frequency, 1, None),
                "gradient_steps": (gradient_steps, 1, None),
                "target_update_interval": (target_update_interval, 1, None),
                "tau": (tau, 0.0, 1.0),
                "epsilon_start": (epsilon_start, 0.0, 1.0),
                "epsilon_end": (epsilon_end, 0.0, 1.0),
                "epsilon_fraction": (epsilon_fraction, 1e-9, 1.0),
                "gamma": (gamma, 0.0, 1.0),
                "learning_rate": (learning_rate, 0.0, None),
                "max_grad_norm": (max_grad_norm, 0.0, None),
                "env_steps_per_iteration": (env_steps_per_iteration, 1, None),
            }
        )
        check_choice("loss", loss, LOSSES)
        self.capacity, self.batch_size, self.learning_starts = capacity, batch_size, learning_starts
        self.train_frequency, self.gradient_steps_per_update = train_frequency, gradient_steps
        self.target_update_interval, self.tau = target_update_interval, tau
        self.double_q, self.loss, self.gamma = double, loss, gamma
        self.epsilon_start, self.epsilon_end = epsilon_start, epsilon_end
        self.epsilon_fraction = epsilon_fraction
        self.learning_rate, self.max_grad_norm = learning_rate, max_grad_norm
        self.env_steps_per_iteration = env_steps_per_iteration
        self.num_actions = int(self.action_space.n)
        with self.seeded_initialization():
            self.network = QNetwork(
                self.observation_space,
                self.num_actions,
                hidden_sizes,
                network=network_factory(network),
                normalize_observation=self.env_config.normalize_observation,
            )
        self.target_network = copy.deepcopy(self.network).requires_grad_(False)
        self.reward_normalizer = make_reward_normalizer(self.env_config, gamma)
        self.register_buffer("target_updates", torch.zeros((), dtype=torch.int64))
        budget = self.budget.env_steps
        updates = budget and budget // train_frequency * gradient_steps
        self.compiled = resolve_compile(compile, updates)

    @property
    def epsilon(self) -> float:
        """Probability of a random action now."""
        fraction = self.progress / self.epsilon_fraction
        return linear(self.epsilon_start, self.epsilon_end, fraction)

    @property
    def unit_env_steps(self) -> int:  # noqa: D102
        return unit_env_steps(
            self.env_config.num_envs, self.train_frequency, self.env_steps_per_iteration
        )

    def act(self, observation: TensorObservation, deterministic: bool = True) -> Array:  # noqa: D102
        with torch.no_grad():
            action = self.network(observation).argmax(-1).numpy(force=True)
        if deterministic:
            return action
        random = self.streams.numpy("exploration")
        explore = random.random(len(action)) < self.epsilon
        return np.where(explore, random.integers(self.num_actions, size=len(action)), action)

    def policy_module(self) -> GreedyPolicy:  # noqa: D102
        return GreedyPolicy(self.network, lambda q_values: q_values.argmax(-1))

    def begin_rollout(self, num_steps: int) -> Act:  # noqa: D102
        num_envs = self.env_config.num_envs
        uniform = self.streams.numpy("exploration").random((2, num_steps, num_envs))
        explore = uniform[0] < self.epsilon
        random_action = (uniform[1] * self.num_actions).astype(np.int64)
        exploring = explore.sum(axis=1).tolist()
        q_values = self.q_values

        def act(observation: TensorObservation, step: int) -> Array:
            if exploring[step] == num_envs:
                return random_action[step]
            greedy = q_values(observation).argmax(-1)
            if exploring[step] == 0:
                return greedy
            return np.where(explore[step], random_action[step], greedy)

        return act

    def build_source(self, collector: Collector) -> OffPolicySource:  # noqa: D102
        with self.precision_context():
            self.q_values = self.network.acting_function()
        replay = ReplayBuffer(self.capacity, self.observation_space, self.action_space)
        return OffPolicySource(
            self, collector, replay, self.train_frequency, self.env_steps_per_iteration
        )

    def training_step(self, minibatches: Iterable[Transitions], batch_idx: int) -> Statistics:
        """Interleave collecting with gradient steps on replayed minibatches, for one unit."""
        on_cpu = self.device.type == "cpu"
        for minibatch in minibatches:
            if not on_cpu:
                minibatch = {name: self.to_device(leaf) for name, leaf in minibatch.items()}
            if self.reward_normalizer is not None:
                minibatch["reward"] = self.reward_normalizer(minibatch["reward"])
            gradient, statistics = self.gradient(minibatch)
            self.apply_gradient(self.flat, gradient, self.max_grad_norm)
            self.statistics.add(TRAINING_TAGS, statistics)
            self.update_target()
        self.update_normalizers()
        return self.finish_update(
            {"train/epsilon": self.epsilon, "train/learning_rate": self.learning_rate}
        )

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return one fused Adam over all parameters as one flat tensor."""
        self.flat = flatten_parameters(self.network)
        loss = partial(dqn_loss, gamma=self.gamma, double=self.double_q, loss=self.loss)
        self.gradient = gradient_function(
            loss,
            self.network,
            self.flat,
            self.compiled,
            frozen=[self.target_network],
            max_norm=self.max_grad_norm if self.num_ranks == 1 else None,
        )
        return FlatAdam(self.flat.flat, self.learning_rate)

    def update_target(self) -> None:
        """Move the target network towards the online one when its interval has passed."""
        due = self.env_steps // self.target_update_interval
        if due > int(self.target_updates):
            polyak_update(self.target_network, self.network, self.tau)
            self.target_updates.fill_(due)

    def update_normalizers(self) -> None:
        """Add what this unit collected to the running statistics of observations and rewards."""
        normalizer, source = self.network.observation_normalizer, self.source
        if normalizer is None and self.reward_normalizer is None:
            return
        recent: dict[str, Any] = {
            name: self.to_device(leaf) for name, leaf in source.recent_transitions().items()
        }
        absorb_observations(self, normalizer, recent["observation"])
        if self.reward_normalizer is not None:
            # A buffer smaller than one unit may have lost the first rows of its oldest step.
            steps = len(recent["reward"]) // self.env_config.num_envs
            episode_end = recent["terminated"] | recent["truncated"]
            reward, episode_end = (
                column[-steps * self.env_config.num_envs :].view(steps, -1)
                for column in (recent["reward"], episode_end)
            )
            absorb_rewards(self, self.reward_normalizer, reward, episode_end)
