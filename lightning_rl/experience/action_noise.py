"""Noise that deterministic actors explore with."""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

import numpy as np
import torch

from lightning_rl.errors import check_choice, check_ranges
from lightning_rl.experience.random_streams import RandomStreams
from lightning_rl.types import Array

NoiseKind: TypeAlias = Literal["gaussian", "ornstein_uhlenbeck"]
KINDS = ("gaussian", "ornstein_uhlenbeck")
THETA, TIME_STEP = 0.15, 1e-2
"""Pull towards 0, and the time of one env step: as in SB3, for which settings are published."""


class ActionNoise:
    """Independent Gaussian noise, or an Ornstein-Uhlenbeck process in each environment.

    Uhlenbeck and Ornstein, 1930, discretised as by Lillicrap et al., 2016,
    https://arxiv.org/abs/1509.02971: `x += theta (0 - x) dt + scale sqrt(dt) normal`. The process
    runs on over the ends of episodes. Its last value stands with the run's random streams and not
    among the weights, which other numbers of environments can load.

    Args:
        kind: `gaussian` or `ornstein_uhlenbeck`.
        scale: Standard deviation of the Gaussian, or of the process per square root of time, in
            units of actions in [-1, 1].
        num_envs: N.
        action_size: A.

    Raises:
        ConfigError: For another kind or a negative scale.
    """

    def __init__(self, kind: NoiseKind, scale: float, num_envs: int, action_size: int) -> None:
        check_choice("noise", kind, KINDS)
        check_ranges({"exploration_noise": (scale, 0.0, None)})
        self.scale = scale
        self._shape = (num_envs, action_size)
        self._is_correlated = kind == "ornstein_uhlenbeck"

    def draw(self, streams: RandomStreams, num_steps: int) -> Array:
        """Return the noise `(T, N, A)` float32 of the next `num_steps` steps."""
        generator = streams.numpy("exploration")
        normal = generator.standard_normal((num_steps, *self._shape), dtype=np.float32)
        normal *= self.scale
        if not self._is_correlated:
            return normal
        normal *= math.sqrt(TIME_STEP)
        last, value = streams.last_noise, np.zeros(self._shape, np.float32)
        if last is not None and last.shape == self._shape:  # else there are other environments
            value = last.numpy()
        for step in normal:  # in place: `step` is a view
            step += value * (1.0 - THETA * TIME_STEP)
            value = step
        streams.last_noise = torch.from_numpy(value.copy())
        return normal
