"""The clipped surrogate, against literal numbers and the signs of its gradients."""

from __future__ import annotations

import pytest
import torch

from lightning_rl.functional.surrogate import clipped_policy_loss, value_loss


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient"),
    [
        (1.5, 2.0, -2.4, 0.0),  # good action, already 1.2 times as likely: no more
        (0.5, 2.0, -1.0, -2.0),  # good action that became rarer: bring it back
        (1.5, -2.0, 3.0, 2.0),  # bad action that became likelier: push it down
        (0.5, -2.0, 1.6, 0.0),  # bad action, already 0.8 times as likely: no more
        (1.1, 2.0, -2.2, -2.0),  # inside the interval: the plain policy gradient
    ],
)
def test_the_clipped_surrogate(ratio: float, advantage: float, loss: float, gradient: float):
    ratios = torch.tensor([ratio], requires_grad=True)
    result = clipped_policy_loss(ratios, torch.tensor([advantage]), torch.tensor(0.2))
    result.backward()
    assert result.item() == pytest.approx(loss)
    assert ratios.grad.item() == pytest.approx(gradient)


def test_the_policy_loss_is_a_mean():
    ratio, advantage = torch.tensor([1.5, 0.5, 1.5, 0.5]), torch.tensor([1.0, 1.0, -1.0, -1.0])
    assert clipped_policy_loss(ratio, advantage, torch.tensor(0.2)).item() == pytest.approx(0.15)


def test_the_value_loss_with_and_without_clipping():
    value = torch.tensor([2.0, 0.9], requires_grad=True)
    columns = torch.tensor([1.0, 1.0]), torch.tensor([0.0, 0.3])
    assert value_loss(value, *columns, None).item() == pytest.approx(0.2525)
    clipped = value_loss(value, *columns, torch.tensor(0.2))
    assert clipped.item() == pytest.approx(0.3125)
    clipped.backward()
    # The second value has moved 0.6 towards its return, three times what is allowed: no gradient.
    assert value.grad.tolist() == pytest.approx([0.5, 0.0])
