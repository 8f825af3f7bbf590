"""Advantage actor-critic, synchronous.

Mnih et al. (2016), https://arxiv.org/abs/1602.01783, whose asynchronous actors are here the rows of
one vector environment. One gradient step on every rollout of a few steps minimises

    L = E[ -log pi(a|s) A + vf_coef (V - R)^2 / 2 - ent_coef H(pi) ]

with R the return of up to `num_steps` rewards, bootstrapped from the critic, and A = R - V. With
`gae_lambda` below 1, A is the generalised advantage (https://arxiv.org/abs/1506.02438), R = A + V.
Deviations from the paper: gradients are clipped by their norm, and truncated episodes bootstrap
from the value of their true final observation.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from lightning_rl.algorithms.base import Algorithm
from lightning_rl.envs.config import EnvConfig, EnvLike
from lightning_rl.errors import check_choice
from lightning_rl.experience.actor_critic import ActorCriticHooks
from lightning_rl.experience.collector import Collector
from lightning_rl.experience.hyperparameters import check_common_ranges
from lightning_rl.experience.on_policy import Minibatches, OnPolicySource
from lightning_rl.experience.running_statistics import absorb_observations
from lightning_rl.experience.trust_region import set_learning_rate
from lightning_rl.functional.compilation import CompileChoice, resolve_compile
from lightning_rl.functional.gradients import GradientFunction, gradient_function
from lightning_rl.functional.optimizers import FlatAdam, FlatRMSprop
from lightning_rl.functional.parameters import flatten_parameters
from lightning_rl.functional.policy_gradient import policy_gradient_loss
from lightning_rl.networks.distributions import ActionHead
from lightning_rl.networks.specification import NetworkSpec, network_factory
from lightning_rl.types import Statistics, TensorObservation

STATISTICS = ("train/policy_loss", "train/value_loss", "train/entropy_loss")
SCHEDULES = ("constant", "linear")
OPTIMIZERS: dict[str, Any] = {"rmsprop": FlatRMSprop, "adam": partial(FlatAdam, eps=1e-5)}


def a2c_loss(
    network: Callable[[TensorObservation], tuple[Tensor, Tensor]],
    minibatch: dict[str, Any],
    coefficients: Tensor,
    head: ActionHead,
) -> tuple[Tensor, Tensor]:
    """Return the loss to minimise and the vector of `STATISTICS`.

    Args:
        network: From observations to distribution parameters and values; an `ActorCritic`.
        minibatch: `observation (B, *obs_shape)`, `action (B, *action_shape)`, `advantage` and
            `return` `(B,)`.
        coefficients: `vf_coef, ent_coef`.
        head: Action distribution.
    """
    vf_coef, ent_coef = coefficients.unbind()
    distribution, value = network(minibatch["observation"])
    log_prob = head.log_prob(distribution, minibatch["action"])
    policy = policy_gradient_loss(log_prob, minibatch["advantage"])
    critic = 0.5 * (value - minibatch["return"]).square().mean()
    entropy = head.entropy(distribution).mean()
    loss = policy + vf_coef * critic - ent_coef * entropy
    return loss, torch.stack((policy, critic, -entropy)).detach()


class A2C(ActorCriticHooks, Algorithm):
    """Advantage actor-critic for Discrete, Box, MultiDiscrete and MultiBinary actions.

    Logs `train/policy_loss`, `train/value_loss`, `train/entropy_loss` (minus the mean entropy in
    nats), `train/grad_norm` (before clipping), `train/learning_rate`, `train/explained_variance`
    (of the returns by the values), `train/action_std` (Box only), `rollout/mean_value` and
    `rollout/mean_reward` (per step).

    Args:
        env: Environment id, `EnvConfig`, mapping of its fields, or a class or factory.
        total_env_steps: Budget in env steps over all environments and ranks; default 100,000.
        total_episodes: Budget in finished episodes instead.
        schedule_env_steps: Env steps that schedules span; default the first `total_env_steps`.
        seed: Default: the value of `seed_everything`, else drawn and recorded.
        num_steps: Steps of each environment in one rollout, and between two updates.
        gamma: Discount in [0, 1].
        gae_lambda: In [0, 1]: 1 as published, lower for less variance and more bias.
        ent_coef: Weight of the entropy bonus.
        vf_coef: Weight of the value loss.
        max_grad_norm: Largest norm of a gradient.
        optimizer: `rmsprop` as published, or `adam`.
        learning_rate: At least 0.
        learning_rate_schedule: `constant`, or `linear` to zero.
        normalize_advantage: Shift and scale a rollout's advantages to mean 0 and deviation 1.
        hidden_sizes: Units of each hidden layer of the default networks.
        activation: Their activation.
        shared_trunk: One stack of hidden layers for actor and critic.
        log_std_init: First log standard deviation of Box actions.
        actor: Network class as `{class_path, init_args}`, import path, or from Python a class or
            factory called with (input size, output size); default `MLPActor`.
        critic: The same for the value network; default `MLPCritic`.
        compile: Compile the update: true, false, or `auto` by the gradient steps in the budget.

    Raises:
        ConfigError: For values outside their range or spaces that are not supported.
    """

    gradient: GradientFunction
    update_epochs = 1  # the rollout is one minibatch
    compares_with_old = False

    def __init__(
        self,
        env: EnvLike = EnvConfig("CartPole-v1"),  # noqa: B008 - never changed
        total_env_steps: int | None = None,
        total_episodes: int | None = None,
        schedule_env_steps: int | None = None,
        seed: int | None = None,
        num_steps: int = 5,
        gamma: float = 0.99,
        gae_lambda: float = 1.0,
        ent_coef: float = 0.0,
        vf_coef: float = 0.5,
        max_grad_norm: float = 0.5,
        optimizer: Literal["rmsprop", "adam"] = "rmsprop",
        learning_rate: float = 7e-4,
        learning_rate_schedule: Literal["constant", "linear"] = "constant",
        normalize_advantage: bool = False,
        hidden_sizes: tuple[int, ...] = (64, 64),
        activation: str = "tanh",
        shared_trunk: bool = False,
        log_std_init: float = 0.0,
        actor: NetworkSpec = None,
        critic: NetworkSpec = None,
        compile: CompileChoice = "auto",
    ) -> None:
        super().__init__(env, total_env_steps, total_episodes, schedule_env_steps, seed)
        self.num_steps, self.gamma, self.gae_lambda = num_steps, gamma, gae_lambda
        self.coefficients = torch.tensor([vf_coef, ent_coef])
        self.max_grad_norm, self.normalize_advantage = max_grad_norm, normalize_advantage
        self.learning_rate = learning_rate
        self.learning_rate_schedule = learning_rate_schedule
        check_common_ranges(self._arguments)
        check_choice("optimizer", optimizer, OPTIMIZERS)
        check_choice("learning_rate_schedule", learning_rate_schedule, SCHEDULES)
        networks = network_factory(actor), network_factory(critic)
        self.make_networks(*networks, hidden_sizes, activation, shared_trunk, log_std_init)
        self.minibatch_size = self.unit_env_steps
        budget = self.budget.env_steps
        self.compiled = resolve_compile(compile, budget and budget // self.unit_env_steps)

    def build_source(self, collector: Collector) -> OnPolicySource:  # noqa: D102
        return self.acting_source(collector)

    def training_step(self, minibatches: Minibatches, batch_idx: int) -> Statistics:
        """Take one gradient step on one rollout."""
        learning_rate = set_learning_rate(self)
        for rollout in minibatches:
            gradient, statistics = self.gradient(rollout, self.coefficients.to(self.device))
            self.apply_gradient(self.flat, gradient, self.max_grad_norm)
            self.statistics.add((*STATISTICS, "train/grad_norm"), statistics)
        observation = minibatches.experience["observation"]
        absorb_observations(self, self.network.observation_normalizer, observation)
        means = {"train/learning_rate": learning_rate}
        if self.network.log_std is not None:
            means["train/action_std"] = float(self.network.log_std.detach().exp().mean())
        return self.finish_update(means)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimizer over all parameters as one flat tensor."""
        self.flat = flatten_parameters(self.network)
        loss, bound = partial(a2c_loss, head=self.head), self.max_grad_norm
        self.gradient = gradient_function(
            loss, self.network, self.flat, self.compiled, (), bound if self.num_ranks == 1 else None
        )
        optimizer: torch.optim.Optimizer = OPTIMIZERS[self._arguments["optimizer"]](
            self.flat.flat, self.learning_rate
        )
        return optimizer
