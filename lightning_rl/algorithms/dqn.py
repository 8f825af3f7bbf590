"""Deep Q-network.

Mnih et al. (2015), https://doi.org/10.1038/nature14236. Minimises the squared temporal-difference
error

    L = E[ (r + gamma * (1 - terminated) * max_a' Q_target(s', a') - Q(s, a))^2 ]

over replayed transitions. Flags add, each by itself or together: `double` Q-learning (van Hasselt
et al., 2016, https://arxiv.org/abs/1509.06461), where the online network chooses a' and the target
network values it; `dueling` streams (Wang et al., 2016, https://arxiv.org/abs/1511.06581);
`prioritized` replay (Schaul et al., 2016, https://arxiv.org/abs/1511.05952); returns of `n_step`
steps (Sutton, 1988); `noisy` layers (Fortunato et al., 2018, https://arxiv.org/abs/1706.10295).
Deviation from the paper: Adam instead of RMSprop, and truncated episodes bootstrap.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_rl.algorithms.base import Algorithm
from lightning_rl.buffers.frames import make_replay
from lightning_rl.buffers.n_step import NStepReplay
from lightning_rl.buffers.prioritized import PrioritizedReplay
from lightning_rl.buffers.replay import Transitions
from lightning_rl.envs.config import EnvConfig, EnvLike
from lightning_rl.errors import check_choice
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
from lightning_rl.functional.gradients import GradientFunction, gradient_function
from lightning_rl.functional.optimizers import FlatAdam
from lightning_rl.functional.parameters import flatten_parameters
from lightning_rl.functional.returns import td_target
from lightning_rl.functional.schedules import linear
from lightning_rl.functional.weighting import weighted_loss
from lightning_rl.networks.acting import ActingFunction
from lightning_rl.networks.greedy import GreedyPolicy
from lightning_rl.networks.noisy import redraw_noise, with_own_noise, without_noise
from lightning_rl.networks.specification import NetworkSpec, network_factory
from lightning_rl.networks.target import IntervalUpdate
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
    """Return the loss to minimise and the vector of `STATISTICS`, then of row errors if weighted.

    Args:
        network: From observations to action values `(B, n)`; a `QNetwork`.
        target_network: The same with the target network's parameters.
        minibatch: `observation`, `next_observation` `(B, *obs_shape)`, `action (B,)` int64,
            `reward (B,)`, `terminated (B,)` bool; maybe `discount (B,)`, the bootstrap's weight
            behind several steps, and `weight (B,)` of each row's loss.
        gamma: Discount in [0, 1], where there is no `discount`.
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
        discount = minibatch.get("discount", gamma)
        target = td_target(minibatch["reward"], minibatch["terminated"], next_value, discount)
    row_loss, error = LOSSES[loss](q_value, target, reduction="none"), (q_value - target).abs()
    return weighted_loss(row_loss, error, q_value.mean(), minibatch.get("weight"))


