"""Rainbow.

Hessel et al. (2018), https://arxiv.org/abs/1710.02298. C51 (https://arxiv.org/abs/1707.06887) with
double Q-learning, dueling streams, prioritised replay, multi-step returns and noisy layers, all at
once. Minimises

    L = E[ w * - sum_k m_k log p_k(s, a) ]

over prioritised transitions with importance weights w, where m is the distribution of the n-step
return R + gamma^n * (1 - terminated) * Z_target(s_n, a*), moved to the atoms, and
a* = argmax_a' E[Z(s_n, a')] by the online network. Priorities are the cross-entropies. Deviations
from the paper: truncated episodes bootstrap, noise is drawn once per collection and once per
gradient step instead of at each forward pass, and random actions can be added to it.
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
from lightning_rl.buffers.n_step import NStepReplay
from lightning_rl.buffers.prioritized import PrioritizedReplay
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
from lightning_rl.functional.schedules import linear
from lightning_rl.functional.weighting import weighted_loss
from lightning_rl.networks.greedy import GreedyPolicy
from lightning_rl.networks.noisy import redraw_noise, with_own_noise, without_noise
from lightning_rl.networks.target import IntervalUpdate
from lightning_rl.networks.values import QNetwork
from lightning_rl.types import Array, Statistics, TensorObservation

TAGS = ("train/td_loss", "train/mean_q", "train/grad_norm")


def rainbow_loss(
    network: Callable[[TensorObservation], Tensor],
    target_network: Callable[[TensorObservation], Tensor],
    minibatch: dict[str, Any],
    support: Tensor,
    gamma: float,
) -> tuple[Tensor, Tensor]:
    """Return the loss to minimise; and the vector of itself, the mean value and each row's error.

    Args:
        network: From observations to logits `(B, n, K)`; a `QNetwork`.
        target_network: The same with the target network's parameters.
        minibatch: Of a `PrioritizedReplay`: `observation`, `next_observation` `(B, *obs_shape)`,
            `action (B,)` int64, `reward`, `weight` and maybe `discount` `(B,)`, and
            `terminated (B,)` bool.
        support: `(K,)` atoms.
        gamma: Discount in [0, 1], where there is no `discount`.
    """
    logits = of_action(network(minibatch["observation"]), minibatch["action"])
    with torch.no_grad():
        next_observation = minibatch["next_observation"]
        next_action = categorical_mean(network(next_observation), support).argmax(-1)
        next_logits = of_action(target_network(next_observation), next_action)
        mean_q = categorical_mean(logits, support).mean()
    reward, terminated = minibatch["reward"], minibatch["terminated"]
    discount = minibatch.get("discount", gamma)
    error = categorical_td_loss(logits, next_logits, reward, terminated, discount, support)
    return weighted_loss(error, error, mean_q, minibatch["weight"])


class Rainbow(Algorithm):
    """Rainbow for Discrete actions.

    Logs `train/td_loss` (the weighted cross-entropy in nats) and `train/mean_q` (means over
    minibatches; the latter of the replayed actions' expected returns), `train/epsilon`,
    `train/learning_rate`, `train/grad_norm` (before clipping) and `rollout/mean_reward` (per step).

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
        epsilon_start: First probability of a random action. The published agent explores by noise
            alone; a few random actions help where learning quenches the noise too early.
        epsilon_end: Last one.
        epsilon_fraction: Part of the schedule over which it falls linearly, in (0, 1].
        n_step: Rewards summed before the bootstrap, at least 1.
        priority_alpha: Exponent of the priorities, in [0, 1]; 0 draws uniformly.
        priority_beta: First exponent of their weights, in [0, 1]; it rises linearly to 1.
        gamma: Discount in [0, 1].
        learning_rate: Of Adam (eps 1.5e-4, as published), at least 0.
        max_grad_norm: Largest norm of a gradient.
        hidden_sizes: Units of each hidden layer; the last one is each stream's own.
        env_steps_per_iteration: Env steps of one training unit, between which metrics, evaluation
            and checkpoints happen.
        compile: Compile the update: true, false, or `auto` by the gradient steps in the budget.

    Raises:
        ConfigError: For values outside their range or spaces that are not supported.
    """

    source: OffPolicySource
    gradient: GradientFunction
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
        epsilon_start: float = 0.0,
        epsilon_end: float = 0.0,
        epsilon_fraction: float = 0.2,
        n_step: int = 3,
        priority_alpha: float = 0.5,
        priority_beta: float = 0.4,
        gamma: float = 0.99,
        learning_rate: float = 6.25e-5,
        max_grad_norm: float = 10.0,
        hidden_sizes: tuple[int, ...] = (120, 84),
        env_steps_per_iteration: int = 1_000,
        compile: CompileChoice = "auto",
    ) -> None:
        super().__init__(env, total_env_steps, total_episodes, schedule_env_steps, seed)
        num_actions = num_discrete_actions("Rainbow", self.action_space)
        check_common_ranges(self._arguments)
        self.register_buffer("support", even_support(v_min, v_max, num_atoms), persistent=False)
        self.capacity, self.batch_size, self.learning_starts = capacity, batch_size, learning_starts
        self.train_frequency, self.gradient_steps_per_update = train_frequency, gradient_steps
        self.gamma, self.learning_rate, self.max_grad_norm = gamma, learning_rate, max_grad_norm
        self.env_steps_per_iteration = env_steps_per_iteration
        self.n_step, self.priority_alpha, self.priority_beta = n_step, priority_alpha, priority_beta
        self.exploration = EpsilonGreedy(num_actions, epsilon_start, epsilon_end, epsilon_fraction)
        with self.seeded_initialization():
            self.network = QNetwork(
                self.observation_space,
                num_actions,
                hidden_sizes,
                normalize_observation=self.env_config.normalize_observation,
                num_atoms=num_atoms,
                dueling=True,
                noisy=True,
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
            if deterministic:
                logits = without_noise(self.network, observation)
            else:
                generator = self.streams.torch("exploration")
                logits = with_own_noise(self.network, observation, generator)
            action = categorical_mean(logits, self.support).argmax(-1).numpy(force=True)
        if deterministic:
            return action
        return self.exploration.disturb(action, self.progress, self.streams.numpy("exploration"))

    def importance_exponent(self) -> float:
        """Return the exponent of prioritised replay's weights now."""
        return linear(self.priority_beta, 1.0, self.progress)

    def policy_module(self) -> GreedyPolicy:  # noqa: D102
        support = self.support
        return GreedyPolicy(
            self.network, lambda logits: categorical_mean(logits, support).argmax(-1)
        )

    def begin_rollout(self, num_steps: int) -> Act:  # noqa: D102
        redraw_noise(self.streams.torch("exploration"), self.network)
        logits, support = self.network.acting_function(), self.support.numpy(force=True)
        return self.exploration.begin_rollout(
            lambda observation: categorical_mean_array(logits(observation), support).argmax(-1),
            (num_steps, self.env_config.num_envs),
            self.progress,
            self.streams.numpy("exploration"),
        )

    def build_source(self, collector: Collector) -> OffPolicySource:  # noqa: D102
        spaces = self.observation_space, self.action_space
        single = make_replay(self.env_config, self.capacity, *spaces)
        multi = NStepReplay(single, self.n_step, self.gamma, collector.env.num_envs)
        replay = PrioritizedReplay(multi, self.priority_alpha, self.importance_exponent)
        frequency, unit = self.train_frequency, self.env_steps_per_iteration
        return OffPolicySource(self, collector, replay, frequency, unit)

    def training_step(self, minibatches: Iterable[Transitions], batch_idx: int) -> Statistics:
        """Interleave collecting with gradient steps on replayed minibatches, for one unit."""
        for minibatch in minibatches:
            redraw_noise(self.streams.torch("update"), self.network, self.target_network)
            value_step(self, minibatch, TAGS)
        absorb_unit(self, self.network.observation_normalizer)
        return self.finish_update(scheduled(self))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return one fused Adam over all parameters as one flat tensor."""
        self.flat = flatten_parameters(self.network)
        loss = partial(rainbow_loss, support=self.support, gamma=self.gamma)
        frozen, bound = [self.target_network], self.max_grad_norm if self.num_ranks == 1 else None
        self.gradient = gradient_function(
            loss, self.network, self.flat, self.compiled, frozen, bound
        )
        return FlatAdam(self.flat.flat, self.learning_rate, eps=1.5e-4)
