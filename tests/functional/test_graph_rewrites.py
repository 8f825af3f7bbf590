"""Recorded programs in another form: the same results, by other operations."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from lightning_rl.functional.compilation import compile_function
from lightning_rl.functional.graph_rewrites import SMALL_PRODUCTS, turn_narrow_products
from lightning_rl.functional.onednn import use_onednn


def recorded(function: Callable[..., Tensor], *tensors: Tensor) -> GraphModule:
    """Return the program of a function."""
    return make_fx(function, tracing_mode="fake")(*tensors)


def operations(module: GraphModule) -> list[str]:
    """Return the names of what a program calls."""
    return [str(node.target) for node in module.graph.nodes if node.op == "call_function"]


@pytest.mark.parametrize(
    ("shapes", "turned"), [((200, 3), True), ((200, 17), False), ((9, 3), False)]
)
def test_a_tall_and_narrow_product_is_turned(shapes: tuple[int, int], turned: bool) -> None:
    torch.manual_seed(0)
    a, b = torch.randn(50, shapes[0]), torch.randn(50, shapes[1])
    module = recorded(lambda a, b: a.t() @ b, a, b)
    turn_narrow_products(module)
    assert operations(module).count("aten.t.default") == (2 if turned else 1)
    assert torch.allclose(module(a, b), a.t() @ b, atol=1e-5)


@pytest.mark.parametrize(
    ("left", "right", "written_out"),
    [
        ((150, 3), (3, 140), True),  # a first layer
        ((150, 9), (9, 140), False),
        ((150, 3), (3, 100), False),
        ((150, 140), (140, 2), True),  # a last layer
        ((100, 140), (140, 2), False),
        ((150, 140), (140, 9), False),
    ],
)
def test_small_products_are_written_out(
    left: tuple[int, int], right: tuple[int, int], written_out: bool
) -> None:
    torch.manual_seed(0)
    in_rows, by_columns = torch.randn(right), torch.randn(right[::-1]).t()
    weight, other = (in_rows, by_columns) if right[0] < right[1] else (by_columns, in_rows)
    x, bias = torch.randn(left), torch.randn(right[1])

    def layer(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return torch.addmm(bias, x, weight) + x @ weight

    module = make_fx(layer, SMALL_PRODUCTS, tracing_mode="fake")(x, weight, bias)
    products = [name for name in operations(module) if "mm" in name]
    assert products == ([] if written_out else ["aten.addmm.default", "aten.mm.default"])
    assert torch.allclose(module(x, weight, bias), layer(x, weight, bias), rtol=1e-4, atol=1e-4)
    # Weights that lie in memory the other way are left to the library.
    module = make_fx(layer, SMALL_PRODUCTS, tracing_mode="fake")(x, other, bias)
    assert "aten.mm.default" in operations(module)


needs_onednn = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="this PyTorch has no oneDNN"
)


@needs_onednn
def test_large_products_take_bias_and_relu_along() -> None:
    torch.manual_seed(0)
    x, weight, bias = torch.randn(130, 140), torch.randn(140, 128), torch.randn(128)

    def layers(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        hidden = torch.relu(torch.addmm(bias, x, weight))
        return torch.addmm(bias, x, weight) * hidden + hidden @ hidden.t()[:, :128]

    module = recorded(layers, x, weight, bias)
    use_onednn(module)
    assert [name for name in operations(module) if "mm" in name or "linear" in name] == [
        "lightning_rl.linear.default"
    ] * 3
    assert "aten.relu.default" not in operations(module)
    assert torch.allclose(module(x, weight, bias), layers(x, weight, bias), rtol=1e-4, atol=1e-2)


@needs_onednn
@pytest.mark.parametrize(
    ("function", "shape", "dtype"),
    [
        (lambda x: x.t() @ x, (128, 128), torch.float32),  # the left factor is transposed
        (lambda x: x @ x, (127, 127), torch.float32),
        (lambda x: x @ x, (128, 128), torch.float64),
    ],
)
def test_other_products_stay(
    function: Callable[..., Tensor], shape: tuple[int, int], dtype: torch.dtype
) -> None:
    module = recorded(function, torch.zeros(shape, dtype=dtype))
    use_onednn(module)
    assert "aten.mm.default" in operations(module)


@needs_onednn
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # inside the compiler
def test_a_compiled_layer_and_its_gradient_are_the_uncompiled_ones() -> None:
    torch.manual_seed(0)
    x, weight, bias = torch.randn(130, 160), torch.randn(160, 128), torch.randn(128)

    def gradients(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
        leaves = [tensor.detach().requires_grad_() for tensor in (x, weight, bias)]
        with torch.enable_grad():
            loss = torch.relu(torch.addmm(leaves[2], leaves[0], leaves[1])).square().mean()
            return (loss.detach(), *torch.autograd.grad(loss, leaves))

    compiled = compile_function(gradients, True)(x, weight, bias)
    for ours, theirs in zip(compiled, gradients(x, weight, bias), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-5)
        assert theirs.abs().max() > 0
