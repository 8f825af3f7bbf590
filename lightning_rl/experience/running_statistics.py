"""Statistics that all ranks of a training run share: moments, means and running normalisers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_rl.envs.config import EnvConfig
from lightning_rl.experience.agent_state import Agent
from lightning_rl.functional.statistics import batch_moments, combine_moments
from lightning_rl.networks.normalization import Moments, RewardNormalizer, RunningNormalizer
from lightning_rl.types import TensorObservation


def make_reward_normalizer(config: EnvConfig, gamma: float) -> RewardNormalizer | None:
    """Return the normaliser that `env.normalize_reward` asks for, or None."""
    return RewardNormalizer(config.num_envs, gamma) if config.normalize_reward else None


def absorb_observations(
    agent: Agent, normalizer: RunningNormalizer | None, observation: TensorObservation
) -> None:
    """Add every rank's observations `(B, *obs_shape)` to the running statistics, if there are any.

    Call it behind the update: acting and learning must see the same normalisation.
    """
    if normalizer is None:
        return
    moments = normalizer.batch_moments(observation)
    reduced = {key: reduce_moments(agent, batch) for key, batch in moments.items()}
    normalizer.update_from_moments(reduced)


def absorb_rewards(
    agent: Agent, normalizer: RewardNormalizer, reward: Tensor, episode_end: Tensor
) -> None:
    """Add every rank's rewards `(T, N)` to the running statistics of their discounted sums."""
    moments = normalizer.advance(reward, episode_end)
    normalizer.update_from_moments(reduce_moments(agent, moments))


def absorb_unit(agent: Agent, normalizer: RunningNormalizer | None) -> None:
    """Add what an off-policy unit collected to the running statistics, if there are any.

    Args:
        agent: With an `OffPolicySource`, and its `reward_normalizer` or None.
        normalizer: Of observations.
    """
    rewards: RewardNormalizer | None = agent.reward_normalizer
    if normalizer is None and rewards is None:
        return
    transitions = agent.source.recent_transitions()
    recent: dict[str, Any] = {name: agent.to_device(leaf) for name, leaf in transitions.items()}
    absorb_observations(agent, normalizer, recent["observation"])
    # A buffer smaller than one unit may have lost the first rows of its oldest step.
    num_envs = agent.env_config.num_envs
    steps = len(recent["reward"]) // num_envs
    if rewards is not None and steps > 0:
        episode_end = recent["terminated"] | recent["truncated"]
        reward, episode_end = (
            column[-steps * num_envs :].view(steps, -1)
            for column in (recent["reward"], episode_end)
        )
        absorb_rewards(agent, rewards, reward, episode_end)


def reduce_moments(agent: Agent, moments: Moments) -> Moments:
    """Return mean, variance and count over all ranks, joined in rank order."""
    if agent.trainer.world_size == 1:
        return moments
    ranks = [_of_all_ranks(agent, moment) for moment in moments]
    joint = (ranks[0][0], ranks[1][0], ranks[2][0])
    for mean, var, count in zip(*(rank[1:] for rank in ranks), strict=True):
        joint = combine_moments(*joint, mean, var, count)
    return joint


def _of_all_ranks(agent: Agent, value: Tensor) -> list[Tensor]:
    values = [torch.empty_like(value) for _ in range(agent.num_ranks)]
    torch.distributed.all_gather(values, value.contiguous())
    return values


def standardize(agent: Agent, values: Tensor) -> Tensor:
    """Return values with mean 0 and deviation 1 over those of all ranks; a single one as it is."""
    if values.numel() == agent.num_ranks == 1:  # less its mean, nothing would be left to learn from
        return values
    mean, var, _ = reduce_moments(agent, batch_moments(values))
    return (values - mean) / (var.sqrt() + 1e-8)


def mean_over_ranks(agent: Agent, value: Tensor) -> float:
    """Return the mean of a scalar: ranks must take every decision together."""
    return float(agent.trainer.strategy.reduce(value, reduce_op="mean"))
