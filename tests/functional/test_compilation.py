"""Whether an update is compiled: by the configuration alone, and not without a compiler."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from lightning_rl.functional import compilation
from lightning_rl.functional.compilation import (
    AUTO_GRADIENT_STEPS,
    compile_function,
    resolve_compile,
)


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that says whether there is a compiler."""

    def there_is(present: bool) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        found = "/usr/bin/g++" if present else None
        monkeypatch.setattr(compilation.shutil, "which", lambda name: found)

    return there_is


@pytest.mark.parametrize(
    ("choice", "gradient_steps", "compiled"),
    [
        ("auto", AUTO_GRADIENT_STEPS - 1, False),
        ("auto", AUTO_GRADIENT_STEPS, True),
        ("auto", None, False),  # a budget in episodes
        (True, 1, True),
        (True, None, True),
        (False, 10**9, False),
    ],
)
def test_the_decision(compiler: Any, choice: Any, gradient_steps: int | None, compiled: bool):
    compiler(True)
    assert resolve_compile(choice, gradient_steps) is compiled


@pytest.mark.parametrize("choice", ["auto", True])
def test_without_a_compiler_it_runs_eager_and_says_so_in_one_line(
    compiler: Any, caplog: pytest.LogCaptureFixture, choice: Any
):
    compiler(False)
    with caplog.at_level(logging.WARNING):
        assert resolve_compile(choice, AUTO_GRADIENT_STEPS) is False
    (record,) = caplog.records
    assert "no C++ compiler" in record.message
    assert "\n" not in record.message


def test_nothing_is_said_where_nothing_was_to_be_compiled(
    compiler: Any, caplog: pytest.LogCaptureFixture
):
    compiler(False)
    assert resolve_compile("auto", 1) is False
    assert not caplog.records


def test_a_function_that_is_not_to_be_compiled_stays_itself():
    assert compile_function(len, enabled=False) is len


def test_what_cannot_be_traced_is_left_to_torch_compile(monkeypatch: pytest.MonkeyPatch):
    seen: dict[str, Any] = {}
    monkeypatch.setattr(
        torch, "compile", lambda function, **options: seen.update(options) or function
    )
    compile_function(len, enabled=True, traced=False)
    # Shapes are fixed: a symbolic size would be slower and rounds differently.
    assert seen == {"fullgraph": False, "dynamic": False}


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # inside the compiler
def test_a_traced_function_takes_trees_and_every_shape_gets_a_program():
    traces = []

    def scaled(tree: dict[str, Any], factors: list[Tensor]) -> tuple[Tensor, Tensor]:
        traces.append(tree["x"].shape)
        return tree["x"] * factors[0] + tree["inner"]["y"], tree["x"].sum()

    function = compile_function(scaled, enabled=True)
    for rows in (2, 3, 2, 3):
        x = torch.arange(float(rows))
        tree = {"x": x, "inner": {"y": torch.ones(rows)}}
        result, total = function(tree, [torch.tensor(2.0)])
        assert result.tolist() == [2.0 * value + 1.0 for value in range(rows)]
        assert total.item() == sum(range(rows))
    assert traces == [(2,), (3,)]
    # Numbers that are tensors change without another trace.
    assert function(tree, [torch.tensor(0.0)])[0].tolist() == [1.0] * 3
    assert len(traces) == 2


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # inside the compiler
@pytest.mark.parametrize(("enabled", "traced"), [(True, True), (True, False), (False, True)])
def test_constants_are_left_out_of_calls_and_seen_as_they_are_now(enabled: bool, traced: bool):
    offset = torch.ones(2)
    function = compile_function(
        lambda constants, x: (constants["offset"] + x,), enabled, traced, [{"offset": offset}]
    )
    assert function(torch.ones(2))[0].tolist() == [2.0, 2.0]
    offset.fill_(5.0)
    assert function(torch.ones(2))[0].tolist() == [6.0, 6.0]


def test_python_numbers_are_refused_instead_of_frozen():
    function = compile_function(lambda x, factor: (x * factor,), enabled=True)
    with pytest.raises(TypeError, match="must be tensors"):
        function(torch.ones(2), 3.0)


def test_a_branch_on_data_is_refused_instead_of_frozen():
    def branching(x: Tensor) -> tuple[Tensor]:
        return (x if x.sum() > 0 else -x,)

    with pytest.raises(GuardOnDataDependentSymNode):
        compile_function(branching, enabled=True)(torch.ones(2))
