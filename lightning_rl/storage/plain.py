"""What a sealed file may hold: tensors and primitives; does no input or output.

The same check runs before writing, so that a checkpoint that could not be loaded is never written,
and after loading, so that what `torch.load` accepts and we never write (sparse or meta tensors,
bottomless nesting) is refused as well.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

MAX_DEPTH = 100
# One byte is the length of the longest integer that the weights-only reader understands.
MAX_INTEGER_BYTES = 255
_ATOMS = frozenset((type(None), bool, float, str, complex, torch.dtype, torch.device, torch.Size))
_CONTAINERS = frozenset((dict, OrderedDict, list, tuple))
_KEYS = frozenset((str, int, bool, float, type(None)))
MAX_TUPLE_WEIGHT = 10_000
"""Most values that may hang below a tuple; hashing one visits them all."""
# Bounds of the operations and bytes that a pickle needs for one.
_TENSOR_SIZE, _VALUE_SIZE, _CHARACTER_SIZE = 50, 10, 4


@dataclass
class Content:
    """What a tree holds, as far as the form of its file depends on it.

    Attributes:
        problem: Why it cannot stand in a sealed file, or None.
        kinds: Types of its values and keys; of tensors also dtype and device.
        size: Bound of the bytes and of the operations that the file needs besides tensors' data.
    """

    problem: str | None = None
    kinds: set[Any] = field(default_factory=set)
    size: int = 0

    def add_leaf(self, value: Any, path: str, *steps: Any) -> None:
        """Take note of a leaf, which stands at `path` or one step below, and of what it breaks."""
        problem = _why_not_leaf(value)
        if problem and self.problem is None:
            place = path + "".join(f"[{step!r}]" for step in steps)
            self.problem = f"{place or 'the object itself'}: {problem}"
        self.count(value)

    def count(self, value: Any) -> None:
        """Take note of a leaf or a key."""
        if isinstance(value, Tensor):
            self.size += _TENSOR_SIZE
            complex_view = value.is_conj() or value.is_neg()
            self.kinds.add((type(value), value.dtype, value.device.type, complex_view))
        else:
            characters = len(value) if isinstance(value, (str, bytes)) else 0
            self.size += _VALUE_SIZE + _CHARACTER_SIZE * characters
            self.kinds.add(type(value))


def why_not_plain(tree: Any) -> str | None:
    """Return why `tree` cannot stand in a sealed file, or None if it can; see `inspect`."""
    return inspect(tree).problem


def inspect(tree: Any) -> Content:
    """Return what `tree` holds, and why it cannot stand in a sealed file if it cannot.

    Allowed are dict, OrderedDict, list, tuple, str, bytes, bool, int, float, complex, None, torch
    dtypes, devices and sizes, dense tensors and parameters: by exact type, since `np.float64` is a
    `float` and still unreadable.

    Returns:
        The content up to the first problem, which is one line that begins with the key path, such
        as `['callbacks']['x'][0]: numpy.ndarray; store a tensor`.
    """
    content = Content()
    # A tree may share branches: each is visited again only where it hangs deeper than before, or
    # thirty shared pairs would be 2^30 visits. A cycle ends at the greatest depth.
    depth_seen: dict[int, int] = {}
    weights: dict[int, int] = {}
    waiting: list[tuple[Any, str, int]] = [(tree, "", 0)]
    while waiting and content.problem is None:
        value, path, depth = waiting.pop()
        if type(value) not in _CONTAINERS:
            content.add_leaf(value, path)
            continue
        content.size += _VALUE_SIZE
        if depth_seen.get(id(value), -1) >= depth:
            continue
        depth_seen[id(value)] = depth
        content.kinds.add(type(value))
        if depth >= MAX_DEPTH:
            content.problem = f"{path[:60]}...: nested deeper than {MAX_DEPTH} levels"
            continue
        problem = _why_not_container(value, weights)
        if problem:
            content.problem = f"{path or 'the object itself'}: {problem}"
            continue
        if isinstance(value, dict):
            for key in value:
                content.count(key)
        waiting.extend(_deeper(value, path, depth + 1, content))
    return content


def _deeper(value: Any, path: str, depth: int, content: Content) -> list[tuple[Any, str, int]]:
    """Add the leaves of a container to the content; return what has children of its own.

    Paths are spelt for those alone: there are five times as many leaves.
    """
    containers = [
        (attribute, f"{path}.{name}", depth)
        for name, attribute in getattr(value, "__dict__", {}).items()
    ]
    for step, child in value.items() if isinstance(value, dict) else enumerate(value):
        if type(child) in _CONTAINERS:
            containers.append((child, f"{path}[{step!r}]", depth))
        else:
            content.add_leaf(child, path, step)
    return containers


def _weight(value: Any, known: dict[int, int], depth: int = 0) -> int:
    """Return how many values hang below a tuple, through tuples alone, with itself."""
    if not isinstance(value, tuple) or depth > MAX_DEPTH:  # which is a problem by itself
        return 1
    if id(value) not in known:
        known[id(value)] = 1 + sum(_weight(item, known, depth + 1) for item in value)
    return known[id(value)]


def _why_not_container(value: Any, weights: dict[int, int]) -> str | None:
    """Return why a container is refused whatever its values are, or None."""
    if isinstance(value, dict):
        for key in value:
            if type(key) not in _KEYS:
                return f"a key of type {_name(key)}; use a string or a number"
    elif isinstance(value, tuple) and _weight(value, weights) > MAX_TUPLE_WEIGHT:
        return f"a tuple of more than {MAX_TUPLE_WEIGHT:,} values; store a list or a tensor"
    # `Module.state_dict()` hangs its version numbers on the dictionary as an attribute. Another one
    # could hide a method, in a crafted file.
    others = getattr(value, "__dict__", {}).keys() - {"_metadata"}
    return f"an attribute {min(map(str, others))!r}" if others else None


def _why_not_leaf(value: Any) -> str | None:
    """Return why a value that is no container is refused, or None."""
    kind = type(value)
    if kind in _ATOMS:
        return None
    if kind is bytes:
        # Pickle protocol 2 writes empty bytes as a call that the weights-only reader refuses.
        return None if value else "empty bytes cannot be read back; store None"
    if kind is int:
        too_long = value.bit_length() >= 8 * MAX_INTEGER_BYTES
        return f"an integer of more than {MAX_INTEGER_BYTES} bytes" if too_long else None
    if kind in (Tensor, torch.nn.Parameter):
        return _why_not_tensor(value)
    return f"{_name(value)}; {_remedy(value)}"


def _why_not_tensor(tensor: Tensor) -> str | None:
    """Return why a tensor is refused: it must be dense and own as many bytes as it shows."""
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_nested:
        return "a sparse, nested or quantized tensor; store a dense one"
    if tensor.is_meta:
        return "a meta tensor, which has no values"
    if getattr(tensor, "__dict__", None):
        return (
            f"a tensor with the attribute {min(tensor.__dict__)!r}; store tensor.detach().clone()"
        )
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        return "an expanded tensor, larger than its memory; store tensor.contiguous()"
    return None


def _name(value: Any) -> str:
    """Return the full name of a value's type, without `builtins`."""
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"


def _remedy(value: Any) -> str:
    """Return what to store instead of `value`."""
    if type(value).__module__ == "numpy":
        return "store a tensor or a plain number"
    if isinstance(value, (set, frozenset)):
        return "store a sorted list"
    if isinstance(value, Tensor):
        return "store a plain tensor"
    if hasattr(value, "__fspath__"):
        return "store a string"
    return "store only tensors, numbers, strings, lists and dictionaries"
