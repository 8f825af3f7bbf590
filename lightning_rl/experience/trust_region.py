"""How far one update may move a policy: its learning rate, and when it must stop."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from lightning_rl.experience.agent_state import Agent
from lightning_rl.experience.running_statistics import mean_over_ranks
from lightning_rl.functional.schedules import adaptive_kl_learning_rate, linear
from lightning_rl.functional.surrogate import SURROGATE_STATISTICS

logger = logging.getLogger(__name__)

SCHEDULES = ("constant", "linear", "adaptive_kl")
DEFAULT_TARGET_KL = 0.01
_SCHEDULE_IS_OVER = (
    "nothing is learned from env step %d on: the linear schedule of the learning rate has reached "
    "0, and a resumed run keeps its schedule; to stretch it, add --model.schedule_env_steps N "
    "--allow-change model.schedule_env_steps"
)


def set_learning_rate(agent: Agent) -> float:
    """Set and return this update's learning rate; `adaptive_kl` keeps the last one's.

    Args:
        agent: With `learning_rate`, `learning_rate_schedule` and one optimizer.
    """
    group = agent.trainer.optimizers[0].param_groups[0]
    if agent.learning_rate_schedule == "linear":
        before, group["lr"] = group["lr"], linear(agent.learning_rate, 0.0, agent.update_progress)
        # A budget in episodes is spent before the last update, whose learning rate is 0.
        spent = agent.budget.is_spent(agent.env_steps, agent.episodes)
        if before > 0.0 == group["lr"] and not spent:
            logger.warning(_SCHEDULE_IS_OVER, agent.env_steps)
    return float(group["lr"])


def steer_learning_rate(agent: Agent, approx_kl: float) -> None:
    """Move `adaptive_kl`'s learning rate so that the next update's divergence is nearer its target.

    Args:
        agent: With `learning_rate_schedule`, `target_kl` (None for `DEFAULT_TARGET_KL`) and one
            optimizer.
        approx_kl: Mean KL divergence of this rank's update.
    """
    if agent.learning_rate_schedule != "adaptive_kl":
        return
    group = agent.trainer.optimizers[0].param_groups[0]
    target = agent.target_kl or DEFAULT_TARGET_KL
    approx_kl = mean_over_ranks(agent, torch.tensor(approx_kl, device=agent.device))
    group["lr"] = adaptive_kl_learning_rate(group["lr"], approx_kl, target)


def is_too_far(agent: Agent, statistics: Tensor) -> bool:
    """Return whether the policy has left the old one so far that the update must stop.

    Args:
        agent: With `learning_rate_schedule` and `target_kl`.
        statistics: A minibatch's `SURROGATE_STATISTICS`.
    """
    if agent.target_kl is None or agent.learning_rate_schedule == "adaptive_kl":
        return False
    approx_kl = statistics[SURROGATE_STATISTICS.index("train/approx_kl")]
    return mean_over_ranks(agent, approx_kl) > 1.5 * float(agent.target_kl)
