"""Proximal Policy Optimization with memory.

The objective is that of PPO (Schulman et al., 2017, https://arxiv.org/abs/1707.06347), with policy
and value functions of the history instead of the last observation: an LSTM (Hochreiter and
Schmidhuber, 1997, https://doi.org/10.1162/neco.1997.9.8.1735) or a GRU (Cho et al., 2014,
https://arxiv.org/abs/1406.1078) carries a state from step to step,

    h_t = cell(o_t, h_{t-1}),   pi(a | h_t),   V(h_t),   h_{-1} = 0 where an episode begins.

Gradients flow back through at most `sequence_length` steps; each sequence starts from the state
that the acting policy had there. Deviations from common practice: sequences are cut at episode
ends (no state is reset within one), and truncated episodes bootstrap from the value of their true
final observation, under the state with which the policy would have seen it.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from lightning_rl.algorithms.base import Algorithm
from lightning_rl.buffers.rollout import Rollout
from lightning_rl.buffers.sequences import cut_sequences
from lightning_rl.envs.config import EnvConfig, EnvLike
from lightning_rl.errors import ConfigError, check_choice
from lightning_rl.experience.advantages import advantages, rollout_tensors
from lightning_rl.experience.collector import Act, Collector
from lightning_rl.experience.hyperparameters import check_common_ranges
from lightning_rl.experience.on_policy import Minibatches
from lightning_rl.experience.recurrent import RecurrentSource
from lightning_rl.experience.running_statistics import (
    absorb_observations,
    make_reward_normalizer,
    standardize,
)
from lightning_rl.experience.trust_region import (
    SCHEDULES,
    is_too_far,
    set_learning_rate,
    steer_learning_rate,
)
from lightning_rl.functional.gradients import GradientFunction, gradient_function
from lightning_rl.functional.masks import split_mask
from lightning_rl.functional.optimizers import FlatAdam
from lightning_rl.functional.parameters import flatten_parameters
from lightning_rl.functional.surrogate import SURROGATE_STATISTICS, surrogate_loss
from lightning_rl.functional.trees import map_tree
from lightning_rl.networks.distributions import ActionHead, make_action_head
from lightning_rl.networks.recurrent import GreedyRecurrentPolicy, RecurrentActorCritic
from lightning_rl.networks.specification import NetworkSpec, network_factory
from lightning_rl.types import Array, Statistics, TensorObservation

OLD = ("log_prob", "value", "advantage", "return")


def recurrent_ppo_loss(
    network: RecurrentActorCritic,
    minibatch: dict[str, Any],
    coefficients: Tensor,
    head: ActionHead,
    clip_value_loss: bool,
) -> tuple[Tensor, Tensor]:
    """Return the loss to minimise and the vector of `SURROGATE_STATISTICS`.

    Args:
        network: What is trained.
        minibatch: Whole sequences: `observation (B, L, *obs_shape)`, `action (B, L, ...)`,
            `log_prob`, `advantage`, `value`, `return` and `mask` (bool: is part of the sequence)
            `(B, L)`, `state (B, S)` before the first step. Means are over what the mask leaves.
        coefficients: `clip_coef, vf_coef, ent_coef`.
        head: Action distribution.
        clip_value_loss: Clip the value loss as well.
    """
    mask = minibatch["mask"]
    distribution, value = network.sequence(minibatch["observation"], minibatch["state"])
    distribution, value = distribution[mask], value[mask]
    old = {name: minibatch[name][mask] for name in OLD}
    log_prob = head.log_prob(distribution, minibatch["action"][mask])
    entropy = head.entropy(distribution)
    return surrogate_loss(log_prob, entropy, value, old, coefficients, clip_value_loss)


class RecurrentPPO(Algorithm):
    """PPO whose policy remembers, for environments that do not show all that matters.

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
        cell: `lstm` or `gru`.
        hidden_size: Units of the cell.
        sequence_length: Most steps that gradients flow back through; 1 trains a memory that is
            never taught what to keep.
        num_steps: Steps of each environment in one rollout.
        minibatch_size: Steps of a minibatch, on average: it holds whole sequences.
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
        hidden_sizes: Units of each hidden layer behind the cell, of actor and critic each.
        activation: Their activation.
        log_std_init: First log standard deviation of Box actions.
        actor: Network behind the cell as `{class_path, init_args}`, import path, or from Python a
            class or factory called with (input size, output size); default `MLPActor`.
        critic: The same for the value network; default `MLPCritic`.
        mask_actions: Choose among valid actions only, in training and after it; for Discrete and
            MultiDiscrete. Masks come from the environment's `info["action_mask"]` or its method
            `action_masks()`: one entry for each action, those of MultiDiscrete one after the other.

    Raises:
        ConfigError: For values outside their range or spaces that are not supported.

    Example:
        >>> agent = RecurrentPPO("CartPole-v1", total_env_steps=1_000, seed=1)
        >>> action, state = agent.predict_with_state([0.0, 0.0, 0.0, 0.0])
        >>> action, state = agent.predict_with_state([0.0, 0.1, 0.0, -0.1], state)
        >>> int(action) in (0, 1)
        True
    """

    source: RecurrentSource
    gradient: GradientFunction

    def __init__(
        self,
        env: EnvLike = EnvConfig("CartPole-v1"),  # noqa: B008 - never changed
        total_env_steps: int | None = None,
        total_episodes: int | None = None,
        schedule_env_steps: int | None = None,
        seed: int | None = None,
        cell: Literal["lstm", "gru"] = "lstm",
        hidden_size: int = 64,
        sequence_length: int = 32,
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
        hidden_sizes: tuple[int, ...] = (64,),
        activation: str = "tanh",
        log_std_init: float = 0.0,
        actor: NetworkSpec = None,
        critic: NetworkSpec = None,
        mask_actions: bool = False,
    ) -> None:
        env = EnvConfig.coerce(env).showing_action_mask(mask_actions)
        super().__init__(env, total_env_steps, total_episodes, schedule_env_steps, seed)
        check_common_ranges(self._arguments)
        check_choice("learning_rate_schedule", learning_rate_schedule, SCHEDULES)
        self.num_steps, self.sequence_length = num_steps, sequence_length
        self.minibatch_size = minibatch_size
        self.update_epochs, self.gamma, self.gae_lambda = update_epochs, gamma, gae_lambda
        self.coefficients = torch.tensor([clip_coef, vf_coef, ent_coef])
        self.clip_value_loss, self.normalize_advantage = clip_value_loss, normalize_advantage
        self.max_grad_norm, self.learning_rate = max_grad_norm, learning_rate
        self.learning_rate_schedule, self.target_kl = learning_rate_schedule, target_kl
        self.head = make_action_head(self.action_space)
        with self.seeded_initialization():
            self.network = RecurrentActorCritic(
                self.observation_space,
                self.action_space,
                cell,
                hidden_size,
                network_factory(actor),
                network_factory(critic),
                hidden_sizes,
                activation,
                log_std_init,
                self.env_config.normalize_observation,
                mask_actions,
            )
        self.reward_normalizer = make_reward_normalizer(self.env_config, gamma)

    @property
    def unit_env_steps(self) -> int:  # noqa: D102
        return self.num_steps * self.env_config.num_envs

    def act(self, observation: TensorObservation, deterministic: bool = True) -> Array:
        """Return the actions at the beginning of episodes; `act_with_state` goes on from there."""
        return self.act_with_state(observation, None, deterministic)[0]

    @torch.no_grad()
    def act_with_state(  # noqa: D102
        self, observation: TensorObservation, state: Array | None, deterministic: bool = True
    ) -> tuple[Array, Array]:
        if state is None:
            state = self.initial_state(observation)
        distribution, after = self._step(observation, state)
        if deterministic:
            action = self.head.mode(distribution).numpy(force=True)
        else:
            noise = self.head.draw_noise((len(distribution),), self.streams.torch("action"))
            action = self.head.sample(distribution.cpu(), noise).numpy()
        return action, after

    def initial_state(self, observation: TensorObservation) -> Array:
        """Return the states `(N, S)` with which episodes begin, for observations `(N, ...)`."""
        leaf = next(iter(observation.values())) if isinstance(observation, dict) else observation
        return torch.zeros(len(leaf), self.network.state_size).numpy()

    def policy_module(self) -> GreedyRecurrentPolicy:  # noqa: D102
        return GreedyRecurrentPolicy(self.network, self.head.mode)

    def begin_rollout(self, num_steps: int) -> Act:  # noqa: D102
        prefix = (num_steps, self.env_config.num_envs)
        noise = self.head.draw_noise(prefix, self.streams.torch("action")).numpy()
        source = self.source

        def act(observation: TensorObservation, step: int) -> Array:
            distribution, after = self._step(self.to_device(observation), source.state_before(step))
            source.keep(after)
            return self.head.sample_array(distribution.numpy(force=True), noise[step])

        return act

    def _step(self, observation: TensorObservation, state: Array) -> tuple[Tensor, Array]:
        """Return distribution parameters `(N, P)` and the states `(N, S)` afterwards."""
        before = torch.from_numpy(state).to(self.device)
        distribution, after = self.network.act(observation, before)
        return distribution, after.float().numpy(force=True)

    def build_source(self, collector: Collector) -> RecurrentSource:  # noqa: D102
        if collector.env.skips_steps:
            raise ConfigError(
                "RecurrentPPO needs environments that all step at once; use vectorization: sync or "
                "async"
            )
        return RecurrentSource(self, collector, self.num_steps, self.network.state_size)

    @torch.no_grad()
    def estimate(self, rollout: Rollout) -> dict[str, Any]:
        """Return the rollout as sequences with log-probabilities, values, advantages, returns."""
        self.source.state_before(self.num_steps)
        observation, columns = rollout_tensors(self, rollout)
        state = torch.from_numpy(self.source.states).to(self.device)
        shape = self.num_steps, rollout.num_envs
        flat = map_tree(lambda leaf: leaf.flatten(0, 1), observation)
        distribution, values, after = self.network(flat, state.flatten(0, 1))
        value, next_value = self._values(rollout, values, after)
        rows = shape[0] * shape[1]
        log_prob = self.head.log_prob(distribution[:rows], columns["action"].flatten(0, 1))
        advantage, return_ = advantages(self, columns, value, next_value)
        if self.normalize_advantage:
            advantage = standardize(self, advantage.flatten()).view(shape)
        sequences = cut_sequences(rollout.terminated | rollout.truncated, self.sequence_length)
        columns |= {"log_prob": log_prob.view(shape), "value": value}
        columns |= {"advantage": advantage, "return": return_}
        names = ("action", *OLD)
        return {
            "observation": sequences.take(map_tree(lambda leaf: leaf[:-1], observation)),
            **{name: sequences.take(columns[name]) for name in names},
            "mask": sequences.mask.to(self.device),
            "state": sequences.first(state),
        }

    def _values(self, rollout: Rollout, values: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
        """Return the values of each step's observation and of what it led to, `(T, N)`."""
        value = values.view(self.num_steps + 1, rollout.num_envs)
        next_value = value[1:].clone()
        if rollout.final_index:
            steps, envs = (torch.from_numpy(index) for index in rollout.final_indices())
            final = map_tree(lambda leaf: leaf.to(self.device), rollout.final_observations())
            memory = after.view(self.num_steps + 1, rollout.num_envs, -1)[steps, envs]
            next_value[steps, envs] = self.network(final, memory)[1]
        return value[:-1], next_value

    def training_step(self, minibatches: Minibatches, batch_idx: int) -> Statistics:
        """Update the network on one rollout: epochs of minibatches of whole sequences."""
        learning_rate = set_learning_rate(self)
        for sequences in minibatches:
            gradient, statistics = self.gradient(sequences, self.coefficients.to(self.device))
            self.apply_gradient(self.flat, gradient, self.max_grad_norm)
            minibatches.record(statistics)
            if is_too_far(self, statistics):
                break
        tags = (*SURROGATE_STATISTICS, "train/grad_norm")
        means = dict(zip(tags, minibatches.means(), strict=True))
        means["train/learning_rate"] = learning_rate
        steer_learning_rate(self, means["train/approx_kl"])
        if self.network.heads.log_std is not None:
            means["train/action_std"] = float(self.network.heads.log_std.detach().exp().mean())
        experience: dict[str, Any] = minibatches.experience
        seen = map_tree(lambda leaf: leaf[experience["mask"]], experience["observation"])
        seen, _ = split_mask(seen, self.network.mask_actions)
        absorb_observations(self, self.network.observation_normalizer, seen)
        return self.finish_update(means)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return one fused Adam over all parameters as one flat tensor."""
        self.flat = flatten_parameters(self.network)
        loss = partial(recurrent_ppo_loss, head=self.head, clip_value_loss=self.clip_value_loss)
        # Uncompiled: the number of sequences and their length differ from rollout to rollout.
        bound = self.max_grad_norm if self.num_ranks == 1 else None
        self.gradient = gradient_function(loss, self.network, self.flat, False, (), bound)
        return FlatAdam(self.flat.flat, self.learning_rate, eps=1e-5)
