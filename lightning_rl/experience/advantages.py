"""From a rollout and the values of its observations to advantages and returns."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_rl.buffers.rollout import Rollout
from lightning_rl.experience.agent_state import Agent
from lightning_rl.experience.running_statistics import absorb_rewards
from lightning_rl.functional.returns import gae
from lightning_rl.functional.statistics import explained_variance
from lightning_rl.functional.trees import map_tree

ADVANTAGE_TAGS = ("train/explained_variance", "rollout/mean_value")


def rollout_tensors(agent: Agent, rollout: Rollout) -> tuple[Any, dict[str, Tensor]]:
    """Return a rollout's observations `(T + 1, N, ...)` and other arrays on the agent's device."""
    observation = map_tree(
        lambda leaf: torch.from_numpy(leaf).to(agent.device), rollout.observation
    )
    names = ("action", "reward", "terminated", "truncated")
    columns = {name: torch.from_numpy(getattr(rollout, name)).to(agent.device) for name in names}
    return observation, columns


def advantages(
    agent: Agent, columns: dict[str, Tensor], value: Tensor, next_value: Tensor
) -> tuple[Tensor, Tensor]:
    """Return generalised advantages and returns `(T, N)`, and add `ADVANTAGE_TAGS` to statistics.

    Args:
        agent: With `gamma`, `gae_lambda`, and a `reward_normalizer` or None there.
        columns: From `rollout_tensors`.
        value: Of each step's observation, `(T, N)`.
        next_value: Of what each step led to, `(T, N)`: at an episode's end its true last one.
    """
    reward, terminated = columns["reward"], columns["terminated"]
    ended = terminated | columns["truncated"]
    if agent.reward_normalizer is not None:
        absorb_rewards(agent, agent.reward_normalizer, reward, ended)
        reward = agent.reward_normalizer(reward)
    advantage = gae(reward, value, next_value, terminated, ended, agent.gamma, agent.gae_lambda)
    return_ = advantage + value
    agent.statistics.add(
        ADVANTAGE_TAGS, torch.stack((explained_variance(value, return_), value.mean()))
    )
    return advantage, return_
