"""Whether an update is compiled: by the configuration alone, and not without a compiler."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch

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


def test_options_of_the_compiler(monkeypatch: pytest.MonkeyPatch):
    seen: dict[str, Any] = {}
    monkeypatch.setattr(
        torch, "compile", lambda function, **options: seen.update(options) or function
    )
    compile_function(len, enabled=True, fullgraph=False)
    # Shapes are fixed: a symbolic size would be slower and rounds differently.
    assert seen == {"fullgraph": False, "dynamic": False}
