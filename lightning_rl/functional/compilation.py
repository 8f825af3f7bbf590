"""Whether an update is compiled, decided by the configuration alone, and the fall-back to eager."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from typing import Any, Literal, TypeVar

import torch

logger = logging.getLogger(__name__)

CompileChoice = Literal["auto"] | bool
Function = TypeVar("Function", bound=Callable[..., Any])

AUTO_GRADIENT_STEPS = 40_000
"""From this many gradient steps on, compiling (10 to 20 s once) pays for itself on a CPU."""


def resolve_compile(choice: CompileChoice, gradient_steps: int | None) -> bool:
    """Return whether to compile: `choice`, or for `auto` whether enough gradient steps will follow.

    Never decided from a measured time or a warm cache: compiled and eager functions round
    differently, so the same configuration must take the same path.

    Args:
        choice: `auto`, true or false.
        gradient_steps: Gradient steps in the budget; None when unknown (a budget in episodes),
            which means eager.
    """
    wanted = choice if isinstance(choice, bool) else (gradient_steps or 0) >= AUTO_GRADIENT_STEPS
    if wanted and not _has_compiler():
        logger.warning(
            "no C++ compiler found; the update runs uncompiled (install g++, or set CXX)"
        )
        return False
    return bool(wanted)


def compile_function(function: Function, enabled: bool, fullgraph: bool = True) -> Function:
    """Return `function` compiled for fixed shapes, or itself when not `enabled`."""
    if not enabled:
        return function
    return torch.compile(function, fullgraph=fullgraph, dynamic=False)  # type: ignore[return-value]


def _has_compiler() -> bool:
    if torch.cuda.is_available():
        return True
    return (
        shutil.which(os.environ.get("CXX", "g++")) is not None
        or shutil.which("clang++") is not None
    )
