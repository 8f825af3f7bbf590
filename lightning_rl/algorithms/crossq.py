"""CrossQ: batch normalisation in the critics instead of target networks.

Bhatt et al. (2024), https://arxiv.org/abs/1902.05605. Soft actor-critic whose critics see the
replayed and the next state-action pairs in one batch, so that one normalisation serves both:

    (q_i, q'_i) = Q_i( [(s, a); (s', a')] )                       with a' sampled from the policy
    y = r + gamma * (1 - terminated) * (min_i q'_i - alpha * log pi(a' | s'))    without gradient
    L(Q) = sum_i E[ (q_i - y)^2 ] / 2          at every gradient step
    L(pi) = E[ alpha * log pi(a~ | s) - min_i Q_i(s, a~) ]         at every `policy_delay`-th
    L(alpha) = -log alpha * E[ log pi(a~ | s) + target_entropy ]   likewise

Deviations from the authors' code: hidden layers of 256 units by default (there 2048 for critics),
and where all are due, all gradients are taken at the same parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lightning_rl.algorithms.base import Algorithm
from lightning_rl.buffers.hindsight import ReplaySpec
from lightning_rl.buffers.replay import Transitions
from lightning_rl.envs.config import EnvConfig, EnvLike
from lightning_rl.errors import check_ranges
from lightning_rl.experience.box_actions import (
    act_squashed,
    acting_source,
    greedy_policy,
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
from lightning_rl.functional.parameters import flatten_parameters
from lightning_rl.functional.returns import td_target
from lightning_rl.functional.soft_actor_critic import (
    ensemble_squared_error,
    squashed_gaussian,
    squashed_mode,
    temperature_loss,
)
from lightning_rl.functional.trees import map_tree
from lightning_rl.networks.acting import ActingFunction
from lightning_rl.networks.actors import Temperature
from lightning_rl.networks.batch_renorm import RenormNetwork
from lightning_rl.networks.greedy import GreedyPolicy
from lightning_rl.networks.normalization import RunningNormalizer
from lightning_rl.types import Array, Statistics, TensorObservation

CRITIC_STATISTICS = ("train/td_loss", "train/mean_q", "train/alpha")
ACTOR_STATISTICS = (*CRITIC_STATISTICS, "train/policy_loss", "train/entropy_loss")


def crossq_losses(
    critic: Callable[..., Tensor],
    actor: Callable[..., Tensor],
    temperature: Callable[[], Tensor],
    minibatch: dict[str, Any],
    noise: Tensor,
    gamma: float,
    target_entropy: float,
    with_actor: bool = True,
) -> tuple[list[Tensor], Tensor]:
    """Return the losses of critic, actor and temperature, and `ACTOR_STATISTICS`.

    Args:
        critic: From observation, action and `batch_statistics` to action values `(M, B)`.
        actor: From observation, None and `batch_statistics` to distribution parameters `(B, 2A)`.
        temperature: Returns log alpha; a `Temperature`.
        minibatch: `observation`, `next_observation` `(B, *obs_shape)`, `action (B, A)` in [-1, 1],
            `reward (B,)`, `terminated (B,)` bool.
        noise: `(2, B, A)` standard normal: of the actions in the next and the present observation.
        gamma: Discount in [0, 1].
        target_entropy: In nats.
        with_actor: Without it only the critics' loss is returned, with `CRITIC_STATISTICS`.
    """
    observation, next_observation = minibatch["observation"], minibatch["next_observation"]
    log_alpha = temperature()
    alpha = log_alpha.detach().exp()
    with torch.no_grad():
        next_action, next_log_prob = squashed_gaussian(actor(next_observation), noise[0])
    both = map_tree(lambda now, then: torch.cat((now, then)), observation, next_observation)
    actions = torch.cat((minibatch["action"].flatten(1), next_action))
    q_values, next_q = critic(both, actions, True).chunk(2, -1)
    soft_value = next_q.detach().amin(0) - alpha * next_log_prob
    target = td_target(minibatch["reward"], minibatch["terminated"], soft_value, gamma)
    losses = [ensemble_squared_error(q_values, target)]
    statistics = [losses[0], q_values.mean(), alpha]
    if with_actor:
        action, log_prob = squashed_gaussian(actor(observation, None, True), noise[1])
        losses.append((alpha * log_prob - critic(observation, action).amin(0)).mean())
        losses.append(temperature_loss(log_alpha, log_prob, target_entropy))
        statistics += [losses[1], log_prob.mean()]
    return losses, torch.stack(statistics).detach()


class CrossQ(Algorithm):
    """CrossQ for Box actions: soft actor-critic without target networks.

    The policy acts in [-1, 1]; actions are rescaled to the space's bounds, which must be finite.
    Logs `train/td_loss`, `train/mean_q` (of the replayed actions), `train/alpha` (the temperature),
    `train/policy_loss` and `train/entropy_loss` (minus the policy's entropy, in nats; both over the
    steps at which the actor learns), `train/grad_norm` (of all gradients of a step together),
    `train/learning_rate` (the critics') and `rollout/mean_reward` (per step).

    Args:
        env: Environment id, `EnvConfig`, mapping of its fields, or a class or factory.
        total_env_steps: Budget in env steps over all environments and ranks; default 100,000.
        total_episodes: Budget in finished episodes instead.
        schedule_env_steps: Env steps that schedules span; default the first `total_env_steps`.
        seed: Default: the value of `seed_everything`, else drawn and recorded.
        capacity: Transitions in the replay buffer.
        batch_size: Transitions of a minibatch; at least 2.
        learning_starts: Env steps before the first update, with uniformly random actions.
        train_frequency: Env steps between two updates (a multiple of `env.num_envs`).
        gradient_steps: Minibatches of one update.
        gamma: Discount in [0, 1].
        learning_rate: Of Adam, at least 0.
        actor_learning_rate: The actor's; default `learning_rate`.
        critic_learning_rate: The critics'; default `learning_rate`.
        alpha_learning_rate: The temperature's; default `learning_rate`.
        adam_beta1: Decay of Adam's running mean of gradients of actor and critics, in [0, 1).
        alpha: Weight of the entropy: a number, or `auto` to learn it from `initial_alpha` on.
        initial_alpha: First weight of the entropy with `auto`, above 0.
        target_entropy: Entropy that `auto` aims at, in nats; `auto` is minus the action dimensions.
        policy_delay: Gradient steps of the critics per one of actor and temperature.
        num_critics: Critics, the least of which is believed.
        hidden_sizes: Units of each hidden layer of the actor.
        critic_hidden_sizes: Units of each hidden layer of the critics; default `hidden_sizes`.
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
        gamma: float = 0.99,
        learning_rate: float = 1e-3,
        actor_learning_rate: float | None = None,
        critic_learning_rate: float | None = None,
        alpha_learning_rate: float | None = None,
        adam_beta1: float = 0.5,
        alpha: Literal["auto"] | float = "auto",
        initial_alpha: float = 1.0,
        target_entropy: Literal["auto"] | float = "auto",
        policy_delay: int = 3,
        num_critics: int = 2,
        hidden_sizes: tuple[int, ...] = (256, 256),
        critic_hidden_sizes: tuple[int, ...] | None = None,
        replay: ReplaySpec = None,
        env_steps_per_iteration: int = 1_000,
        compile: CompileChoice = "auto",
    ) -> None:
        super().__init__(env, total_env_steps, total_episodes, schedule_env_steps, seed)
        take_arguments(self)
        check_ranges(
            {
                "batch_size": (batch_size, 2, None),  # one row has no variance to normalise by
                "adam_beta1": (adam_beta1, 0.0, 0.999),
                "policy_delay": (policy_delay, 1, None),
            }
        )
        self.policy_delay, self.adam_beta1 = policy_delay, adam_beta1
        size = self.action_size = rescale_box_actions(self)
        self.target_entropy = number_or_auto("target_entropy", target_entropy, -float(size))
        sizes = hidden_sizes if critic_hidden_sizes is None else critic_hidden_sizes
        with self.seeded_initialization():
            self.actor = RenormNetwork(self.observation_space, 0, 1, hidden_sizes, 2 * size)
            self.critic = RenormNetwork(self.observation_space, size, num_critics, sizes, 1)
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
            with_actor = (self.gradient_steps + 1) % self.policy_delay == 0
            update = self.update if with_actor else self.critic_update
            names = ACTOR_STATISTICS if with_actor else CRITIC_STATISTICS
            statistics = update(minibatch, update_noise(self, 2))
            self.statistics.add((*names, "train/grad_norm"), statistics)
        absorb_unit(self, self.observation_normalizer)
        return self.finish_update({"train/learning_rate": self.learning_rates[0]})

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Return one fused Adam for each network, over all of its parameters as one flat tensor."""
        networks: list[nn.Module] = [self.critic, self.actor, self.temperature]
        count = 3 if self.temperature.is_learned else 2
        self.flats = [flatten_parameters(network) for network in networks[:count]]
        loss = partial(crossq_losses, gamma=self.gamma, target_entropy=self.target_entropy)
        betas = [(self.adam_beta1, 0.999), (self.adam_beta1, 0.999), (0.9, 0.999)]
        optimizers = [
            FlatAdam(flat.flat, rate, betas=decay)
            for flat, rate, decay in zip(self.flats, self.learning_rates, betas, strict=False)
        ]
        self.update, self.critic_update = (
            make_joint_update(
                self,
                partial(loss, with_actor=trained > 1),
                networks[:trained],
                optimizers[:trained],
                networks[trained:],
            )
            for trained in (count, 1)
        )
        return [*optimizers]
