"""Truncated quantile critics.

Kuznetsov et al. (2020), https://arxiv.org/abs/2005.04269. Soft actor-critic whose M critics return
K quantiles of the return each. The atoms of all target critics are pooled, and the largest M *
`dropped_quantiles` of them left out, which bounds overestimation more finely than a minimum:

    z_j = the atoms of all Q_target_i(s', a') in ascending order, the largest left out
    y_j = r + gamma * (1 - terminated) * (z_j - alpha * log pi(a' | s'))
    L(Q) = sum_i E[ quantile Huber loss of Q_i(s, a) to all y_j ] / K
    L(pi) = E[ alpha * log pi(a~ | s) - mean of all atoms of Q(s, a~) ]
    L(alpha) = -log alpha * E[ log pi(a~ | s) + target_entropy ]

With `use_sde` the policy explores by generalised state-dependent exploration (Raffin et al., 2022,
https://arxiv.org/abs/2005.05719). Deviation from the authors' code: all gradients are taken at the
same parameters.
"""

from __future__ import annotations

import copy
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
from lightning_rl.functional.distributional import quantile_huber_loss, quantile_midpoints
from lightning_rl.functional.joint_updates import JointUpdate
from lightning_rl.functional.optimizers import FlatAdam
from lightning_rl.functional.parameters import FlatParameters, flatten_parameters
from lightning_rl.functional.returns import td_target
from lightning_rl.functional.soft_actor_critic import (
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


def truncated_atoms(quantiles: Tensor, dropped_quantiles: int) -> Tensor:
    """Return the pooled atoms of all critics in ascending order, without the largest ones.

    Args:
        quantiles: `(M, B, K)`.
        dropped_quantiles: Atoms to leave out, times M.

    Returns:
        `(B, M * (K - dropped_quantiles))`.
    """
    members, rows, count = quantiles.shape
    pooled = quantiles.transpose(0, 1).reshape(rows, members * count).sort(-1).values
    return pooled[:, : members * (count - dropped_quantiles)]


def tqc_losses(
    critic: Callable[..., Tensor],
    actor: Callable[..., Tensor],
    temperature: Callable[[], Tensor],
    target_critic: Callable[..., Tensor],
    minibatch: dict[str, Any],
    noise: Tensor,
    midpoints: Tensor,
    gamma: float,
    target_entropy: float,
    dropped_quantiles: int,
) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
    """Return the losses of critic, actor and temperature, and the vector of `STATISTICS`.

    Args:
        critic: From observation and action to quantiles `(M, B, K)`; a `CriticEnsemble`.
        actor: From observation to distribution parameters `(B, 2A)`; an `Actor`.
        temperature: Returns log alpha; a `Temperature`.
        target_critic: The target networks.
        minibatch: `observation`, `next_observation` `(B, *obs_shape)`, `action (B, A)` in [-1, 1],
            `reward (B,)`, `terminated (B,)` bool.
        noise: `(2, B, A)` standard normal: of the actions in the next and the present observation.
        midpoints: `(K,)` fraction that each quantile stands for.
        gamma: Discount in [0, 1].
        target_entropy: In nats.
        dropped_quantiles: See `truncated_atoms`.
    """
    observation, next_observation = minibatch["observation"], minibatch["next_observation"]
    log_alpha = temperature()
    alpha = log_alpha.detach().exp()
    with torch.no_grad():
        next_action, next_log_prob = squashed_gaussian(actor(next_observation), noise[0])
        atoms = truncated_atoms(target_critic(next_observation, next_action), dropped_quantiles)
        soft_atoms = atoms - alpha * next_log_prob.unsqueeze(-1)
        reward, terminated = (
            minibatch[name].unsqueeze(-1).expand_as(atoms) for name in ("reward", "terminated")
        )
        target = td_target(reward, terminated, soft_atoms, gamma)
    quantiles = critic(observation, minibatch["action"].flatten(1))
    row_losses = [quantile_huber_loss(own, target, midpoints) for own in quantiles]
    critic_loss = torch.stack(row_losses).mean(-1).sum() / len(midpoints)
    action, log_prob = squashed_gaussian(actor(observation), noise[1])
    actor_loss = (alpha * log_prob - critic(observation, action).mean((0, 2))).mean()
    alpha_loss = temperature_loss(log_alpha, log_prob, target_entropy)
    statistics = (critic_loss, actor_loss, quantiles.mean(), log_prob.mean(), alpha)
    return (critic_loss, actor_loss, alpha_loss), torch.stack(statistics).detach()


class TQC(Algorithm):
    """Truncated quantile critics for Box actions, with a learned temperature.

    The policy acts in [-1, 1]; actions are rescaled to the space's bounds, which must be finite.
    Logs `train/td_loss` (the quantile Huber loss), `train/policy_loss`, `train/mean_q` (of the
    replayed actions), `train/entropy_loss` (minus the policy's entropy, in nats), `train/alpha`
    (the temperature), `train/grad_norm` (of all gradients together), `train/learning_rate` (the
    critics') and `rollout/mean_reward` (per step).

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
        num_critics: Critics whose atoms are pooled; the paper has 5.
        num_quantiles: Quantiles of each critic, at least 1.
        dropped_quantiles: Largest atoms left out of the target per critic; 0 keeps all.
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

    update: JointUpdate
    policy: ActingFunction
    learning_rates: list[float]
    gamma: float
    tau: float
    observation_normalizer: RunningNormalizer | None
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
        learning_rate: float = 3e-4,
        actor_learning_rate: float | None = None,
        critic_learning_rate: float | None = None,
        alpha_learning_rate: float | None = None,
        alpha: Literal["auto"] | float = "auto",
        initial_alpha: float = 1.0,
        target_entropy: Literal["auto"] | float = "auto",
        num_critics: int = 2,
        num_quantiles: int = 25,
        dropped_quantiles: int = 2,
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
        check_ranges(
            {
                "num_quantiles": (num_quantiles, 1, None),
                "dropped_quantiles": (dropped_quantiles, 0, num_quantiles - 1),
            }
        )
        self.num_quantiles, self.dropped_quantiles = num_quantiles, dropped_quantiles
        size = self.action_size = rescale_box_actions(self)
        self.target_entropy = number_or_auto("target_entropy", target_entropy, -float(size))
        space, sizes, factory = self.observation_space, hidden_sizes, network_factory(critic)
        with self.seeded_initialization():
            self.actor = make_squashed_actor(self)
            self.critic = CriticEnsemble(space, size, num_critics, sizes, num_quantiles, factory)
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
        midpoints = quantile_midpoints(self.num_quantiles).to(self.device)
        for minibatch in prepared(self, minibatches):
            statistics = self.update(minibatch, update_noise(self, 2), midpoints)
            self.statistics.add(TRAINING_TAGS, statistics)
        absorb_unit(self, self.observation_normalizer)
        return self.finish_update({"train/learning_rate": self.learning_rates[0]})

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Return one fused Adam for each network, over all of its parameters as one flat tensor."""
        loss = partial(
            tqc_losses,
            gamma=self.gamma,
            target_entropy=self.target_entropy,
            dropped_quantiles=self.dropped_quantiles,
        )
        networks: list[nn.Module] = [self.critic, self.actor, self.temperature, self.target_critic]
        count = 3 if self.temperature.is_learned else 2
        trained, frozen = networks[:count], networks[count:]
        self.flats = [flatten_parameters(network) for network in trained]
        self.flat_target = FlatParameters(dict(self.target_critic.named_parameters()))
        rates = zip(self.flats, self.learning_rates, strict=False)
        optimizers = [FlatAdam(flat.flat, rate) for flat, rate in rates]
        targets = [(self.target_critic, self.flat_target)]
        self.update = make_joint_update(self, loss, trained, optimizers, frozen, targets)
        return [*optimizers]
