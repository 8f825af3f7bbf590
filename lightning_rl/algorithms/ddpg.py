"""Deep deterministic policy gradient.

Lillicrap et al. (2016), https://arxiv.org/abs/1509.02971. A deterministic actor pi and one critic:

    y = r + gamma * (1 - terminated) * Q_target(s', pi_target(s'))
    L(Q) = E[ (Q(s, a) - y)^2 ] / 2
    L(pi) = -E[ Q(s, pi(s)) ]

Deviations from the paper: Gaussian noise unless Ornstein-Uhlenbeck noise is asked for, no weight
decay, no batch normalisation, and both gradients are taken at the same parameters.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lightning_rl.algorithms.base import Algorithm
from lightning_rl.buffers.hindsight import ReplaySpec
from lightning_rl.buffers.replay import Transitions
from lightning_rl.envs.config import EnvConfig, EnvLike
from lightning_rl.experience.action_noise import ActionNoise, NoiseKind
from lightning_rl.experience.box_actions import (
    act_with_noise,
    acting_source,
    greedy_policy,
    noisy_actions,
    prepared,
    rescale_box_actions,
    take_arguments,
)
from lightning_rl.experience.collector import Act, Collector
from lightning_rl.experience.joint_update import make_joint_update
from lightning_rl.experience.off_policy import OffPolicySource, agent_unit
from lightning_rl.experience.running_statistics import absorb_unit
from lightning_rl.functional.compilation import CompileChoice
from lightning_rl.functional.joint_updates import JointUpdate
from lightning_rl.functional.optimizers import FlatAdam
from lightning_rl.functional.parameters import FlatParameters, flatten_parameters
from lightning_rl.functional.returns import td_target
from lightning_rl.functional.soft_actor_critic import ensemble_squared_error
from lightning_rl.networks.acting import ActingFunction
from lightning_rl.networks.actors import Actor
from lightning_rl.networks.ensemble import CriticEnsemble
from lightning_rl.networks.greedy import GreedyPolicy
from lightning_rl.networks.normalization import RunningNormalizer
from lightning_rl.networks.specification import NetworkSpec, network_factory
from lightning_rl.types import Array, Statistics, TensorObservation

STATISTICS = ("train/td_loss", "train/policy_loss", "train/mean_q")
TRAINING_TAGS = (*STATISTICS, "train/grad_norm")


def ddpg_losses(
    critic: Callable[..., Tensor],
    actor: Callable[..., Tensor],
    target_critic: Callable[..., Tensor],
    target_actor: Callable[..., Tensor],
    minibatch: dict[str, Any],
    gamma: float,
) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """Return the losses of critic and actor, and the vector of `STATISTICS`.

    Args:
        critic: From observation and action to action values `(1, B)`; a `CriticEnsemble` of one.
        actor: From observation to actions before `tanh`, `(B, A)`; an `Actor`.
        target_critic: The critic's target network.
        target_actor: The actor's.
        minibatch: `observation`, `next_observation` `(B, *obs_shape)`, `action (B, A)` in [-1, 1],
            `reward (B,)`, `terminated (B,)` bool.
        gamma: Discount in [0, 1].
    """
    observation, next_observation = minibatch["observation"], minibatch["next_observation"]
    with torch.no_grad():
        next_action = torch.tanh(target_actor(next_observation))
        next_q = target_critic(next_observation, next_action)[0]
        target = td_target(minibatch["reward"], minibatch["terminated"], next_q, gamma)
    q_value = critic(observation, minibatch["action"].flatten(1))
    critic_loss = ensemble_squared_error(q_value, target)
    actor_loss = -critic(observation, torch.tanh(actor(observation))).mean()
    statistics = torch.stack((critic_loss, actor_loss, q_value.mean()))
    return (critic_loss, actor_loss), statistics.detach()


class DDPG(Algorithm):
    """Deep deterministic policy gradient for Box actions.

    The policy acts in [-1, 1]; actions are rescaled to the space's bounds, which must be finite.
    Logs `train/td_loss`, `train/policy_loss`, `train/mean_q` (of the replayed actions),
    `train/grad_norm` (of both gradients together), `train/learning_rate` (the critic's) and
    `rollout/mean_reward` (per step).

    Args:
        env: Environment id, `EnvConfig`, mapping of its fields, or a class or factory.
        total_env_steps: Budget in env steps over all environments and ranks; default 100,000.
        total_episodes: Budget in finished episodes instead.
        schedule_env_steps: Env steps that schedules span; default the first `total_env_steps`.
        seed: Default: the value of `seed_everything`, else drawn and recorded.
        capacity: Transitions in the replay buffer.
        batch_size: Transitions of a minibatch.
        learning_starts: Env steps before the first update, with uniformly random actions.
        train_frequency: Env steps between two updates (a multiple of `env.num_envs`).
        gradient_steps: Minibatches of one update.
        tau: Weight of the online networks in each update of the target networks, in (0, 1].
        gamma: Discount in [0, 1].
        learning_rate: Of Adam, at least 0.
        actor_learning_rate: The actor's; default `learning_rate`.
        critic_learning_rate: The critic's; default `learning_rate`.
        exploration_noise: Standard deviation of the noise on the actor's actions.
        noise: `gaussian`, or `ornstein_uhlenbeck` for noise that is correlated in time.
        hidden_sizes: Units of each hidden layer of the default networks.
        actor: Network class as `{class_path, init_args}`, import path, or from Python a class or
            factory called with (input size, output size); default an `MLP` with ReLU.
        critic: The same for the critic.
        replay: What stands around the replay buffer, as `{class_path, init_args}`, such as
            `HindsightReplay` for environments with goals.
        env_steps_per_iteration: Env steps of one training unit, between which metrics, evaluation
            and checkpoints happen.
        compile: Compile the update: true, false, or `auto` by the gradient steps in the budget.

    Raises:
        ConfigError: For values outside their range or spaces that are not supported.
    """

    policy: ActingFunction
    update: JointUpdate
    gamma: float
    tau: float
    observation_normalizer: RunningNormalizer | None
    learning_rates: list[float]
    source: OffPolicySource

    def __init__(
        self,
        env: EnvLike = EnvConfig("Pendulum-v1"),  # noqa: B008 - never changed
        total_env_steps: int | None = None,
        total_episodes: int | None = None,
        schedule_env_steps: int | None = None,
        seed: int | None = None,
        capacity: int = 1_000_000,
        batch_size: int = 256,
        learning_starts: int = 1_000,
        train_frequency: int = 1,
        gradient_steps: int = 1,
        tau: float = 0.005,
        gamma: float = 0.99,
        learning_rate: float = 1e-3,
        actor_learning_rate: float | None = None,
        critic_learning_rate: float | None = None,
        exploration_noise: float = 0.1,
        noise: NoiseKind = "gaussian",
        hidden_sizes: tuple[int, ...] = (256, 256),
        actor: NetworkSpec = None,
        critic: NetworkSpec = None,
        replay: ReplaySpec = None,
        env_steps_per_iteration: int = 1_000,
        compile: CompileChoice = "auto",
    ) -> None:
        super().__init__(env, total_env_steps, total_episodes, schedule_env_steps, seed)
        take_arguments(self)
        self.action_size = rescale_box_actions(self)
        with self.seeded_initialization():
            networks = self.make_networks(hidden_sizes, actor, critic)
            self.critic, self.actor = networks
        self.target_critic, self.target_actor = (
            copy.deepcopy(network).requires_grad_(False) for network in networks
        )
        self.action_noise = ActionNoise(
            noise, exploration_noise, self.env_config.num_envs, self.action_size
        )

    def make_networks(
        self, hidden_sizes: tuple[int, ...], actor: NetworkSpec, critic: NetworkSpec
    ) -> tuple[CriticEnsemble, Actor]:
        """Return critic and actor; see the constructor's arguments."""
        space, factory = self.observation_space, network_factory(critic)
        return (
            CriticEnsemble(space, self.action_size, 1, hidden_sizes, network=factory),
            Actor(space, self.action_size, hidden_sizes, network_factory(actor)),
        )

    @property
    def unit_env_steps(self) -> int:  # noqa: D102
        return agent_unit(self)

    def act(self, observation: TensorObservation, deterministic: bool = True) -> Array:  # noqa: D102
        return act_with_noise(self, observation, deterministic)

    def policy_module(self) -> GreedyPolicy:  # noqa: D102
        return greedy_policy(self, self.actor, torch.tanh)

    def begin_rollout(self, num_steps: int) -> Act:  # noqa: D102
        return noisy_actions(self, num_steps)

    def build_source(self, collector: Collector) -> OffPolicySource:  # noqa: D102
        return acting_source(self, collector)

    def training_step(self, minibatches: Iterable[Transitions], batch_idx: int) -> Statistics:
        """Interleave collecting with gradient steps on replayed minibatches, for one unit."""
        for minibatch in prepared(self, minibatches):
            self.statistics.add(TRAINING_TAGS, self.update(minibatch))
        absorb_unit(self, self.observation_normalizer)
        return self.finish_update({"train/learning_rate": self.learning_rates[0]})

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Return one fused Adam for each network, over all of its parameters as one flat tensor."""
        trained: list[nn.Module] = [self.critic, self.actor]
        frozen: list[nn.Module] = [self.target_critic, self.target_actor]
        self.flats = [flatten_parameters(network) for network in trained]
        self.flat_targets = [FlatParameters(dict(x.named_parameters())) for x in frozen]
        loss = partial(ddpg_losses, gamma=self.gamma)
        rates = zip(self.flats, self.learning_rates, strict=True)
        optimizers = [FlatAdam(flat.flat, rate) for flat, rate in rates]
        targets = list(zip(frozen, self.flat_targets, strict=True))
        self.update = make_joint_update(self, loss, trained, optimizers, frozen, targets)
        return [*optimizers]
