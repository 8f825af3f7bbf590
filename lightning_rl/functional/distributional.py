"""Distributions of returns as pure tensor functions: categorical ones and quantiles.

Shapes: `B` rows, `K` atoms or quantiles.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_rl.errors import ConfigError
from lightning_rl.types import Array


def of_action(values: Tensor, action: Tensor) -> Tensor:
    """Return what belongs to one action of each row: `(B, K)` of `(B, num_actions, K)`.

    Args:
        values: `(B, num_actions, K)`.
        action: `(B,)` int64.
    """
    index = action.view(-1, 1, 1).expand(-1, 1, values.shape[-1])
    return values.gather(1, index).squeeze(1)


def even_support(v_min: float, v_max: float, num_atoms: int) -> Tensor:
    """Return `num_atoms` values `(K,)` from `v_min` to `v_max` in even steps.

    Raises:
        ConfigError: For fewer than two, or an empty or infinite interval.
    """
    if num_atoms < 2:
        raise ConfigError(f"expected num_atoms to be at least 2, received {num_atoms}")
    if not -math.inf < v_min < v_max < math.inf:
        raise ConfigError(f"expected finite v_min below v_max, received {v_min} and {v_max}")
    return torch.linspace(v_min, v_max, num_atoms)


def categorical_mean(logits: Tensor, support: Tensor) -> Tensor:
    """Return the expectations `(...)` of categorical distributions `(..., K)` on `support (K,)`."""
    return logits.softmax(-1) @ support


def categorical_mean_array(logits: Array, support: Array) -> Array:
    """Return expectations `(N, n)` of flat logits `(N, n * K)` on `support (K,)`, for acting."""
    logits = logits.reshape(len(logits), -1, len(support))
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return (weights @ support) / weights.sum(axis=-1)


def project_categorical(atoms: Tensor, probabilities: Tensor, support: Tensor) -> Tensor:
    """Move probabilities from arbitrary atoms to the nearest ones of an even support.

    Bellemare, Dabney and Munos (2017), https://arxiv.org/abs/1707.06887, equation 7: an atom's
    probability is shared by its two neighbours on the support, more to the nearer one; what lies
    outside goes to the ends. Written as a triangular kernel, which needs no indices.

    Args:
        atoms: `(B, K)` values, such as `r + gamma * z`.
        probabilities: `(B, K)`.
        support: `(K,)` rising in even steps.

    Returns:
        `(B, K)` probabilities on the support.
    """
    step = support[1] - support[0]
    clipped = atoms.clamp(support[0], support[-1])
    distance = (clipped.unsqueeze(-1) - support).abs() / step  # (B, K from, K to)
    return (probabilities.unsqueeze(-1) * (1.0 - distance).clamp(min=0.0)).sum(-2)


def categorical_td_loss(
    logits: Tensor,
    next_logits: Tensor,
    reward: Tensor,
    terminated: Tensor,
    discount: float | Tensor,
    support: Tensor,
) -> Tensor:
    """Return each row's cross-entropy `(B,)` to the projected Bellman target.

    Args:
        logits: `(B, K)` of the replayed actions.
        next_logits: `(B, K)` of the next actions; gets no gradient.
        reward: `(B,)`.
        terminated: `(B,)` bool.
        discount: Weight of the bootstrap, a number or `(B,)`.
        support: `(K,)` rising in even steps.
    """
    with torch.no_grad():
        weight = (discount * terminated.logical_not()).unsqueeze(-1)
        atoms = reward.unsqueeze(-1) + weight * support
        target = project_categorical(atoms, next_logits.softmax(-1), support)
    return -(target * logits.log_softmax(-1)).sum(-1)


def quantile_midpoints(num_quantiles: int) -> Tensor:
    """Return the midpoints `(K,)` of `num_quantiles` equal parts of [0, 1]."""
    return (torch.arange(num_quantiles, dtype=torch.float32) + 0.5) / num_quantiles


def quantile_huber_loss(quantiles: Tensor, target: Tensor, midpoints: Tensor) -> Tensor:
    """Return each row's quantile Huber loss `(B,)` with threshold 1.

    Dabney, Rowland, Bellemare and Munos (2018), https://arxiv.org/abs/1710.10044, equation 10: the
    mean over the target's samples, summed over the quantiles.

    Args:
        quantiles: `(B, K)` predictions.
        target: `(B, J)` samples of the target distribution.
        midpoints: `(K,)` fraction that each prediction stands for.
    """
    error = target.unsqueeze(1) - quantiles.unsqueeze(2)  # (B, K, J)
    huber = F.huber_loss(error, torch.zeros_like(error), reduction="none")
    weight = (midpoints.view(1, -1, 1) - (error.detach() < 0.0).to(error.dtype)).abs()
    return (weight * huber).mean(2).sum(1)
