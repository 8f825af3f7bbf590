"""Masks of valid actions: how observations carry them, and what they do to logits.

A mask is an entry of the observation, since it belongs to it: whatever stores, saves, evaluates or
exports observations keeps the mask of the very observation that is acted upon.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_rl.types import Array, TensorObservation

ACTION_MASK = "action_mask"
"""Key of the mask: in an observation, and in an environment's `info`."""

OBSERVATION = "observation"
"""Key of an observation that is no dictionary, beside its mask."""

INVALID_LOGIT = torch.finfo(torch.float32).min / 2
"""Logit of an invalid action: far enough below every other for a probability of exactly zero, and
finite, so that `p log p` of it is zero where minus infinity would make it NaN."""


def mask_logits(logits: Tensor, mask: Tensor) -> Tensor:
    """Return logits `(..., n)` that leave invalid actions no probability and no gradient.

    Args:
        logits: float32.
        mask: `(..., n)` of any dtype, zero where the action is invalid.
    """
    return torch.where(mask.bool(), logits, INVALID_LOGIT)


def mask_logits_array(logits: Array, mask: Array) -> Array:
    """Return `mask_logits` of NumPy arrays."""
    return np.where(mask.astype(bool), logits, np.float32(INVALID_LOGIT))


def join_mask(observation: Any, mask: Any) -> dict[str, Any]:
    """Return an observation, or a space of observations, with its mask as a further entry."""
    entries = observation if isinstance(observation, Mapping) else {OBSERVATION: observation}
    return {**entries, ACTION_MASK: mask}


def visible(observation: Any) -> Any:
    """Return what a network sees of an observation with a mask, in its plainest form.

    Args:
        observation: Flat dictionary of arrays, tensors or spaces, with the mask's key.
    """
    entries = {key: leaf for key, leaf in observation.items() if key != ACTION_MASK}
    return entries[OBSERVATION] if entries.keys() == {OBSERVATION} else entries


def split_mask(observation: Any, is_masked: bool) -> tuple[TensorObservation, Tensor | None]:
    """Return what a network sees of `(B, *obs_shape)`, and the mask `(B, n)`; None without."""
    if not is_masked:
        return observation, None
    return visible(observation), observation[ACTION_MASK]
