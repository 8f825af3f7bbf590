"""Masks on logits: exact zeros for invalid actions, and never a NaN."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from gymnasium import spaces

from lightning_rl.functional.masks import (
    INVALID_LOGIT,
    join_mask,
    mask_logits,
    mask_logits_array,
    split_mask,
    visible,
)
from lightning_rl.networks.distributions import make_action_head

LOGITS = torch.tensor([[0.0, 50.0, math.log(3.0), -7.0]])
MASK = torch.tensor([[1, 0, 1, 0]], dtype=torch.int8)


def test_probabilities_and_entropy_are_those_of_the_valid_actions_alone() -> None:
    """Of logits 0 and log 3: probabilities 1/4 and 3/4."""
    head = make_action_head(spaces.Discrete(4))
    masked = mask_logits(LOGITS, MASK)
    assert masked.softmax(-1).tolist() == [[pytest.approx(0.25), 0.0, pytest.approx(0.75), 0.0]]
    assert head.log_prob(masked, torch.tensor([2])).item() == pytest.approx(math.log(0.75))
    assert head.entropy(masked).item() == pytest.approx(0.5623351)
    assert head.mode(masked).tolist() == [2]
    assert np.array_equal(mask_logits_array(LOGITS.numpy(), MASK.numpy()), masked.numpy())


def test_integers_of_an_action_are_masked_one_by_one() -> None:
    head = make_action_head(spaces.MultiDiscrete([2, 3]))
    logits = torch.tensor([[9.0, 0.0, 9.0, 0.0, math.log(3.0)]])
    masked = mask_logits(logits, torch.tensor([[0, 1, 0, 1, 1]]))
    assert head.mode(masked).tolist() == [[1, 2]]
    assert head.entropy(masked).item() == pytest.approx(0.5623351)  # the first has no choice
    assert head.log_prob(masked, torch.tensor([[1, 1]])).item() == pytest.approx(math.log(0.25))


@pytest.mark.parametrize("scale", [1.0, 1e4, 1e30])
@pytest.mark.parametrize("valid", [1, 2, 50])
def test_nothing_becomes_nan_and_invalid_logits_get_no_gradient(scale: float, valid: int) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = (torch.randn(64, 50, generator=generator) * scale).requires_grad_()
    mask = torch.rand(64, 50, generator=generator).argsort(-1) < valid
    head = make_action_head(spaces.Discrete(50))
    masked = mask_logits(logits, mask)
    action = head.mode(masked)
    loss = head.log_prob(masked, action).sum() + head.entropy(masked).sum()
    loss.backward()
    assert math.isfinite(loss.item())
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    assert not logits.grad[~mask].any()
    assert mask.gather(-1, action[:, None]).all()
    if valid == 1:
        assert not head.entropy(masked).any()
        assert not head.log_prob(masked, action).any()
    elif scale == 1.0:
        assert logits.grad[mask].abs().min() > 0.0


def test_the_entropy_gradient_is_that_of_the_valid_actions_alone() -> None:
    head = make_action_head(spaces.Discrete(4))
    whole, part = LOGITS.clone().requires_grad_(), LOGITS[:, ::2].clone().requires_grad_()
    head.entropy(mask_logits(whole, MASK)).backward()
    make_action_head(spaces.Discrete(2)).entropy(part).backward()
    assert whole.grad is not None
    assert part.grad is not None
    torch.testing.assert_close(whole.grad[:, ::2], part.grad)


def test_noise_is_finite_even_for_a_draw_of_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    """Infinite noise would choose an action whatever its logit."""
    monkeypatch.setattr(torch.Tensor, "exponential_", lambda self, generator=None: self.zero_())
    noise = make_action_head(spaces.Discrete(3)).draw_noise((2,))
    assert noise.isfinite().all()
    assert ((noise + INVALID_LOGIT) == INVALID_LOGIT).all()


def test_joining_and_splitting_are_inverse() -> None:
    leaf, tree = torch.ones(2, 3), {"a": torch.ones(2), "observation": torch.zeros(2)}
    for observation in (leaf, tree):
        joined = join_mask(observation, MASK)
        seen, mask = split_mask(joined, True)
        assert mask is MASK
        assert seen is leaf if observation is leaf else seen == tree
        assert visible(joined).keys() == tree.keys() if observation is tree else True
    assert split_mask(leaf, False) == (leaf, None)
