"""REINFORCE with a learned baseline.

Williams (1992), https://doi.org/10.1007/BF00992696. After every rollout, one gradient step on the
episodes that have ended in it, whole, minimises

    L = E[ -log pi(a|s) (G - V(s)) + vf_coef (V(s) - G)^2 / 2 - ent_coef H(pi) ]

with G the discounted sum of the rewards from the step to the end of its episode, and the baseline
V a network. Deviations from the paper: the advantages of an update are normalised, and a truncated
episode's return is completed by the value of its true final observation. An episode longer than the
rest of a rollout is learned from when it has ended, its first steps under a policy that has since
been updated.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from lightning_rl.algorithms.base import Algorithm
from lightning_rl.buffers.rollout import Rollout
from lightning_rl.envs.config import EnvConfig, EnvLike
from lightning_rl.errors import check_choice
from lightning_rl.experience.actor_critic import ActorCriticHooks
from lightning_rl.experience.advantages import rollout_tensors
from lightning_rl.experience.collector import Collector
from lightning_rl.experience.episodic import EpisodicSource
from lightning_rl.experience.hyperparameters import check_common_ranges
from lightning_rl.experience.on_policy import Experience, Minibatches
from lightning_rl.experience.running_statistics import (
    absorb_observations,
    absorb_rewards,
    standardize,
)
from lightning_rl.experience.setup import require_one_process
from lightning_rl.experience.trust_region import set_learning_rate
from lightning_rl.functional.gradients import GradientFunction, gradient_function
from lightning_rl.functional.optimizers import FlatAdam
from lightning_rl.functional.parameters import flatten_parameters
from lightning_rl.functional.policy_gradient import policy_gradient_loss
from lightning_rl.functional.statistics import explained_variance
from lightning_rl.functional.trees import map_tree
from lightning_rl.networks.distributions import ActionHead
from lightning_rl.networks.specification import NetworkSpec, network_factory
from lightning_rl.types import Statistics, TensorObservation

STATISTICS = ("train/policy_loss", "train/value_loss", "train/entropy_loss")
SCHEDULES = ("constant", "linear")


def reinforce_loss(
    network: Callable[[TensorObservation], tuple[Tensor, Tensor]],
    episodes: dict[str, Any],
    coefficients: Tensor,
    head: ActionHead,
) -> tuple[Tensor, Tensor]:
    """Return the loss to minimise and the vector of `STATISTICS`.

    Args:
        network: From observations to distribution parameters and values; an `ActorCritic`.
        episodes: The steps of whole episodes: `observation (B, *obs_shape)`, `action (B,
            *action_shape)`, `return` and `advantage` (the return less its baseline) `(B,)`.
        coefficients: `vf_coef, ent_coef`.
        head: Action distribution.
    """
    distribution, baseline = network(episodes["observation"])
    log_prob = head.log_prob(distribution, episodes["action"])
    losses = (
        policy_gradient_loss(log_prob, episodes["advantage"]),
        0.5 * (baseline - episodes["return"]).square().mean(),
        -head.entropy(distribution).mean(),
    )
    loss = losses[0] + coefficients[0] * losses[1] + coefficients[1] * losses[2]
    return loss, torch.stack(losses).detach()


class REINFORCE(ActorCriticHooks, Algorithm):
    """REINFORCE with baseline for Discrete, Box, MultiDiscrete and MultiBinary actions.

    Logs, where an episode has ended, `train/policy_loss`, `train/value_loss` (of the baseline),
    `train/entropy_loss` (minus the mean entropy in nats), `train/grad_norm` (before clipping) and
    `train/explained_variance` (of the returns by the baseline); and `train/learning_rate`,
    `train/action_std` (Box only) and `rollout/mean_reward` (per step).

    Args:
        env: Environment id, `EnvConfig`, mapping of its fields, or a class or factory.
        total_env_steps: Budget in env steps over all environments and ranks; default 100,000.
        total_episodes: Budget in finished episodes instead.
        schedule_env_steps: Env steps that schedules span; default the first `total_env_steps`.
        seed: Default: the value of `seed_everything`, else drawn and recorded.
        num_steps: Steps of each environment between two updates.
        gamma: Discount in [0, 1].
        ent_coef: Weight of the entropy bonus.
        vf_coef: Weight of the baseline's loss.
        max_grad_norm: Largest norm of a gradient.
        learning_rate: Of Adam, at least 0.
        learning_rate_schedule: `constant`, or `linear` to zero.
        normalize_advantage: Shift and scale an update's advantages to mean 0 and deviation 1.
        hidden_sizes: Units of each hidden layer of the default networks.
        activation: Their activation.
        shared_trunk: One stack of hidden layers for policy and baseline.
        log_std_init: First log standard deviation of Box actions.
        actor: Network class as `{class_path, init_args}`, import path, or from Python a class or
            factory called with (input size, output size); default `MLPActor`.
        critic: The same for the baseline; default `MLPCritic`.

    Raises:
        ConfigError: For values outside their range or spaces that are not supported.
    """

    gradient: GradientFunction
    source: EpisodicSource
    update_epochs, minibatch_size = 1, 2**62  # one step on all rows

    def __init__(
        self,
        env: EnvLike = EnvConfig("CartPole-v1"),  # noqa: B008 - never changed
        total_env_steps: int | None = None,
        total_episodes: int | None = None,
        schedule_env_steps: int | None = None,
        seed: int | None = None,
        num_steps: int = 128,
        gamma: float = 0.99,
        ent_coef: float = 0.0,
        vf_coef: float = 0.5,
        max_grad_norm: float = 0.5,
        learning_rate: float = 3e-3,
        learning_rate_schedule: Literal["constant", "linear"] = "constant",
        normalize_advantage: bool = True,
        hidden_sizes: tuple[int, ...] = (64, 64),
        activation: str = "tanh",
        shared_trunk: bool = False,
        log_std_init: float = 0.0,
        actor: NetworkSpec = None,
        critic: NetworkSpec = None,
    ) -> None:
        super().__init__(env, total_env_steps, total_episodes, schedule_env_steps, seed)
        self.num_steps, self.gamma, self.max_grad_norm = num_steps, gamma, max_grad_norm
        self.coefficients, self.learning_rate = torch.tensor([vf_coef, ent_coef]), learning_rate
        self.learning_rate_schedule = learning_rate_schedule
        self.normalize_advantage = normalize_advantage
        check_choice("learning_rate_schedule", learning_rate_schedule, SCHEDULES)
        check_common_ranges(self._arguments)
        self.make_networks(
            network_factory(actor),
            network_factory(critic),
            hidden_sizes,
            activation,
            shared_trunk,
            log_std_init,
        )

    def setup(self, stage: str) -> None:
        """Refuse several processes, in which episodes would end at different times."""
        require_one_process(self)
        super().setup(stage)

    def build_source(self, collector: Collector) -> EpisodicSource:  # noqa: D102
        return EpisodicSource(self, collector, self.num_steps)

    @torch.no_grad()
    def estimate(self, rollout: Rollout) -> Experience:
        """Return the steps of all episodes that have ended, with returns and advantages."""
        observation, columns = rollout_tensors(self, rollout)
        reward, terminated, truncated = (
            columns.pop(name) for name in ("reward", "terminated", "truncated")
        )
        ended = terminated | truncated
        if self.reward_normalizer is not None:
            absorb_rewards(self, self.reward_normalizer, reward, ended)
            reward = self.reward_normalizer(reward)
        if rollout.final_index:
            steps, envs, value = self.final_values(rollout)
            cut = truncated[steps, envs] & ~terminated[steps, envs]
            reward = reward.index_put((steps, envs), self.gamma * value * cut, accumulate=True)
        kept = {"observation": map_tree(lambda leaf: leaf[:-1], observation), **columns}
        valid = None if rollout.valid is None else torch.from_numpy(rollout.valid).to(self.device)
        episodes = self.source.open_episodes.absorb(kept, reward, ended, self.gamma, valid)
        return_ = episodes["return"]
        if not len(return_):
            return {**episodes, "advantage": return_}
        baseline = self.network.value(episodes["observation"])
        explained = explained_variance(baseline, return_).view(1)
        self.statistics.add(("train/explained_variance",), explained)
        advantage = return_ - baseline
        if self.normalize_advantage:
            advantage = standardize(self, advantage)
        return {**episodes, "advantage": advantage}

    def training_step(self, minibatches: Minibatches, batch_idx: int) -> Statistics:
        """Take one gradient step on the episodes that have ended; none where none has."""
        learning_rate = set_learning_rate(self)
        for episodes in minibatches:
            gradient, statistics = self.gradient(episodes, self.coefficients.to(self.device))
            self.apply_gradient(self.flat, gradient, self.max_grad_norm)
            self.statistics.add((*STATISTICS, "train/grad_norm"), statistics)
            observation = episodes["observation"]
            absorb_observations(self, self.network.observation_normalizer, observation)
        means = {"train/learning_rate": learning_rate}
        if self.network.log_std is not None:
            means["train/action_std"] = float(self.network.log_std.detach().exp().mean())
        return self.finish_update(means)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return one fused Adam over all parameters as one flat tensor."""
        self.flat = flatten_parameters(self.network)
        loss = partial(reinforce_loss, head=self.head)
        # Never compiled: the number of steps changes from update to update.
        self.gradient = gradient_function(
            loss, self.network, self.flat, compiled=False, max_norm=self.max_grad_norm
        )
        return FlatAdam(self.flat.flat, self.learning_rate, eps=1e-5)
