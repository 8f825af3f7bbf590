"""What on-policy algorithms with an actor and a critic have in common: acting and advantages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_rl.buffers.rollout import Rollout
from lightning_rl.experience.advantages import advantages, rollout_tensors
from lightning_rl.experience.collector import Act, Collector
from lightning_rl.experience.on_policy import Experience, OnPolicySource, valid_rows
from lightning_rl.experience.random_streams import RandomStreams, seeded
from lightning_rl.experience.run_hooks import RunHooks
from lightning_rl.experience.running_statistics import (
    make_reward_normalizer,
    standardize,
)
from lightning_rl.functional.trees import map_tree
from lightning_rl.networks.acting import ActingFunction
from lightning_rl.networks.distributions import ActionHead, make_action_head
from lightning_rl.networks.greedy import GreedyPolicy
from lightning_rl.networks.mlp import NetworkChoice
from lightning_rl.networks.noisy import has_noise
from lightning_rl.networks.normalization import RewardNormalizer
from lightning_rl.networks.policies import ActorCritic
from lightning_rl.types import Array, TensorObservation


class ActorCriticHooks(RunHooks):
    """The half of an on-policy algorithm that acts; what it learns from a rollout is its own.

    Attributes:
        gae_lambda: In [0, 1]: 0 is the one-step advantage, 1 the Monte Carlo one.
        gamma: Discount in [0, 1].
        head: Action distribution.
        minibatch_size: Rows of a minibatch.
        network: Actor and critic.
        compares_with_old: Whether the update needs the log-probabilities that actions had when
            they were chosen, as PPO's ratios do.
        normalize_advantage: Shift and scale advantages to mean 0 and deviation 1.
        num_steps: Steps of each environment in one rollout.
        reward_normalizer: Running scale of rewards, or None.
        update_epochs: Passes over a rollout.
    """

    compares_with_old = True
    gae_lambda: float
    gamma: float
    head: ActionHead
    minibatch_size: int
    network: ActorCritic
    normalize_advantage: bool
    num_steps: int
    reward_normalizer: RewardNormalizer | None
    streams: RandomStreams
    update_epochs: int
    _policy: ActingFunction | None = None

    def make_networks(
        self,
        actor: NetworkChoice,
        critic: NetworkChoice,
        hidden_sizes: Sequence[int],
        activation: str,
        shared_trunk: bool,
        log_std_init: float,
        mask_actions: bool = False,
    ) -> None:
        """Build head, networks and normalisers for the environment's spaces.

        Args:
            actor: See `ActorCritic`, as for the others.
            critic: Likewise.
            hidden_sizes: Likewise.
            activation: Likewise.
            shared_trunk: Likewise.
            log_std_init: Likewise.
            mask_actions: Likewise.

        Raises:
            ConfigError: When a space is not supported or a network does not fit.
        """
        config = self.env_config
        self.head = make_action_head(self.action_space)
        with seeded(self.seed):
            self.network = ActorCritic(
                self.observation_space,
                self.action_space,
                actor,
                critic,
                hidden_sizes,
                activation,
                shared_trunk,
                log_std_init,
                config.normalize_observation,
                mask_actions,
            )
        self.reward_normalizer = make_reward_normalizer(config, self.gamma)

    @property
    def unit_env_steps(self) -> int:
        """Env steps of one training unit of one rank: a rollout."""
        return self.num_steps * self.env_config.num_envs

    def act(self, observation: TensorObservation, deterministic: bool = True) -> Array:
        """Return the most probable actions `(N, ...)`, or sampled ones."""
        with torch.no_grad():
            distribution = self.network.distribution_parameters(observation)
            if deterministic:
                return self.head.mode(distribution).numpy(force=True)
            noise = self.head.draw_noise((len(distribution),), self.streams.torch("action"))
            return self.head.sample(distribution.cpu(), noise).numpy()

    def policy_module(self) -> GreedyPolicy:
        """Return the greedy policy as a module."""
        return GreedyPolicy(self.network, lambda outputs: self.head.mode(outputs[0]))

    def acting_source(self, collector: Collector) -> OnPolicySource:
        """Return the source of rollouts; make the acting function, which sees weights change."""
        self._policy = None
        if not has_noise(self.network):  # else the function has the noise of its making
            with self.precision_context():
                self._policy = self.network.acting_function()
        return OnPolicySource(self, collector, self.num_steps)

    def begin_rollout(self, num_steps: int) -> Act:
        """Draw the noise of the next `num_steps` steps and return the sampling policy."""
        prefix = (num_steps, self.env_config.num_envs)
        noise = self.head.draw_noise(prefix, self.streams.torch("action")).numpy()
        policy, sample = self._policy or self.network.acting_function(), self.head.sample_array
        return lambda observation, step: sample(policy(observation), noise[step])

    def final_values(self, rollout: Rollout) -> tuple[Tensor, Tensor, Tensor]:
        """Return steps, environments and values `(K,)` of the true ends of the episodes in it."""
        steps, envs = (torch.from_numpy(index) for index in rollout.final_indices())
        final = map_tree(lambda leaf: leaf.to(self.device), rollout.final_observations())
        return steps, envs, self.network.value(final)

    @torch.no_grad()
    def estimate(self, rollout: Rollout) -> Experience:
        """Return the rollout as rows to learn from, with values, advantages and returns."""
        observation, columns = rollout_tensors(self, rollout)
        seen = map_tree(lambda leaf: leaf.flatten(0, 1), observation)
        action, old = columns["action"].flatten(0, 1), {}
        if self.compares_with_old:
            distribution, value = self.network(seen)
            old["log_prob"] = self.head.log_prob(distribution[: len(action)], action)
        else:
            value = self.network.value(seen)
        value = value.view(rollout.num_steps + 1, rollout.num_envs)
        next_value = value[1:].clone()
        if rollout.final_index:
            steps, envs, final_value = self.final_values(rollout)
            next_value[steps, envs] = final_value
        value = value[:-1]
        advantage, return_ = advantages(self, columns, value, next_value)
        experience: dict[str, Any] = {
            "observation": map_tree(lambda leaf: leaf[:-1].flatten(0, 1), observation),
            "action": action,
            **old,
            "value": value.flatten(),
            "advantage": advantage.flatten(),
            "return": return_.flatten(),
        }
        experience |= valid_rows(experience, rollout)
        if self.normalize_advantage:
            experience["advantage"] = standardize(self, experience["advantage"])
        return experience
