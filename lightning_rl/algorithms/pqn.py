"""Parallelised Q-network, PQN.

Gallici, Fellows, Ellis, Pou, Masmitja, Foerster and Martin (2024), https://arxiv.org/abs/2407.04811.
Q-learning from many environments at once, without replay and without a target network: layer
normalisation keeps it stable. Minimises

    L = E[ (R_lambda - Q(s, a))^2 / 2 ],
    R_lambda(t) = r_t + gamma * (lambda * R_lambda(t + 1) + (1 - lambda) * max_a Q(s_{t+1}, a))

over the last rollout, in epochs of minibatches. Deviation from the paper: truncated episodes
bootstrap from their true final observation.
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
from lightning_rl.experience.collector import Act, Collector
from lightning_rl.experience.exploration import EpsilonGreedy
from lightning_rl.experience.hyperparameters import check_common_ranges, num_discrete_actions
from lightning_rl.experience.on_policy import Minibatches, OnPolicySource, valid_rows
from lightning_rl.experience.running_statistics import (
    absorb_observations,
    absorb_rewards,
    make_reward_normalizer,
)
from lightning_rl.experience.trust_region import set_learning_rate
from lightning_rl.functional.compilation import CompileChoice, resolve_compile
from lightning_rl.functional.gradients import GradientFunction, gradient_function
from lightning_rl.functional.parameters import flatten_parameters
from lightning_rl.functional.returns import lambda_return
from lightning_rl.functional.trees import map_tree
from lightning_rl.networks.greedy import GreedyPolicy
from lightning_rl.networks.layer_norm import LayerNormMLP
from lightning_rl.networks.specification import NetworkSpec, network_factory
from lightning_rl.networks.values import QNetwork
from lightning_rl.types import Array, Statistics, TensorObservation

TAGS = ("train/td_loss", "train/mean_q", "train/grad_norm")
SCHEDULES = ("constant", "linear")


def pqn_loss(
    network: Callable[[TensorObservation], Tensor], minibatch: dict[str, Any]
) -> tuple[Tensor, Tensor]:
    """Return the loss to minimise and the vector of itself and the mean value.

    Args:
        network: From observations to action values `(B, n)`; a `QNetwork`.
        minibatch: `observation (B, *obs_shape)`, `action (B,)` int64 and `return (B,)`.
    """
    q_values = network(minibatch["observation"])
    q_value = q_values.gather(-1, minibatch["action"].unsqueeze(-1)).squeeze(-1)
    loss = 0.5 * (minibatch["return"] - q_value).square().mean()
    return loss, torch.stack((loss, q_value.mean())).detach()


class PQN(Algorithm):
    """Parallelised Q-network for Discrete actions.

    Logs `train/td_loss` and `train/mean_q` (means over minibatches; the latter of the chosen
    actions' values), `train/epsilon`, `train/learning_rate`, `train/grad_norm` (before clipping)
    and `rollout/mean_reward` (per step).

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
        q_lambda: In [0, 1]: 0 is one-step Q-learning, 1 the Monte Carlo return of the rollout.
        epsilon_start: First probability of a random action.
        epsilon_end: Last one.
        epsilon_fraction: Part of the schedule over which it falls linearly, in (0, 1].
        learning_rate: Of RAdam, at least 0.
        learning_rate_schedule: `constant`, or `linear` to zero.
        max_grad_norm: Largest norm of a gradient.
        hidden_sizes: Units of each hidden layer of the default network.
        network: Network class as `{class_path, init_args}`, import path, or from Python a class or
            factory called with (input size, number of actions); default a `LayerNormMLP`.
        compile: Compile the update: true, false, or `auto` by the gradient steps in the budget.

    Raises:
        ConfigError: For values outside their range or spaces that are not supported.
    """

    gradient: GradientFunction

    def __init__(
        self,
        env: EnvLike = EnvConfig("CartPole-v1"),  # noqa: B008 - never changed
        total_env_steps: int | None = None,
        total_episodes: int | None = None,
        schedule_env_steps: int | None = None,
        seed: int | None = None,
        num_steps: int = 32,
        minibatch_size: int = 128,
        update_epochs: int = 4,
        gamma: float = 0.99,
        q_lambda: float = 0.65,
        epsilon_start: float = 1.0,
        epsilon_end: float = 0.05,
        epsilon_fraction: float = 0.2,
        learning_rate: float = 2.5e-4,
        learning_rate_schedule: Literal["constant", "linear"] = "constant",
        max_grad_norm: float = 10.0,
        hidden_sizes: tuple[int, ...] = (120, 84),
        network: NetworkSpec = None,
        compile: CompileChoice = "auto",
    ) -> None:
        super().__init__(env, total_env_steps, total_episodes, schedule_env_steps, seed)
        num_actions = num_discrete_actions("PQN", self.action_space)
        check_common_ranges(self._arguments)
        check_choice("learning_rate_schedule", learning_rate_schedule, SCHEDULES)
        self.num_steps, self.minibatch_size = num_steps, minibatch_size
        self.update_epochs, self.gamma, self.q_lambda = update_epochs, gamma, q_lambda
        self.learning_rate, self.max_grad_norm = learning_rate, max_grad_norm
        self.learning_rate_schedule = learning_rate_schedule
        self.exploration = EpsilonGreedy(num_actions, epsilon_start, epsilon_end, epsilon_fraction)
        with self.seeded_initialization():
            self.network = QNetwork(
                self.observation_space,
                num_actions,
                network=network_factory(network)
                or partial(LayerNormMLP, hidden_sizes=hidden_sizes),
                normalize_observation=self.env_config.normalize_observation,
            )
        self.reward_normalizer = make_reward_normalizer(self.env_config, gamma)
        updates = update_epochs * -(-self.unit_env_steps // minibatch_size)
        budget = self.budget.env_steps
        self.compiled = resolve_compile(compile, budget and budget // self.unit_env_steps * updates)

    @property
    def unit_env_steps(self) -> int:  # noqa: D102
        return self.num_steps * self.env_config.num_envs

    def act(self, observation: TensorObservation, deterministic: bool = True) -> Array:  # noqa: D102
        with torch.no_grad():
            action = self.network(observation).argmax(-1).numpy(force=True)
        if deterministic:
            return action
        return self.exploration.disturb(action, self.progress, self.streams.numpy("exploration"))

    def policy_module(self) -> GreedyPolicy:  # noqa: D102
        return GreedyPolicy(self.network, lambda q_values: q_values.argmax(-1))

    def begin_rollout(self, num_steps: int) -> Act:  # noqa: D102
        q_values, shape = self.network.acting_function(), (num_steps, self.env_config.num_envs)
        return self.exploration.begin_rollout(
            lambda observation: q_values(observation).argmax(-1),
            shape,
            self.progress,
            self.streams.numpy("exploration"),
        )

    def build_source(self, collector: Collector) -> OnPolicySource:  # noqa: D102
        return OnPolicySource(self, collector, self.num_steps)

    @torch.no_grad()
    def estimate(self, rollout: Rollout) -> dict[str, Any]:
        """Return the rollout as rows of observations, actions and lambda-returns."""

        def rows(tree: Any) -> Any:
            flat = map_tree(lambda leaf: torch.from_numpy(leaf).flatten(0, 1), tree)
            return self.to_device(flat)

        reward, terminated, truncated = (
            torch.from_numpy(array).to(self.device)
            for array in (rollout.reward, rollout.terminated, rollout.truncated)
        )
        ended = terminated | truncated
        if self.reward_normalizer is not None:
            absorb_rewards(self, self.reward_normalizer, reward, ended)
            reward = self.reward_normalizer(reward)
        next_value = self.network(rows(rollout.next_observation())).amax(-1).view_as(reward)
        return_ = lambda_return(reward, next_value, terminated, ended, self.gamma, self.q_lambda)
        experience = {
            "observation": rows(map_tree(lambda leaf: leaf[:-1], rollout.observation)),
            "action": rows(rollout.action),
            "return": return_.flatten(),
        }
        return valid_rows(experience, rollout)

    def training_step(self, minibatches: Minibatches, batch_idx: int) -> Statistics:
        """Update the network on one rollout: epochs of minibatches towards its returns."""
        learning_rate = set_learning_rate(self)
        for minibatch in minibatches:
            gradient, statistics = self.gradient(minibatch)
            self.apply_gradient(self.flat, gradient, self.max_grad_norm)
            minibatches.record(statistics)
        means = dict(zip(TAGS, minibatches.means(), strict=True))
        means["train/epsilon"] = self.exploration.epsilon(self.progress)
        means["train/learning_rate"] = learning_rate
        observation = minibatches.experience["observation"]
        absorb_observations(self, self.network.observation_normalizer, observation)
        return self.finish_update(means)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return RAdam, as published, over all parameters as one flat tensor."""
        self.flat = flatten_parameters(self.network)
        bound = self.max_grad_norm if self.num_ranks == 1 else None
        self.gradient = gradient_function(
            pqn_loss, self.network, self.flat, self.compiled, (), bound
        )
        return torch.optim.RAdam([self.flat.flat], self.learning_rate)
