"""Whether an update is compiled, decided by the configuration alone, and the fall-back to eager."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Literal

import torch
import torch._dynamo
import torch._inductor
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from lightning_rl.functional.graph_rewrites import SMALL_PRODUCTS, turn_narrow_products
from lightning_rl.functional.heap import keep_freed_memory
from lightning_rl.functional.onednn import use_onednn

logger = logging.getLogger(__name__)

CompileChoice = Literal["auto"] | bool

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


def compile_function(
    function: Callable[..., Any],
    enabled: bool,
    traced: bool = True,
    constants: Sequence[Any] = (),
) -> Callable[..., Any]:
    """Return `function` compiled for fixed shapes, or itself when not `enabled`.

    Args:
        function: Pure: it reads nothing but its arguments.
        enabled: Whether to compile.
        traced: Compile it whole as a `TracedFunction`, which calls the program without guards.
            False for what cannot be traced or what Python state may steer (recurrent cells, modules
            that are not ours): `torch.compile` guards it, at twice the cost of a small update.
        constants: Its first arguments, which the result is called without: trees of tensors that
            may change in place but are never replaced, such as parameters.
    """
    if enabled and traced:
        return TracedFunction(function, constants)
    whole = _guarded(function) if enabled else function
    return partial(whole, *constants) if constants else whole


def _guarded(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return `function` compiled by `torch.compile`, in one piece where it takes gradients."""
    compiled = torch.compile(function, fullgraph=False, dynamic=False)
    if not hasattr(torch._dynamo.config, "trace_autograd_ops"):
        return compiled  # an older torch cuts the program at `torch.autograd.grad`: right, slower
    return torch._dynamo.config.patch(trace_autograd_ops=True)(compiled)


class TracedFunction:
    """A pure function of tensors, compiled once for every combination of their shapes.

    `torch.compile` checks before every call that all it saw while tracing still holds; of a DQN
    update of 370 µs between env steps that takes 120 µs. A pure function needs none of it: it is
    traced once, and the program gets the tensors. Python numbers, branches and attributes of
    modules are what they were at that time.

    Args:
        function: From trees (dictionaries, lists and tuples) of tensors to a tuple of tensors.
        constants: See `compile_function`.
    """

    def __init__(
        self, function: Callable[..., tuple[Tensor, ...]], constants: Sequence[Any] = ()
    ) -> None:
        self._function = function
        self._constants = tuple(constants)
        self._constant_leaves: list[Tensor] = []
        _append_leaves(self._constants, self._constant_leaves)
        self._programs: dict[tuple[torch.Size, ...], Callable[..., tuple[Tensor, ...]]] = {}

    def __call__(self, *arguments: Any) -> tuple[Tensor, ...]:
        """Run the program of the arguments' shapes."""
        leaves: list[Tensor] = []
        _append_leaves(arguments, leaves)
        shapes = tuple([leaf.shape for leaf in leaves])
        program = self._programs.get(shapes)
        if program is None:
            program = self._programs[shapes] = self._compile(arguments, leaves)
        return program(*self._constant_leaves, *leaves)

    def _compile(self, arguments: Any, leaves: list[Tensor]) -> Callable[..., tuple[Tensor, ...]]:
        trees, tensors = (*self._constants, *arguments), [*self._constant_leaves, *leaves]

        def function_of_leaves(*values: Tensor) -> tuple[Tensor, ...]:
            return self._function(*_refill(trees, iter(values)))

        keep_freed_memory()
        # Kernels called from C++ and not from Python: a tenth of a DQN gradient.
        options = {"cpp_wrapper": all(tensor.device.type == "cpu" for tensor in tensors)}
        with torch.no_grad():  # gradients are taken inside
            # On fake tensors a branch on data is an error; on real ones it would be frozen.
            trace = make_fx(
                function_of_leaves,
                SMALL_PRODUCTS,
                tracing_mode="fake",
                _allow_non_fake_inputs=True,
            )
            graph, examples = trace(*tensors), [*tensors]
            use_onednn(graph)
            turn_narrow_products(graph)
            return torch._inductor.compile(graph, examples, options)  # type: ignore


def _append_leaves(tree: Any, leaves: list[Tensor]) -> None:
    kind = type(tree)
    if kind is dict:
        for value in tree.values():
            _append_leaves(value, leaves)
    elif kind is tuple or kind is list:
        for value in tree:
            _append_leaves(value, leaves)
    elif isinstance(tree, Tensor):
        leaves.append(tree)
    else:
        raise TypeError(
            f"expected tensors as arguments of a compiled function, received {kind.__name__}: "
            "numbers that change must be tensors, fixed ones can be bound by functools.partial"
        )


def _refill(tree: Any, values: Iterator[Tensor]) -> Any:
    """Return `tree` with its tensors replaced in order."""
    if isinstance(tree, dict):
        return {key: _refill(value, values) for key, value in tree.items()}
    if isinstance(tree, (tuple, list)):
        return type(tree)(_refill(value, values) for value in tree)
    return next(values)


def _has_compiler() -> bool:
    if torch.cuda.is_available():
        return True
    return (
        shutil.which(os.environ.get("CXX", "g++")) is not None
        or shutil.which("clang++") is not None
    )
