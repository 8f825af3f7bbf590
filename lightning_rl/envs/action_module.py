"""`action_adapter` in tensor operations, for policies that run without this package."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from lightning_rl.envs.spaces import ActionMode, action_adapter


class ActionModule(nn.Module):
    """From the policy's actions `(B, ...)` to what the environment's `step` takes.

    Equal to `spaces.action_adapter`, whose docstring says what happens to which space; integers
    come out as int64 (MultiBinary as int8), Box actions in the dtype of their space.

    Args:
        space: The action space.
        mode: What happens to Box actions.

    Raises:
        ConfigError: For an unsupported space, or `rescale` with an unbounded one.
    """

    low: Tensor
    high: Tensor
    start: Tensor

    def __init__(self, space: spaces.Space, mode: ActionMode) -> None:
        super().__init__()
        action_adapter(space, mode)  # refuses what is not supported
        self.is_box = isinstance(space, spaces.Box)
        self.rescales = mode == "rescale"
        self.dtype = torch.int8 if isinstance(space, spaces.MultiBinary) else torch.int64
        if isinstance(space, spaces.Box):
            self.dtype = torch.from_numpy(np.empty(0, space.dtype)).dtype
            self.register_buffer("low", torch.from_numpy(space.low.copy()))
            self.register_buffer("high", torch.from_numpy(space.high.copy()))
        start: Any = np.asarray(getattr(space, "start", 0))
        self.is_shifted = bool(start.any())
        self.register_buffer("start", torch.as_tensor(start, dtype=torch.int64))

    def forward(self, action: Tensor) -> Tensor:
        """Return the environment's actions, of the same shape."""
        if not self.is_box:
            return (action + self.start if self.is_shifted else action).to(self.dtype)
        if self.rescales:
            half_range, middle = (self.high - self.low) / 2, (self.high + self.low) / 2
            return (action.clamp(-1.0, 1.0) * half_range + middle).to(self.dtype)
        return torch.minimum(torch.maximum(action.to(self.dtype), self.low), self.high)
