"""Categorical deep Q-network, C51.

Bellemare, Dabney and Munos (2017), https://arxiv.org/abs/1707.06887. Learns the distribution of
returns Z(s, a) on fixed atoms z_1 .. z_K between `v_min` and `v_max`. Minimises the cross-entropy

    L = E[ - sum_k m_k log p_k(s, a) ]

where m is the distribution of r + gamma * (1 - terminated) * Z_target(s', a*), moved to the atoms
(equation 7), and a* = argmax_a' E[Z_target(s', a')]. Deviation from the paper: truncated episodes
bootstrap.
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
    categorical_mean,
    categorical_mean_array,
    categorical_td_loss,
    even_support,
    of_action,
)
from lightning_rl.functional.gradients import GradientFunction, gradient_function
from lightning_rl.functional.optimizers import FlatAdam
from lightning_rl.functional.parameters import flatten_parameters
from lightning_rl.networks.acting import ActingFunction
from lightning_rl.networks.greedy import GreedyPolicy
from lightning_rl.networks.specification import NetworkSpec, network_factory
from lightning_rl.networks.target import IntervalUpdate
from lightning_rl.networks.values import QNetwork
from lightning_rl.types import Array, Statistics, TensorObservation

TAGS = ("train/td_loss", "train/mean_q", "train/grad_norm")


def c51_loss(
    network: Callable[[TensorObservation], Tensor],
    target_network: Callable[[TensorObservation], Tensor],
    minibatch: dict[str, Any],
    support: Tensor,
    gamma: float,
) -> tuple[Tensor, Tensor]:
    """Return the loss to minimise and the vector of itself and the mean value.

    Args:
        network: From observations to logits `(B, n, K)`; a `QNetwork`.
        target_network: The same with the target network's parameters.
        minibatch: `observation`, `next_observation` `(B, *obs_shape)`, `action (B,)` int64,
            `reward (B,)`, `terminated (B,)` bool.
        support: `(K,)` atoms.
        gamma: Discount in [0, 1].
    """
    logits = of_action(network(minibatch["observation"]), minibatch["action"])
    with torch.no_grad():
        next_logits = target_network(minibatch["next_observation"])
        next_action = categorical_mean(next_logits, support).argmax(-1)
        next_logits = of_action(next_logits, next_action)
        mean_q = categorical_mean(logits, support).mean()
    reward, terminated = minibatch["reward"], minibatch["terminated"]
    loss = categorical_td_loss(logits, next_logits, reward, terminated, gamma, support).mean()
    return loss, torch.stack((loss, mean_q)).detach()


class C51(Algorithm):
    """Categorical deep Q-network for Discrete actions.

    Logs `train/td_loss` (the cross-entropy in nats, whose least value is the entropy of the target)
    and `train/mean_q` (means over minibatches; the latter of the replayed actions' expected
    returns), `train/epsilon`, `train/learning_rate`, `train/grad_norm` (before clipping) and
    `rollout/mean_reward` (per step).

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
        num_atoms: K, at least 2.
        v_min: Least return that the atoms can express.
        v_max: Largest one.
        epsilon_start: First probability of a random action.
        epsilon_end: Last one.
        epsilon_fraction: Part of the schedule over which it falls linearly, in (0, 1].
        gamma: Discount in [0, 1].
        learning_rate: Of Adam (eps 0.01 / batch_size, as published), at least 0.
        max_grad_norm: Largest norm of a gradient.
        hidden_sizes: Units of each hidden layer of the default network.
        network: Network class as `{class_path, init_args}`, import path, or from Python a class or
            factory called with (input size, actions times atoms); default an `MLP` with ReLU.
        env_steps_per_iteration: Env steps of one training unit, between which metrics, evaluation
            and checkpoints happen.
        compile: Compile the update: true, false, or `auto` by the gradient steps in the budget.

    Raises:
        ConfigError: For values outside their range or spaces that are not supported.
    """

    source: OffPolicySource
    gradient: GradientFunction
    logits: ActingFunction
    support: Tensor

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
        num_atoms: int = 51,
        v_min: float = -10.0,
        v_max: float = 10.0,
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
        num_actions = num_discrete_actions("C51", self.action_space)
        check_common_ranges(self._arguments)
        self.capacity, self.batch_size, self.learning_starts = capacity, batch_size, learning_starts
        self.train_frequency, self.gradient_steps_per_update = train_frequency, gradient_steps
        self.gamma, self.learning_rate, self.max_grad_norm = gamma, learning_rate, max_grad_norm
        self.env_steps_per_iteration = env_steps_per_iteration
        self.register_buffer("support", even_support(v_min, v_max, num_atoms), persistent=False)
        self.exploration = EpsilonGreedy(num_actions, epsilon_start, epsilon_end, epsilon_fraction)
        spec, normalize = network_factory(network), self.env_config.normalize_observation
        sizes = num_actions, hidden_sizes
        with self.seeded_initialization():
            self.network = QNetwork(
                self.observation_space, *sizes, "relu", spec, normalize, num_atoms=num_atoms
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
            q_values = categorical_mean(self.network(observation), self.support)
        action = q_values.argmax(-1).numpy(force=True)
        if deterministic:
            return action
        return self.exploration.disturb(action, self.progress, self.streams.numpy("exploration"))

    def policy_module(self) -> GreedyPolicy:  # noqa: D102
        support = self.support
        return GreedyPolicy(
            self.network, lambda logits: categorical_mean(logits, support).argmax(-1)
        )

    def begin_rollout(self, num_steps: int) -> Act:  # noqa: D102
        shape, logits = (num_steps, self.env_config.num_envs), self.logits
        support = self.support.numpy(force=True)

        def greedy(observation: TensorObservation) -> Array:
            return categorical_mean_array(logits(observation), support).argmax(-1)

        generator = self.streams.numpy("exploration")
        return self.exploration.begin_rollout(greedy, shape, self.progress, generator)

    def build_source(self, collector: Collector) -> OffPolicySource:  # noqa: D102
        with self.precision_context():
            self.logits = self.network.acting_function()
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
        loss = partial(c51_loss, support=self.support, gamma=self.gamma)
        self.flat = flatten_parameters(self.network)
        frozen, bound = [self.target_network], self.max_grad_norm if self.num_ranks == 1 else None
        self.gradient = gradient_function(
            loss, self.network, self.flat, self.compiled, frozen, bound
        )
        return FlatAdam(self.flat.flat, self.learning_rate, eps=0.01 / self.batch_size)
