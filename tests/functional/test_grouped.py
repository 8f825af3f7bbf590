"""Products of rows in groups."""

from __future__ import annotations

import torch

from lightning_rl.functional.grouped import grouped_product


def test_each_group_has_its_matrix_and_may_be_empty() -> None:
    rows = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    matrices = torch.tensor([[[1.0], [2.0]], [[0.0], [0.0]], [[10.0], [20.0]]])
    ends = torch.tensor([2, 2, 3])
    assert grouped_product(rows, matrices, ends).tolist() == [[1.0], [2.0], [30.0]]
    transposed = grouped_product(rows, matrices.mT.contiguous().mT, ends)
    assert transposed.tolist() == [[1.0], [2.0], [30.0]]
