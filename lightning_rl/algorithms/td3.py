"""Twin delayed deep deterministic policy gradient.

Fujimoto et al. (2018), https://arxiv.org/abs/1802.09477. A deterministic actor pi and two critics:

    a' = clip(pi_target(s') + clip(target_noise * normal, -noise_clip, noise_clip), -1, 1)
    y = r + gamma * (1 - terminated) * min_i Q_target_i(s', a')
    L(Q) = sum_i E[ (Q_i(s, a) - y)^2 ] / 2          at every gradient step
    L(pi) = -E[ Q_1(s, pi(s)) ]                      at every `policy_delay`-th, as are the targets

Deviation from the authors' code: where both are due, both gradients are taken at the same
parameters, so that they are one program.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lightning_rl.algorithms.base import Algorithm
from lightning_rl.buffers.hindsight import ReplaySpec
from lightning_rl.buffers.replay import Transitions
from lightning_rl.envs.config import EnvConfig, EnvLike
from lightning_rl.errors import check_ranges
from lightning_rl.experience.action_noise import ActionNoise, NoiseKind
from lightning_rl.experience.box_actions import (
    act_with_noise,
    acting_source,
    greedy_policy,
    noisy_actions,
    prepared,
    rescale_box_actions,
    take_arguments,
    update_noise,
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

CRITIC_STATISTICS = ("train/td_loss", "train/mean_q")
ACTOR_STATISTICS = (*CRITIC_STATISTICS, "train/policy_loss")


def td3_losses(
    critic: Callable[..., Tensor],
    actor: Callable[..., Tensor],
    target_critic: Callable[..., Tensor],
    target_actor: Callable[..., Tensor],
    minibatch: dict[str, Any],
    noise: Tensor,
    gamma: float,
    target_noise: float,
    noise_clip: float,
    with_actor: bool = True,
) -> tuple[list[Tensor], Tensor]:
    """Return the losses of critic and actor, and `ACTOR_STATISTICS`.

    Args:
        critic: From observation and action to action values `(M, B)`; a `CriticEnsemble`.
        actor: From observation to actions before `tanh`, `(B, A)`; an `Actor`.
        target_critic: The target networks of the critics.
        target_actor: The actor's.
        minibatch: `observation`, `next_observation` `(B, *obs_shape)`, `action (B, A)` in [-1, 1],
            `reward (B,)`, `terminated (B,)` bool.
        noise: `(B, A)` standard normal.
        gamma: Discount in [0, 1].
        target_noise: Standard deviation of the target actor's noise.
        noise_clip: Its largest magnitude.
        with_actor: Without it only the critics' loss is returned, with `CRITIC_STATISTICS`.
    """
    observation, next_observation = minibatch["observation"], minibatch["next_observation"]
    with torch.no_grad():
        smoothing = (noise * target_noise).clamp(-noise_clip, noise_clip)
        next_action = (torch.tanh(target_actor(next_observation)) + smoothing).clamp(-1.0, 1.0)
        next_q = target_critic(next_observation, next_action).amin(0)
        target = td_target(minibatch["reward"], minibatch["terminated"], next_q, gamma)
    q_values = critic(observation, minibatch["action"].flatten(1))
    losses = [ensemble_squared_error(q_values, target)]
    statistics = [losses[0], q_values.mean()]
    if with_actor:
        losses.append(-critic(observation, torch.tanh(actor(observation)), 1).mean())
        statistics.append(losses[1])
    return losses, torch.stack(statistics).detach()


class TD3(Algorithm):
    """Twin delayed DDPG for Box actions.

    The policy acts in [-1, 1]; actions are rescaled to the space's bounds, which must be finite.
    Logs `train/td_loss`, `train/mean_q` (of the replayed actions), `train/policy_loss` (over the
    steps that have one), `train/grad_norm` (of all gradients of a step together),
    `train/learning_rate` (the critics') and `rollout/mean_reward` (per step).

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
        critic_learning_rate: The critics'; default `learning_rate`.
        policy_delay: Gradient steps of the critics per one of the actor and the targets.
        target_noise: Standard deviation of the noise on the target actor's actions.
        noise_clip: Largest magnitude of that noise.
        exploration_noise: Standard deviation of the noise on the actor's actions.
        noise: `gaussian`, or `ornstein_uhlenbeck` for noise that is correlated in time.
        hidden_sizes: Units of each hidden layer of the default networks.
        actor: Network class as `{class_path, init_args}`, import path, or from Python a class or
            factory called with (input size, output size); default an `MLP` with ReLU.
        critic: The same for each critic.
        replay: What stands around the replay buffer, as `{class_path, init_args}`, such as
            `HindsightReplay` for environments with goals.
        env_steps_per_iteration: Env steps of one training unit, between which metrics, evaluation
            and checkpoints happen.
        compile: Compile the update: true, false, or `auto` by the gradient steps in the budget.

    Raises:
        ConfigError: For values outside their range or spaces that are not supported.
    """

    source: OffPolicySource
    gamma: float
    tau: float
    learning_rates: list[float]
    observation_normalizer: RunningNormalizer | None
    critic_update: JointUpdate
    update: JointUpdate
    policy: ActingFunction

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
        learning_rate: float = 3e-4,
        actor_learning_rate: float | None = None,
        critic_learning_rate: float | None = None,
        policy_delay: int = 2,
        target_noise: float = 0.2,
        noise_clip: float = 0.5,
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
        check_ranges(
            {
                "policy_delay": (policy_delay, 1, None),
                "target_noise": (target_noise, 0.0, None),
                "noise_clip": (noise_clip, 0.0, None),
            }
        )
        self.policy_delay, self.target_noise = policy_delay, target_noise
        self.noise_clip = noise_clip
        size = self.action_size = rescale_box_actions(self)
        space, sizes, factory = self.observation_space, hidden_sizes, network_factory(critic)
        with self.seeded_initialization():
            self.actor = Actor(space, size, sizes, network_factory(actor))
            self.critic = CriticEnsemble(space, size, 2, sizes, network=factory)
        self.target_critic = copy.deepcopy(self.critic).requires_grad_(False)
        self.target_actor = copy.deepcopy(self.actor).requires_grad_(False)
        self.action_noise = ActionNoise(noise, exploration_noise, self.env_config.num_envs, size)

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
            noise = update_noise(self)
            if (self.gradient_steps + 1) % self.policy_delay:
                statistics = self.critic_update(minibatch, noise)
                self.statistics.add((*CRITIC_STATISTICS, "train/grad_norm"), statistics)
            else:
                statistics = self.update(minibatch, noise)
                self.statistics.add((*ACTOR_STATISTICS, "train/grad_norm"), statistics)
        absorb_unit(self, self.observation_normalizer)
        return self.finish_update({"train/learning_rate": self.learning_rates[0]})

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Return one fused Adam for each network, over all of its parameters as one flat tensor."""
        networks, targets = [self.critic, self.actor], [self.target_critic, self.target_actor]
        self.flats = [flatten_parameters(network) for network in networks]
        self.flat_targets = [FlatParameters(dict(x.named_parameters())) for x in targets]
        loss = partial(
            td3_losses,
            gamma=self.gamma,
            target_noise=self.target_noise,
            noise_clip=self.noise_clip,
        )
        rates = zip(self.flats, self.learning_rates, strict=True)
        optimizers = [FlatAdam(flat.flat, rate) for flat, rate in rates]
        followers = list(zip(targets, self.flat_targets, strict=True))
        self.update = make_joint_update(self, loss, networks, optimizers, targets, followers)
        critic_loss, frozen = partial(loss, with_actor=False), [self.actor, *targets]
        self.critic_update = make_joint_update(
            self, critic_loss, networks[:1], optimizers[:1], frozen
        )
        return [*optimizers]
