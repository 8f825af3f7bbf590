"""Losses of weighted rows, and their errors on the way back to a prioritised replay."""

from __future__ import annotations

import torch
from torch import Tensor


def weighted_loss(
    row_loss: Tensor, row_error: Tensor, mean_q: Tensor, weight: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return the loss to minimise, and the vector of it, `mean_q` and, with weights, `row_error`.

    The errors travel with the statistics, since an update returns nothing else; `split_errors`
    takes them out again.

    Args:
        row_loss: `(B,)`.
        row_error: `(B,)` not negative, what priorities are made of.
        mean_q: Scalar to report.
        weight: `(B,)` importance of each row; None for equal ones.
    """
    if weight is None:
        loss = row_loss.mean()
        return loss, torch.stack((loss, mean_q)).detach()
    loss = (weight * row_loss).mean()
    return loss, torch.cat((torch.stack((loss, mean_q)), row_error)).detach()


def split_errors(statistics: Tensor, num_rows: int) -> tuple[Tensor, Tensor]:
    """Return an update's statistics without its rows' errors, and the errors `(num_rows,)`.

    Args:
        statistics: Of `weighted_loss`, and behind them the gradient's norm.
        num_rows: B.
    """
    return torch.cat((statistics[: -num_rows - 1], statistics[-1:])), statistics[-num_rows - 1 : -1]
