"""Soft actor-critic for Discrete actions.

Christodoulou (2019), https://arxiv.org/abs/1910.07207. Expectations over the policy pi are exact
sums over the actions:

    V(s') = sum_a pi(a | s') * (min_i Q_target_i(s', a) - alpha * log pi(a | s'))
    L(Q) = sum_i E[ (Q_i(s, a) - r - gamma * (1 - terminated) * V(s'))^2 ] / 2
    L(pi) = E[ sum_a pi(a | s) * (alpha * log pi(a | s) - min_i Q_i(s, a)) ]
    L(alpha) = -log alpha * E[ sum_a pi(a | s) log pi(a | s) + target_entropy ]

Deviations from the paper: all gradients are taken at the same parameters, and the target entropy
is 0.5 instead of 0.98 of the largest one unless it is given.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from lightning_rl.algorithms.base import Algorithm
from lightning_rl.buffers.hindsight import ReplaySpec
from lightning_rl.buffers.replay import Transitions
from lightning_rl.envs.config import EnvConfig, EnvLike
from lightning_rl.errors import ConfigError
from lightning_rl.experience.box_actions import (
    acting_source,
    normalize,
    prepared,
    take_arguments,
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
from lightning_rl.functional.soft_actor_critic import ensemble_squared_error, temperature_loss
from lightning_rl.networks.acting import ActingFunction
from lightning_rl.networks.actors import Actor, Temperature
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
ENTROPY_SHARE = 0.5
"""Part of the largest entropy, log n, that `target_entropy: auto` aims at."""


def discrete_sac_losses(
    critic: Callable[..., Tensor],
    actor: Callable[..., Tensor],
    temperature: Callable[[], Tensor],
    target_critic: Callable[..., Tensor],
    minibatch: dict[str, Any],
    gamma: float,
    target_entropy: float,
) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
    """Return the losses of critic, actor and temperature, and the vector of `STATISTICS`.

    Args:
        critic: From observation to action values `(M, B, n)`; a `CriticEnsemble`.
        actor: From observation to logits `(B, n)`; an `Actor`.
        temperature: Returns log alpha; a `Temperature`.
        target_critic: The target networks.
        minibatch: `observation`, `next_observation` `(B, *obs_shape)`, `action (B,)` int64,
            `reward (B,)`, `terminated (B,)` bool.
        gamma: Discount in [0, 1].
        target_entropy: In nats.
    """
    observation, next_observation = minibatch["observation"], minibatch["next_observation"]
    log_alpha = temperature()
    alpha = log_alpha.detach().exp()
    with torch.no_grad():
        next_log_prob = actor(next_observation).log_softmax(-1)
        next_q = target_critic(next_observation).amin(0) - alpha * next_log_prob
        soft_value = (next_log_prob.exp() * next_q).sum(-1)
        target = td_target(minibatch["reward"], minibatch["terminated"], soft_value, gamma)
    all_q = critic(observation)
    action = minibatch["action"].view(1, -1, 1).expand(len(all_q), -1, 1)
    q_values = all_q.gather(-1, action).squeeze(-1)
    critic_loss = ensemble_squared_error(q_values, target)
    log_prob = actor(observation).log_softmax(-1)
    probability = log_prob.exp()
    actor_loss = (probability * (alpha * log_prob - all_q.detach().amin(0))).sum(-1).mean()
    negative_entropy = (probability * log_prob).sum(-1)
    alpha_loss = temperature_loss(log_alpha, negative_entropy, target_entropy)
    statistics = (critic_loss, actor_loss, q_values.mean(), negative_entropy.mean(), alpha)
    return (critic_loss, actor_loss, alpha_loss), torch.stack(statistics).detach()


class DiscreteSAC(Algorithm):
    """Soft actor-critic for Discrete actions, with a learned temperature.

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
        target_entropy: Entropy that `auto` aims at, in nats; `auto` is half of the largest, log n.
        num_critics: Critics, the least of which is believed.
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
    learning_starts: int
    learning_rates: list[float]
    observation_normalizer: RunningNormalizer | None
    update: JointUpdate
    policy: ActingFunction

    def __init__(
        self,
        env: EnvLike = EnvConfig("CartPole-v1"),  # noqa: B008 - never changed
        total_env_steps: int | None = None,
        total_episodes: int | None = None,
        schedule_env_steps: int | None = None,
        seed: int | None = None,
        capacity: int = 100_000,
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
        replay: ReplaySpec = None,
        env_steps_per_iteration: int = 1_000,
        compile: CompileChoice = "auto",
    ) -> None:
        super().__init__(env, total_env_steps, total_episodes, schedule_env_steps, seed)
        if not isinstance(self.action_space, spaces.Discrete):
            raise ConfigError(
                f"DiscreteSAC expects a Discrete action space, received {self.action_space}"
            )
        take_arguments(self)
        count = self.num_actions = int(self.action_space.n)
        self.target_entropy = number_or_auto(
            "target_entropy", target_entropy, ENTROPY_SHARE * math.log(count)
        )
        space, factory = self.observation_space, network_factory(critic)
        with self.seeded_initialization():
            self.actor = Actor(space, count, hidden_sizes, network_factory(actor))
            self.critic = CriticEnsemble(space, 0, num_critics, hidden_sizes, count, factory)
        self.target_critic = copy.deepcopy(self.critic).requires_grad_(False)
        self.temperature = Temperature(alpha, initial_alpha)

    @property
    def unit_env_steps(self) -> int:  # noqa: D102
        return agent_unit(self)

    def act(self, observation: TensorObservation, deterministic: bool = True) -> Array:  # noqa: D102
        with torch.no_grad():
            logits = self.actor(normalize(self, observation)).numpy(force=True)
        if deterministic:
            return logits.argmax(-1)
        return (logits + self.streams.numpy("exploration").gumbel(size=logits.shape)).argmax(-1)

    def policy_module(self) -> GreedyPolicy:  # noqa: D102
        normalizer = self.observation_normalizer
        network = self.actor if normalizer is None else nn.Sequential(normalizer, self.actor)
        return GreedyPolicy(network, lambda logits: logits.argmax(-1))

    def begin_rollout(self, num_steps: int) -> Act:  # noqa: D102
        shape, random = (num_steps, self.env_config.num_envs), self.streams.numpy("exploration")
        if self.env_steps < self.learning_starts:
            actions = random.integers(self.num_actions, size=shape)
            return lambda observation, step: actions[step]
        # The largest of logits plus Gumbel noise is a sample of their softmax.
        noise = random.gumbel(size=(*shape, self.num_actions)).astype(np.float32)
        policy = self.policy
        return lambda observation, step: (policy(observation) + noise[step]).argmax(-1)

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
        loss = partial(discrete_sac_losses, gamma=self.gamma, target_entropy=self.target_entropy)
        networks: list[nn.Module] = [self.critic, self.actor, self.temperature]
        count = 3 if self.temperature.is_learned else 2
        self.flats = [flatten_parameters(network) for network in networks[:count]]
        self.flat_target = FlatParameters(dict(self.target_critic.named_parameters()))
        trained, frozen = networks[:count], [*networks[count:], self.target_critic]
        rates = zip(self.flats, self.learning_rates, strict=False)
        optimizers = [FlatAdam(flat.flat, rate) for flat, rate in rates]
        targets = [(self.target_critic, self.flat_target)]
        self.update = make_joint_update(self, loss, trained, optimizers, frozen, targets)
        return [*optimizers]
