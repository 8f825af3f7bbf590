"""Weighted losses, and the errors that travel with their statistics."""

from __future__ import annotations

import pytest
import torch

from lightning_rl.functional.weighting import split_errors, weighted_loss

ROWS = torch.tensor([1.0, 4.0, 7.0])


def test_without_weights_it_is_the_mean() -> None:
    loss, statistics = weighted_loss(ROWS, ROWS, torch.tensor(9.0), None)
    assert loss.item() == 4.0
    assert statistics.tolist() == [4.0, 9.0]


def test_weights_scale_rows_and_gradients_and_errors_come_out_again() -> None:
    rows = ROWS.clone().requires_grad_(True)
    weight, errors = torch.tensor([1.0, 0.5, 0.0]), torch.tensor([0.1, 0.2, 0.3])
    loss, statistics = weighted_loss(rows, errors, torch.tensor(9.0), weight)
    assert loss.item() == 1.0
    loss.backward()
    assert rows.grad.tolist() == pytest.approx([1 / 3, 1 / 6, 0.0])
    norm = torch.tensor([5.0])
    means, out = split_errors(torch.cat((statistics, norm)), 3)
    assert means.tolist() == [1.0, 9.0, 5.0]
    assert torch.equal(out, errors)
    assert not statistics.requires_grad
