"""Noise that deterministic actors explore with; its state travels with the checkpoint."""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from lightning_rl.errors import check_choice, check_ranges
from lightning_rl.types import Array

NoiseKind: TypeAlias = Literal["gaussian", "ornstein_uhlenbeck"]
KINDS = ("gaussian", "ornstein_uhlenbeck")
THETA, TIME_STEP = 0.15, 1e-2
"""Pull towards 0, and the time of one env step: as in SB3, for which settings are published."""


class ActionNoise(nn.Module):
    """Independent Gaussian noise, or an Ornstein-Uhlenbeck process in each environment.

    Uhlenbeck and Ornstein, 1930, discretised as by Lillicrap et al., 2016,
    https://arxiv.org/abs/1509.02971: `x += theta (0 - x) dt + scale sqrt(dt) normal`. The process
    runs on over the ends of episodes.

    Args:
        kind: `gaussian` or `ornstein_uhlenbeck`.
        scale: Standard deviation of the Gaussian, or of the process per square root of time, in
            units of actions in [-1, 1].
        num_envs: N.
        action_size: A.

    Raises:
        ConfigError: For another kind or a negative scale.
    """

    state: Tensor | None

    def __init__(self, kind: NoiseKind, scale: float, num_envs: int, action_size: int) -> None:
        super().__init__()
        check_choice("noise", kind, KINDS)
        check_ranges({"exploration_noise": (scale, 0.0, None)})
        self.scale = scale
        self._shape = (num_envs, action_size)
        correlated = kind == "ornstein_uhlenbeck"
        self.register_buffer("state", torch.zeros(self._shape) if correlated else None)

    def draw(self, generator: np.random.Generator, num_steps: int) -> Array:
        """Return the noise `(T, N, A)` float32 of the next `num_steps` steps."""
        normal = generator.standard_normal((num_steps, *self._shape), dtype=np.float32)
        normal *= self.scale
        if self.state is None:
            return normal
        normal *= math.sqrt(TIME_STEP)
        value = self.state.numpy(force=True)
        for step in normal:  # in place: `step` is a view
            step += value * (1.0 - THETA * TIME_STEP)
            value = step
        self.state.copy_(torch.from_numpy(value))
        return normal
