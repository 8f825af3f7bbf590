"""Other forms of products in a recorded program, where they are faster."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

aten = torch.ops.aten
_TALL, _NARROW, _FEW = 128, 16, 8


def turn_narrow_products(module: fx.GraphModule) -> None:
    """Write `a.t() @ b` as `(b.t() @ a).t()` where it is tall and narrow, in place.

    Such is the gradient of a first layer's weights, `(256, 3)` for instance, which takes 80 µs in
    the first form and 12 in the second: matrix libraries go along the rows of the result.
    """
    graph = module.graph
    for node in graph.find_nodes(op="call_function", target=aten.mm.default):
        left, right = node.args
        rows, columns = node.meta["val"].shape
        if left.target is not aten.t.default or rows < _TALL or columns > _NARROW:
            continue
        with graph.inserting_before(node):
            turned = graph.call_function(aten.t.default, (right,))
            product = graph.call_function(aten.mm.default, (turned, left.args[0]))
            result = graph.call_function(aten.t.default, (product,))
        node.replace_all_uses_with(result)
        graph.erase_node(node)
    graph.eliminate_dead_code()
    module.recompile()


def _written_out(left: Tensor, right: Tensor) -> Tensor:
    """Return `left @ right` by element-wise operations, or `NotImplemented` where that is slower.

    Where there are few terms to each sum, as in a first layer, or few columns, as in a last one, a
    call of the matrix library takes longer than the arithmetic, which the compiler does together
    with bias and activation. Its loops need rows, or columns, that lie in memory in one piece.
    """
    (rows, inner), columns = left.shape, right.shape[1]
    if rows < _TALL or left.dtype != torch.float32 or left.device.type != "cpu":
        return NotImplemented
    if inner <= _FEW and columns >= _TALL and right.stride(1) == 1:
        terms = [left[:, k, None] * right[k] for k in range(inner)]
        return sum(terms[1:], terms[0])
    if columns <= _FEW and inner >= _TALL and right.stride(0) == 1:
        return torch.stack([(left * column).sum(1) for column in right.unbind(1)], 1)
    return NotImplemented


def _written_out_with_bias(bias: Tensor, left: Tensor, right: Tensor, **scales: Any) -> Tensor:
    product = NotImplemented if scales else _written_out(left, right)
    return product if product is NotImplemented else product + bias


SMALL_PRODUCTS: dict[Any, Callable[..., Any]] = {
    aten.mm.default: _written_out,
    aten.addmm.default: _written_out_with_bias,
}
"""Decompositions for `make_fx`: how small products are recorded."""
