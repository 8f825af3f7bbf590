"""What the maximum-entropy methods share: squashed Gaussian actions, temperature, critic errors.

Policies of continuous actions return *distribution parameters* `(B, 2A)`: mean and log standard
deviation of a normal whose samples `tanh` squashes into (-1, 1).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_rl.types import Array

LOG_STD_MIN, LOG_STD_MAX = -20.0, 2.0
"""Bounds of the log standard deviation, as in the authors' code (Haarnoja et al., 2018)."""


def squashed_gaussian(parameters: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Return actions `tanh(mean + std * noise)` and their log-densities.

    Haarnoja et al., 2018, https://arxiv.org/abs/1801.01290, appendix C. The correction
    `log(1 - tanh(u)^2)` is computed as `2 (log 2 - u - softplus(-2u))`, which stays finite for
    large u, where the plain form takes the logarithm of 0.

    Args:
        parameters: `(B, 2A)`.
        noise: `(B, A)` standard normal.

    Returns:
        Actions `(B, A)` in [-1, 1] and log-densities `(B,)`.
    """
    mean, log_std = parameters.chunk(2, -1)
    log_std = log_std.clamp(LOG_STD_MIN, LOG_STD_MAX)
    raw = torch.addcmul(mean, log_std.exp(), noise)
    log_density = -0.5 * noise.square() - log_std - 0.5 * math.log(2.0 * math.pi)
    correction = 2.0 * (math.log(2.0) - raw - F.softplus(-2.0 * raw))
    return torch.tanh(raw), (log_density - correction).sum(-1)


def squashed_gaussian_array(parameters: Array, noise: Array) -> Array:
    """Return the actions of `squashed_gaussian` of NumPy arrays, for acting."""
    size = noise.shape[-1]
    std = np.exp(np.clip(parameters[:, size:], LOG_STD_MIN, LOG_STD_MAX))
    return np.tanh(parameters[:, :size] + std * noise)


def squashed_mode(parameters: Tensor) -> Tensor:
    """Return the deterministic actions `tanh(mean)`, `(B, A)`."""
    return torch.tanh(parameters.chunk(2, -1)[0])


def temperature_loss(log_alpha: Tensor, log_prob: Tensor, target_entropy: float) -> Tensor:
    """Return the loss whose descent keeps the policy's entropy at `target_entropy`.

    Haarnoja et al., 2018, https://arxiv.org/abs/1812.05905, equation 18, with log alpha in alpha's
    place, as in the authors' code: the same sign, better conditioned.

    Args:
        log_alpha: Scalar, the only one that gets a gradient.
        log_prob: `(B,)` of sampled actions.
        target_entropy: In nats.
    """
    return -log_alpha * (log_prob.detach().mean() + target_entropy)


def ensemble_squared_error(q_values: Tensor, target: Tensor) -> Tensor:
    """Return half the mean squared error, summed over the critics.

    Args:
        q_values: `(M, B)` of M critics.
        target: `(B,)`.
    """
    return 0.5 * (q_values - target).square().mean(-1).sum()
