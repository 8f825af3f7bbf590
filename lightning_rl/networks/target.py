"""When a target network follows the online one."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lightning_rl.functional.parameters import polyak_update


class IntervalUpdate(nn.Module):
    """Moves a target network towards the online one every few env steps.

    The number of updates done is a buffer, so that it travels with the checkpoint.

    Args:
        interval: Env steps between two updates.
        tau: Weight of the online network in an update, in (0, 1]; 1 copies it.
    """

    count: Tensor

    def __init__(self, interval: int, tau: float) -> None:
        super().__init__()
        self.interval, self.tau = interval, tau
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def follow(self, env_steps: int, target: nn.Module, online: nn.Module) -> None:
        """Update `target` when the interval has passed since the last time.

        Args:
            env_steps: The run's clock.
            target: Network that follows.
            online: Network that learns.
        """
        due = env_steps // self.interval
        if due != int(self.count):  # it is ahead in weights from another, longer run
            polyak_update(target, online, self.tau)
            self.count.fill_(due)
