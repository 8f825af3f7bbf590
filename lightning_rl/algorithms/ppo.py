"""Proximal Policy Optimization.

Schulman, Wolski, Dhariwal, Radford and Klimov (2017), https://arxiv.org/abs/1707.06347. Maximises
the clipped surrogate

    L = E[ min(r A, clip(r, 1 - c, 1 + c) A) - vf_coef (V - R)^2 / 2 + ent_coef H(pi) ]

with r = pi(a|s) / pi_old(a|s), generalised advantages A (https://arxiv.org/abs/1506.02438) and
R = A + V_old. Deviations from the paper, all common practice: advantages are normalised over the
rollout (not per minibatch), gradients are clipped by their norm, and truncated episodes bootstrap
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
from lightning_rl.experience.trust_region import (
    SCHEDULES,
    is_too_far,
    set_learning_rate,
    steer_learning_rate,
)
from lightning_rl.functional.compilation import CompileChoice, resolve_compile
from lightning_rl.functional.gradients import GradientFunction, gradient_function
from lightning_rl.functional.masks import split_mask
from lightning_rl.functional.optimizers import FlatAdam
from lightning_rl.functional.parameters import flatten_parameters
from lightning_rl.functional.surrogate import SURROGATE_STATISTICS, surrogate_loss
from lightning_rl.networks.distributions import ActionHead
from lightning_rl.networks.specification import NetworkSpec, network_factory
from lightning_rl.types import Statistics, TensorObservation

STATISTICS = SURROGATE_STATISTICS


def ppo_loss(
    network: Callable[[TensorObservation], tuple[Tensor, Tensor]],
    minibatch: dict[str, Any],
    coefficients: Tensor,
    head: ActionHead,
    clip_value_loss: bool,
) -> tuple[Tensor, Tensor]:
    """Return the loss to minimise and the vector of `STATISTICS`.

    Args:
        network: From observations to distribution parameters and values; an `ActorCritic`.
        minibatch: `observation (B, *obs_shape)`, `action (B, *action_shape)`, `log_prob`,
            `advantage`, `value` and `return` `(B,)`.
        coefficients: `clip_coef, vf_coef, ent_coef`.
        head: Action distribution.
        clip_value_loss: Clip the value loss as well.
    """
    distribution, value = network(minibatch["observation"])
    log_prob = head.log_prob(distribution, minibatch["action"])
    entropy = head.entropy(distribution)
    return surrogate_loss(log_prob, entropy, value, minibatch, coefficients, clip_value_loss)


class PPO(ActorCriticHooks, Algorithm):
    """Proximal Policy Optimization for Discrete, Box, MultiDiscrete and MultiBinary actions.

    Logs, as means over minibatches, `train/policy_loss`, `train/value_loss`, `train/entropy_loss`
    (minus the mean entropy in nats), `train/approx_kl`, `train/clip_fraction` and
    `train/grad_norm` (before clipping); and `train/learning_rate`, `train/explained_variance` (of
    the returns by the old values), `train/action_std` (Box only), `rollout/mean_value` and
    `rollout/mean_reward` (per step).

    Args:
        env: Environment id, `EnvConfig`, mapping of its fields, or a class or factory.
        total_env_steps: Budget in env steps over all environments and ranks; default 100,000.
        total_episodes: Budget in finished episodes instead.
        schedule_env_steps: Env steps that schedules span; default the first `total_env_steps`.
        seed: Default: the value of `seed_everything`, else drawn and recorded.
        num_steps: Steps of each environment in one rollout.
        minibatch_size: Rows of a minibatch; a smaller rollout is one minibatch.
        update_epochs: Passes over a rollout.
        gamma: Discount in [0, 1].
        gae_lambda: In [0, 1]: 0 is the one-step advantage, 1 the Monte Carlo one.
        clip_coef: Half width of the trust interval around ratio 1, above 0.
        clip_value_loss: Clip the value loss as well.
        ent_coef: Weight of the entropy bonus.
        vf_coef: Weight of the value loss.
        max_grad_norm: Largest norm of a gradient.
        learning_rate: Of Adam (eps 1e-5), at least 0.
        learning_rate_schedule: `constant`; `linear` to zero; `adaptive_kl` keeps the KL divergence
            of an update near `target_kl`.
        target_kl: Stop an update when its KL divergence passes 1.5 times this; with `adaptive_kl`
            the divergence to aim at instead (default 0.01).
        normalize_advantage: Shift and scale a rollout's advantages to mean 0 and deviation 1.
        hidden_sizes: Units of each hidden layer of the default networks.
        activation: Their activation.
        shared_trunk: One stack of hidden layers for actor and critic.
        log_std_init: First log standard deviation of Box actions.
        actor: Network class as `{class_path, init_args}`, import path, or from Python a class or
            factory called with (input size, output size); default `MLPActor`.
        critic: The same for the value network; default `MLPCritic`.
        mask_actions: Choose among valid actions only, in training and after it; for Discrete and
            MultiDiscrete. Masks come from the environment's `info["action_mask"]` or its method
            `action_masks()`: one entry for each action, those of MultiDiscrete one after the other.
        compile: Compile the update: true, false, or `auto` by the gradient steps in the budget.

    Raises:
        ConfigError: For values outside their range or spaces that are not supported.

    Example:
        >>> agent = PPO("CartPole-v1", total_env_steps=1_000, seed=1)
        >>> int(agent.predict([0.0, 0.0, 0.0, 0.0])) in (0, 1)
        True
    """

    gradient: GradientFunction

    def __init__(
        self,
        env: EnvLike = EnvConfig("CartPole-v1"),  # noqa: B008 - never changed
        total_env_steps: int | None = None,
        total_episodes: int | None = None,
        schedule_env_steps: int | None = None,
        seed: int | None = None,
        num_steps: int = 128,
        minibatch_size: int = 256,
        update_epochs: int = 4,
        gamma: float = 0.99,
        gae_lambda: float = 0.95,
        clip_coef: float = 0.2,
        clip_value_loss: bool = False,
        ent_coef: float = 0.0,
        vf_coef: float = 0.5,
        max_grad_norm: float = 0.5,
        learning_rate: float = 2.5e-4,
        learning_rate_schedule: Literal["constant", "linear", "adaptive_kl"] = "constant",
        target_kl: float | None = None,
        normalize_advantage: bool = True,
        hidden_sizes: tuple[int, ...] = (64, 64),
        activation: str = "tanh",
        shared_trunk: bool = False,
        log_std_init: float = 0.0,
        actor: NetworkSpec = None,
        critic: NetworkSpec = None,
        mask_actions: bool = False,
        compile: CompileChoice = "auto",
    ) -> None:
        env = EnvConfig.coerce(env).showing_action_mask(mask_actions)
        super().__init__(env, total_env_steps, total_episodes, schedule_env_steps, seed)
        self.num_steps, self.minibatch_size = num_steps, minibatch_size
        self.update_epochs, self.gamma, self.gae_lambda = update_epochs, gamma, gae_lambda
        self.coefficients = torch.tensor([clip_coef, vf_coef, ent_coef])
        self.clip_value_loss, self.normalize_advantage = clip_value_loss, normalize_advantage
        self.max_grad_norm, self.learning_rate = max_grad_norm, learning_rate
        self.learning_rate_schedule, self.target_kl = learning_rate_schedule, target_kl
        check_common_ranges(self._arguments)
        check_choice("learning_rate_schedule", learning_rate_schedule, SCHEDULES)
        networks = network_factory(actor), network_factory(critic)
        self.make_networks(
            *networks, hidden_sizes, activation, shared_trunk, log_std_init, mask_actions
        )
        rows = num_steps * self.env_config.num_envs
        updates = update_epochs * -(-rows // minibatch_size)
        budget = self.budget.env_steps
        self.compiled = resolve_compile(compile, budget and budget // rows * updates)

    def build_source(self, collector: Collector) -> OnPolicySource:  # noqa: D102
        return self.acting_source(collector)

    def training_step(self, minibatches: Minibatches, batch_idx: int) -> Statistics:
        """Update the networks on one rollout: epochs of clipped-surrogate minibatches."""
        learning_rate = set_learning_rate(self)
        coefficients = self.coefficients.to(self.device)
        for minibatch in minibatches:
            gradient, statistics = self.gradient(minibatch, coefficients)
            self.apply_gradient(self.flat, gradient, self.max_grad_norm)
            minibatches.record(statistics)
            if is_too_far(self, statistics):
                break
        means = dict(zip((*STATISTICS, "train/grad_norm"), minibatches.means(), strict=True))
        means["train/learning_rate"] = learning_rate
        if self.network.log_std is not None:
            means["train/action_std"] = float(self.network.log_std.detach().exp().mean())
        steer_learning_rate(self, means["train/approx_kl"])
        observation, _ = split_mask(
            minibatches.experience["observation"], self.network.mask_actions
        )
        absorb_observations(self, self.network.observation_normalizer, observation)
        return self.finish_update(means)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return one fused Adam over all parameters as one flat tensor."""
        self.flat = flatten_parameters(self.network)
        loss = partial(ppo_loss, head=self.head, clip_value_loss=self.clip_value_loss)
        bound = self.max_grad_norm if self.num_ranks == 1 else None
        self.gradient = gradient_function(loss, self.network, self.flat, self.compiled, (), bound)
        return FlatAdam(self.flat.flat, self.learning_rate, eps=1e-5)
