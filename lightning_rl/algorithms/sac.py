"""Soft actor-critic.

Haarnoja et al. (2018), https://arxiv.org/abs/1812.05905. Maximises return plus alpha times the
policy's entropy. Over replayed transitions, with a' and a~ sampled from the policy pi,

    y = r + gamma * (1 - terminated) * (min_i Q_target_i(s', a') - alpha * log pi(a' | s'))
    L(Q) = sum_i E[ (Q_i(s, a) - y)^2 ] / 2
    L(pi) = E[ alpha * log pi(a~ | s) - min_i Q_i(s, a~) ]
    L(alpha) = -log alpha * E[ log pi(a~ | s) + target_entropy ]

each minimised with respect to its own network. With `use_sde` the policy explores by generalised
state-dependent exploration (Raffin et al., 2022, https://arxiv.org/abs/2005.05719). Deviation from
the authors' code: the three gradients are taken at the same parameters (as in Acme's SAC), so that
they are one program.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from lightning_rl.algorithms.base import Algorithm
from lightning_rl.buffers.hindsight import ReplaySpec
from lightning_rl.buffers.replay import Transitions
from lightning_rl.envs.config import EnvConfig, EnvLike
from lightning_rl.experience.box_actions import (
    act_squashed,
    acting_source,
    greedy_policy,
    make_squashed_actor,
    prepared,
    rescale_box_actions,
    squashed_actions,
    take_arguments,
    update_noise,
)
from lightning_rl.experience.collector import Act, Collector
from lightning_rl.experience.hyperparameters import number_or_auto
from lightning_rl.experience.joint_update import make_joint_update
from lightning_rl.experience.off_policy import OffPolicySource, agent_unit
from lightning_rl.experience.running_statistics import absorb_unit
from lightning_rl.functional.compilation import CompileChoice
from lightning_rl.functional.joint_updates import JointUpdate
from lightning_rl.functional.optimizers import FlatAdam
from lightning_rl.functional.parameters import FlatParameters, flatten_parameters
from lightning_rl.functional.returns import td_target
from lightning_rl.functional.soft_actor_critic import (
    ensemble_squared_error,
    squashed_gaussian,
    squashed_mode,
    temperature_loss,
)
from lightning_rl.networks.acting import ActingFunction
from lightning_rl.networks.actors import Temperature
from lightning_rl.networks.ensemble import CriticEnsemble
from lightning_rl.networks.greedy import GreedyPolicy
from lightning_rl.networks.normalization import RunningNormalizer
from lightning_rl.networks.specification import NetworkSpec, network_factory
from lightning_rl.types import Array, Statistics, TensorObservation

STATISTICS = (
    "train/td_loss",
    "train/policy_loss",
    "train/mean_q",
    "train/entropy_loss",
    "train/alpha",
)
TRAINING_TAGS = (*STATISTICS, "train/grad_norm")


def sac_losses(
    critic: Callable[..., Tensor],
    actor: Callable[..., Tensor],
    temperature: Callable[[], Tensor],
    target_critic: Callable[..., Tensor],
    minibatch: dict[str, Any],
    noise: Tensor,
    gamma: float,
    target_entropy: float,
) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
    """Return the losses of critic, actor and temperature, and the vector of `STATISTICS`.

    Args:
        critic: From observation and action to action values `(M, B)`; a `CriticEnsemble`.
        actor: From observation to distribution parameters `(B, 2A)`; an `Actor`.
        temperature: Returns log alpha; a `Temperature`.
        target_critic: The target networks.
        minibatch: `observation`, `next_observation` `(B, *obs_shape)`, `action (B, A)` in [-1, 1],
            `reward (B,)`, `terminated (B,)` bool.
        noise: `(2, B, A)` standard normal: of the actions in the next and the present observation.
        gamma: Discount in [0, 1].
        target_entropy: In nats.
    """
    observation, next_observation = minibatch["observation"], minibatch["next_observation"]
    log_alpha = temperature()
    alpha = log_alpha.detach().exp()
    with torch.no_grad():
        next_action, next_log_prob = squashed_gaussian(actor(next_observation), noise[0])
        next_q = target_critic(next_observation, next_action).amin(0)
        soft_value = next_q - alpha * next_log_prob
        target = td_target(minibatch["reward"], minibatch["terminated"], soft_value, gamma)
    q_values = critic(observation, minibatch["action"].flatten(1))
    critic_loss = ensemble_squared_error(q_values, target)
    action, log_prob = squashed_gaussian(actor(observation), noise[1])
    actor_loss = (alpha * log_prob - critic(observation, action, least=True)).mean()
    alpha_loss = temperature_loss(log_alpha, log_prob, target_entropy)
    statistics = (critic_loss, actor_loss, q_values.mean(), log_prob.mean(), alpha)
    return (critic_loss, actor_loss, alpha_loss), torch.stack(statistics).detach()


class SAC(Algorithm):
    """Soft actor-critic for Box actions, with a learned temperature.

    The policy acts in [-1, 1]; actions are rescaled to the space's bounds, which must be finite.
    Logs `train/td_loss`, `train/policy_loss`, `train/mean_q` (of the replayed actions),
    `train/entropy_loss` (minus the policy's entropy, in nats), `train/alpha` (the temperature),
    `train/grad_norm` (of all gradients together), `train/learning_rate` (the critics') and
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
        tau: Weight of the online critics in each update of the target critics, in (0, 1].
        gamma: Discount in [0, 1].
        learning_rate: Of Adam, at least 0.
        actor_learning_rate: The actor's; default `learning_rate`.
        critic_learning_rate: The critics'; default `learning_rate`.
        alpha_learning_rate: The temperature's; default `learning_rate`.
        alpha: Weight of the entropy: a number, or `auto` to learn it from `initial_alpha` on.
        initial_alpha: First weight of the entropy with `auto`, above 0.
        target_entropy: Entropy that `auto` aims at, in nats; `auto` is minus the action dimensions.
        num_critics: Critics, the least of which is believed.
        hidden_sizes: Units of each hidden layer of the default networks.
        actor: Network class as `{class_path, init_args}`, import path, or from Python a class or
            factory called with (input size, output size); default an `MLP` with ReLU. With
            `use_sde` its outputs are as many features as the last of `hidden_sizes`.
        critic: The same for each critic.
        use_sde: Explore by state-dependent noise (gSDE) instead of independent noise at every step.
        sde_sample_freq: With `use_sde`, steps of each environment after which the noise's matrix is
            drawn anew; -1 draws it at the start of every rollout of `train_frequency` env steps.
        log_std_init: With `use_sde`, first log standard deviation of the matrix's entries.
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
        alpha_learning_rate: float | None = None,
        alpha: Literal["auto"] | float = "auto",
        initial_alpha: float = 1.0,
        target_entropy: Literal["auto"] | float = "auto",
        num_critics: int = 2,
        hidden_sizes: tuple[int, ...] = (256, 256),
        actor: NetworkSpec = None,
        critic: NetworkSpec = None,
        use_sde: bool = False,
        sde_sample_freq: int = -1,
        log_std_init: float = -3.0,
        replay: ReplaySpec = None,
        env_steps_per_iteration: int = 1_000,
        compile: CompileChoice = "auto",
    ) -> None:
        super().__init__(env, total_env_steps, total_episodes, schedule_env_steps, seed)
        take_arguments(self)
        size = self.action_size = rescale_box_actions(self)
        self.target_entropy = number_or_auto("target_entropy", target_entropy, -float(size))
        space, sizes = self.observation_space, hidden_sizes
        with self.seeded_initialization():
            self.actor = make_squashed_actor(self)
            self.critic = CriticEnsemble(
                space, size, num_critics, sizes, network=network_factory(critic)
            )
        self.target_critic = copy.deepcopy(self.critic).requires_grad_(False)
        self.temperature = Temperature(alpha, initial_alpha)

    @property
    def unit_env_steps(self) -> int:  # noqa: D102
        return agent_unit(self)

    def act(self, observation: TensorObservation, deterministic: bool = True) -> Array:  # noqa: D102
        return act_squashed(self, observation, deterministic)

    def policy_module(self) -> GreedyPolicy:  # noqa: D102
        return greedy_policy(self, self.actor, squashed_mode)

    def begin_rollout(self, num_steps: int) -> Act:  # noqa: D102
        return squashed_actions(self, num_steps)

    def build_source(self, collector: Collector) -> OffPolicySource:  # noqa: D102
        return acting_source(self, collector)

    def training_step(self, minibatches: Iterable[Transitions], batch_idx: int) -> Statistics:
        """Interleave collecting with gradient steps on replayed minibatches, for one unit."""
        for minibatch in prepared(self, minibatches):
            statistics = self.update(minibatch, update_noise(self, 2))
            self.statistics.add(TRAINING_TAGS, statistics)
        absorb_unit(self, self.observation_normalizer)
        return self.finish_update({"train/learning_rate": self.learning_rates[0]})

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Return one fused Adam for each network, over all of its parameters as one flat tensor."""
        networks = [self.critic, self.actor, self.temperature]
        trained = networks if self.temperature.is_learned else networks[:2]
        self.flats = [flatten_parameters(network) for network in trained]
        self.flat_target = FlatParameters(dict(self.target_critic.named_parameters()))
        loss = partial(sac_losses, gamma=self.gamma, target_entropy=self.target_entropy)
        frozen = [*networks[len(trained) :], self.target_critic]
        rates = zip(self.flats, self.learning_rates, strict=False)
        optimizers = [FlatAdam(flat.flat, rate) for flat, rate in rates]
        targets = [(self.target_critic, self.flat_target)]
        self.update = make_joint_update(self, loss, trained, optimizers, frozen, targets)
        return [*optimizers]