class DQN(Algorithm):
    """Deep Q-network for Discrete actions, with the parts that later work added as flags.

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
        dueling: Dueling streams in the default network.
        noisy: Noisy layers in the default network; set the epsilons to 0 with it.
        n_step: Rewards summed before the bootstrap, at least 1.
        prioritized: Prioritised replay.
        priority_alpha: Its exponent of the errors, in [0, 1]; 0 draws uniformly.
        priority_beta: First exponent of its weights, in [0, 1]; it rises linearly to 1.
        loss: `mse`, or `huber` (with threshold 1).
        epsilon_start: First probability of a random action.
        epsilon_end: Last one.
        epsilon_fraction: Part of the schedule over which it falls linearly, in (0, 1].
        gamma: Discount in [0, 1].
        learning_rate: Of Adam, at least 0.
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
        dueling: bool = False,
        noisy: bool = False,
        n_step: int = 1,
        prioritized: bool = False,
        priority_alpha: float = 0.6,
        priority_beta: float = 0.4,
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
        num_actions = num_discrete_actions("DQN", self.action_space)
        check_common_ranges(self._arguments)
        check_choice("loss", loss, LOSSES)
        self.capacity, self.batch_size, self.learning_starts = capacity, batch_size, learning_starts
        self.train_frequency, self.gradient_steps_per_update = train_frequency, gradient_steps
        self.double_q, self.noisy, self.n_step, self.loss = double, noisy, n_step, loss
        self.gamma, self.learning_rate, self.max_grad_norm = gamma, learning_rate, max_grad_norm
        self.priority_alpha, self.priority_beta = priority_alpha, priority_beta
        self.prioritized, self.env_steps_per_iteration = prioritized, env_steps_per_iteration
        self.exploration = EpsilonGreedy(num_actions, epsilon_start, epsilon_end, epsilon_fraction)
        with self.seeded_initialization():
            self.network = QNetwork(
                self.observation_space,
                num_actions,
                hidden_sizes,
                network=network_factory(network),
                normalize_observation=self.env_config.normalize_observation,
                dueling=dueling,
                noisy=noisy,
            )
        self.target_network = copy.deepcopy(self.network).requires_grad_(False)
        self.reward_normalizer = make_reward_normalizer(self.env_config, gamma)
        self.target_update = IntervalUpdate(target_update_interval, tau)
        self.compiled = resolve_compile(
            compile, gradient_steps_in(self.budget, train_frequency, gradient_steps)
        )

    @property
    def epsilon(self) -> float:
        """Probability of a random action now."""
        return self.exploration.epsilon(self.progress)

    @property
    def unit_env_steps(self) -> int:  # noqa: D102
        return unit_env_steps(
            self.env_config.num_envs, self.train_frequency, self.env_steps_per_iteration
        )

    def act(self, observation: TensorObservation, deterministic: bool = True) -> Array:  # noqa: D102
        with torch.no_grad():
            if self.noisy and not deterministic:
                generator = self.streams.torch("exploration")
                q_values = with_own_noise(self.network, observation, generator)
            else:
                q_values = without_noise(self.network, observation)
        action = q_values.argmax(-1).numpy(force=True)
        if deterministic:
            return action
        return self.exploration.disturb(action, self.progress, self.streams.numpy("exploration"))

    def importance_exponent(self) -> float:
        """Return the exponent of prioritised replay's weights now."""
        return linear(self.priority_beta, 1.0, self.progress)

    def policy_module(self) -> GreedyPolicy:  # noqa: D102
        return GreedyPolicy(self.network, lambda q_values: q_values.argmax(-1))

    def begin_rollout(self, num_steps: int) -> Act:  # noqa: D102
        if self.noisy:
            redraw_noise(self.streams.torch("exploration"), self.network)
            self.q_values = self.network.acting_function()  # the old one has the old noise
        shape, q_values = (num_steps, self.env_config.num_envs), self.q_values
        return self.exploration.begin_rollout(
            lambda observation: q_values(observation).argmax(-1),
            shape,
            self.progress,
            self.streams.numpy("exploration"),
        )

    def build_source(self, collector: Collector) -> OffPolicySource:  # noqa: D102
        with self.precision_context():
            self.q_values = self.network.acting_function()
        spaces = self.observation_space, self.action_space
        replay = make_replay(self.env_config, self.capacity, *spaces)
        if self.n_step > 1:
            replay = NStepReplay(replay, self.n_step, self.gamma, collector.env.num_envs)
        if self.prioritized:
            replay = PrioritizedReplay(replay, self.priority_alpha, self.importance_exponent)
        return OffPolicySource(
            self, collector, replay, self.train_frequency, self.env_steps_per_iteration
        )

    def training_step(self, minibatches: Iterable[Transitions], batch_idx: int) -> Statistics:
        """Interleave collecting with gradient steps on replayed minibatches, for one unit."""
        for minibatch in minibatches:
            if self.noisy:
                redraw_noise(self.streams.torch("update"), self.network, self.target_network)
            value_step(self, minibatch, TRAINING_TAGS)
        absorb_unit(self, self.network.observation_normalizer)
        return self.finish_update(scheduled(self))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return one fused Adam over all parameters as one flat tensor."""
        self.flat = flatten_parameters(self.network)
        loss = partial(dqn_loss, gamma=self.gamma, double=self.double_q, loss=self.loss)
        frozen, bound = [self.target_network], self.max_grad_norm if self.num_ranks == 1 else None
        self.gradient = gradient_function(
            loss, self.network, self.flat, self.compiled, frozen, bound
        )
        return FlatAdam(self.flat.flat, self.learning_rate)
