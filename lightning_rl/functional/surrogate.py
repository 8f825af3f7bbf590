"""The clipped surrogate of proximal policy optimization, from what networks return to a loss.

Schulman et al. (2017), https://arxiv.org/abs/1707.06347.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

SURROGATE_STATISTICS = (
    "train/policy_loss",
    "train/value_loss",
    "train/entropy_loss",
    "train/approx_kl",
    "train/clip_fraction",
)


def clipped_policy_loss(ratio: Tensor, advantage: Tensor, clip_coef: Tensor) -> Tensor:
    """Return the negative clipped surrogate (equation 7) of `(B,)` ratios, advantages; a scalar."""
    clipped = ratio.clamp(1 - clip_coef, 1 + clip_coef)
    return -torch.min(ratio * advantage, clipped * advantage).mean()


def value_loss(
    value: Tensor, return_: Tensor, old_value: Tensor, clip_coef: Tensor | None
) -> Tensor:
    """Return half the mean squared error of `(B,)` values, a scalar.

    With `clip_coef`, values may leave `old_value` by at most that much before they are no longer
    rewarded for it, as in the authors' code.
    """
    error = (value - return_).square()
    if clip_coef is not None:
        clipped = old_value + (value - old_value).clamp(-clip_coef, clip_coef)
        error = torch.max(error, (clipped - return_).square())
    return 0.5 * error.mean()


def surrogate_loss(
    log_prob: Tensor,
    entropy: Tensor,
    value: Tensor,
    old: Mapping[str, Tensor],
    coefficients: Tensor,
    clip_value_loss: bool,
) -> tuple[Tensor, Tensor]:
    """Return the loss to minimise and the vector of `SURROGATE_STATISTICS`.

    Args:
        log_prob: Of the actions taken, under the present policy, `(B,)`.
        entropy: Of the present policy, `(B,)`.
        value: Present values `(B,)`.
        old: `log_prob`, `advantage`, `value` and `return` `(B,)` of the policy that acted.
        coefficients: `clip_coef, vf_coef, ent_coef`.
        clip_value_loss: See `value_loss`.
    """
    clip_coef, vf_coef, ent_coef = coefficients.unbind()
    log_ratio = log_prob - old["log_prob"]
    ratio = log_ratio.exp()
    policy = clipped_policy_loss(ratio, old["advantage"], clip_coef)
    critic = value_loss(value, old["return"], old["value"], clip_coef if clip_value_loss else None)
    mean_entropy = entropy.mean()
    loss = policy + vf_coef * critic - ent_coef * mean_entropy
    with torch.no_grad():
        # (r - 1) - log r is unbiased and never negative: http://joschu.net/blog/kl-approx.html
        approx_kl = (ratio - 1 - log_ratio).mean()
        clip_fraction = ((ratio - 1).abs() > clip_coef).float().mean()
    return loss, torch.stack((policy, critic, -mean_entropy, approx_kl, clip_fraction)).detach()
