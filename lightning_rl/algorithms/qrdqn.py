"""Quantile-regression deep Q-network, QR-DQN.

Dabney, Rowland, Bellemare and Munos (2018), https://arxiv.org/abs/1710.10044. Learns quantiles
q_1(s, a) .. q_K(s, a) of the distribution of returns. Minimises

    L = E[ sum_i mean_j | tau_i - 1(u_ij < 0) | huber(u_ij) ],
    u_ij = r + gamma * (1 - terminated) * q_target_j(s', a*) - q_i(s, a)

with midpoints tau_i = (i - 1/2) / K, threshold 1, and a* the action whose target quantiles have the
largest mean. Deviation from the paper: truncated episodes bootstrap.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lightning_rl.algorithms.base import Algorithm
from lightning_rl.buffers.frames import make_replay
from lightning_rl.buffers.replay import Transitions
from lightning_rl.envs.config import EnvConfig, EnvLike
from lightning_rl.experience.collector import Act, Collector
from lightning_rl.experience.exploration import EpsilonGreedy, scheduled
from lightning_rl.experience.hyperparameters import check_common_ranges, num_discrete_actions
from lightning_rl.experience.off_policy import (
    OffPolicySource,
    gradient_steps_in,
    unit_env_steps,
    value_step,
)
from lightning_rl.experience.running_statistics import absorb_unit, make_reward_normalizer
from lightning_rl.functional.compilation import CompileChoice, resolve_compile
from lightning_rl.functional.distributional import (
    of_action,
    quantile_huber_loss,
    quantile_midpoints,
)
from lightning_rl.functional.gradients import GradientFunction, gradient_function
from lightning_rl.functional.optimizers import FlatAdam
from lightning_rl.functional.parameters import flatten_parameters
from lightning_rl.functional.returns import td_target
from lightning_rl.networks.acting import ActingFunction
from lightning_rl.networks.greedy import GreedyPolicy
from lightning_rl.networks.specification import NetworkSpec, network_factory
from lightning_rl.networks.target import IntervalUpdate
from lightning_rl.networks.values import QNetwork
from lightning_rl.types import Array, Statistics, TensorObservation

TAGS = ("train/td_loss", "train/mean_q", "train/grad_norm")


def qrdqn_loss(
    network: Callable[[TensorObservation], Tensor],
    target_network: Callable[[TensorObservation], Tensor],
    minibatch: dict[str, Any],
    midpoints: Tensor,
    gamma: float,
) -> tuple[Tensor, Tensor]:
    """Return the loss to minimise and the vector of itself and the mean value.

    Args:
        network: From observations to quantiles `(B, n, K)`; a `QNetwork`.
        target_network: The same with the target network's parameters.
        minibatch: `observation`, `next_observation` `(B, *obs_shape)`, `action (B,)` int64,
            `reward (B,)`, `terminated (B,)` bool.
        midpoints: `(K,)` fractions that the quantiles stand for.
        gamma: Discount in [0, 1].
    """
    quantiles = of_action(network(minibatch["observation"]), minibatch["action"])
    with torch.no_grad():
        next_quantiles = target_network(minibatch["next_observation"])
        next_quantiles = of_action(next_quantiles, next_quantiles.mean(-1).argmax(-1))
        reward, terminated = (
            minibatch[name].unsqueeze(-1).expand_as(next_quantiles)
            for name in ("reward", "terminated")
        )
        target = td_target(reward, terminated, next_quantiles, gamma)
    loss = quantile_huber_loss(quantiles, target, midpoints).mean()
    return loss, torch.stack((loss, quantiles.mean())).detach()


class QRDQN(Algorithm):
    """Quantile-regression deep Q-network for Discrete actions.

    Logs `train/td_loss` (the quantile Huber loss) and `train/mean_q` (means over minibatches; the
    latter of all quantiles of the replayed actions), `train/epsilon`, `train/learning_rate`,
    `train/grad_norm` (before clipping) and `rollout/mean_reward` (per step).

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
        num_quantiles: K, at least 1.
        epsilon_start: First probability of a random action.
        epsilon_end: Last one.
        epsilon_fraction: Part of the schedule over which it falls linearly, in (0, 1].
        gamma: Discount in [0, 1].
        learning_rate: Of Adam (eps 0.01 / batch_size, as published), at least 0.
        max_grad_norm: Largest norm of a gradient.
        hidden_sizes: Units of each hidden layer of the default network.
        network: Network class as `{class_path, init_args}`, import path, or from Python a class or
            factory called with (input size, actions times quantiles); default an `MLP` with ReLU.
        env_steps_per_iteration: Env steps of one training unit, between which metrics, evaluation
            and checkpoints happen.
        compile: Compile the update: true, false, or `auto` by the gradient steps in the budget.

    Raises:
        ConfigError: For values outside their range or spaces that are not supported.
    """

    source: OffPolicySource
    gradient: GradientFunction
    quantiles: ActingFunction
    midpoints: Tensor

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
        num_quantiles: int = 50,
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
        num_actions = num_discrete_actions("QRDQN", self.action_space)
        check_common_ranges(self._arguments)
        self.capacity, self.batch_size, self.learning_starts = capacity, batch_size, learning_starts
        self.train_frequency, self.gradient_steps_per_update = train_frequency, gradient_steps
        self.gamma, self.learning_rate, self.max_grad_norm = gamma, learning_rate, max_grad_norm
        self.env_steps_per_iteration = env_steps_per_iteration
        self.register_buffer("midpoints", quantile_midpoints(num_quantiles), persistent=False)
        self.exploration = EpsilonGreedy(num_actions, epsilon_start, epsilon_end, epsilon_fraction)
        spec, normalize = network_factory(network), self.env_config.normalize_observation
        sizes = num_actions, hidden_sizes
        with self.seeded_initialization():
            self.network = QNetwork(
                self.observation_space, *sizes, "relu", spec, normalize, num_atoms=num_quantiles
            )
        self.target_network = copy.deepcopy(self.network).requires_grad_(False)
        self.reward_normalizer = make_reward_normalizer(self.env_config, gamma)
        self.target_update = IntervalUpdate(target_update_interval, tau)
        steps = gradient_steps_in(self.budget, train_frequency, gradient_steps)
        self.compiled = resolve_compile(compile, steps)

    @property
    def unit_env_steps(self) -> int:  # noqa: D102
        return unit_env_steps(
            self.env_config.num_envs, self.train_frequency, self.env_steps_per_iteration
        )

    def act(self, observation: TensorObservation, deterministic: bool = True) -> Array:  # noqa: D102
        with torch.no_grad():
            action = self.network(observation).mean(-1).argmax(-1).numpy(force=True)
        if deterministic:
            return action
        return self.exploration.disturb(action, self.progress, self.streams.numpy("exploration"))

    def policy_module(self) -> GreedyPolicy:  # noqa: D102
        return GreedyPolicy(self.network, lambda quantiles: quantiles.mean(-1).argmax(-1))

    def begin_rollout(self, num_steps: int) -> Act:  # noqa: D102
        shape, quantiles = (num_steps, self.env_config.num_envs), self.quantiles
        num_quantiles = len(self.midpoints)

        def greedy(observation: TensorObservation) -> Array:
            values = quantiles(observation)
            return values.reshape(len(values), -1, num_quantiles).mean(axis=-1).argmax(-1)

        generator = self.streams.numpy("exploration")
        return self.exploration.begin_rollout(greedy, shape, self.progress, generator)

    def build_source(self, collector: Collector) -> OffPolicySource:  # noqa: D102
        with self.precision_context():
            self.quantiles = self.network.acting_function()
        spaces = self.observation_space, self.action_space
        replay = make_replay(self.env_config, self.capacity, *spaces)
        frequency, unit = self.train_frequency, self.env_steps_per_iteration
        return OffPolicySource(self, collector, replay, frequency, unit)

    def training_step(self, minibatches: Iterable[Transitions], batch_idx: int) -> Statistics:
        """Interleave collecting with gradient steps on replayed minibatches, for one unit."""
        for minibatch in minibatches:
            value_step(self, minibatch, TAGS)
        absorb_unit(self, self.network.observation_normalizer)
        return self.finish_update(scheduled(self))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return one fused Adam over all parameters as one flat tensor."""
        loss = partial(qrdqn_loss, midpoints=self.midpoints, gamma=self.gamma)
        self.flat = flatten_parameters(self.network)
        frozen, bound = [self.target_network], self.max_grad_norm if self.num_ranks == 1 else None
        self.gradient = gradient_function(
            loss, self.network, self.flat, self.compiled, frozen, bound
        )
        return FlatAdam(self.flat.flat, self.learning_rate, eps=0.01 / self.batch_size)
