"""Matrix products of rows in groups, whose sizes are data: an operation for compiled programs."""

from __future__ import annotations

import torch
from torch import Tensor

_library = torch.library.Library("lightning_rl", "DEF")
_library.define("grouped_product(Tensor rows, Tensor matrices, Tensor ends) -> Tensor")


def grouped_product(rows: Tensor, matrices: Tensor, ends: Tensor) -> Tensor:
    """Return the product of every row and the matrix of its group, `(B, N)`; not differentiable.

    Args:
        rows: `(B, K)`, those of the first group first.
        matrices: `(M, K, N)`, one for each group.
        ends: `(M,)` int64, the number of rows up to the end of each group; the last is B.
    """
    return torch.ops.lightning_rl.grouped_product(rows, matrices, ends)


@torch.library.impl(_library, "grouped_product", "CompositeExplicitAutograd")
def _compute(rows: Tensor, matrices: Tensor, ends: Tensor) -> Tensor:
    product = rows.new_empty(rows.shape[0], matrices.shape[2])
    start = 0
    for matrix, end in zip(matrices, ends.tolist(), strict=True):
        torch.mm(rows[start:end], matrix, out=product[start:end])
        start = end
    return product


@torch.library.register_fake("lightning_rl::grouped_product", lib=_library)
def _describe(rows: Tensor, matrices: Tensor, ends: Tensor) -> Tensor:
    return rows.new_empty(rows.shape[0], matrices.shape[2])
