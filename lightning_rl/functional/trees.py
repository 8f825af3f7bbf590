"""Trees of depth one: a single leaf, or a flat dictionary of leaves, as observations are.

Nested structures are not supported on purpose: the environment layer flattens them once (keys
`"a.b"`, `"0"`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

Leaf = TypeVar("Leaf")
Result = TypeVar("Result")


def map_tree(
    fn: Callable[..., Result], tree: Leaf | dict[str, Leaf], *others: Any
) -> Result | dict[str, Result]:
    """Apply `fn` to the corresponding leaves of trees of one structure.

    Args:
        fn: Called with one leaf of each tree.
        tree: A leaf or a flat dictionary; it gives the structure and the order of the keys.
        *others: Further trees with the same keys.

    Returns:
        A tree of the results.

    Raises:
        ValueError: The trees differ in structure or in keys.
    """
    if not isinstance(tree, dict):
        if any(isinstance(other, dict) for other in others):
            raise ValueError("expected trees of one structure, got a leaf and a dictionary")
        return fn(tree, *others)
    for other in others:
        if not isinstance(other, dict) or other.keys() != tree.keys():
            received = sorted(other) if isinstance(other, dict) else "a leaf"
            raise ValueError(f"expected a tree with the keys {sorted(tree)}, got {received}")
    return {key: fn(leaf, *(other[key] for other in others)) for key, leaf in tree.items()}


def tree_leaves(tree: Leaf | dict[str, Leaf]) -> list[Leaf]:
    """Return the leaves in the order of the keys of the dictionary (or the only leaf)."""
    return list(tree.values()) if isinstance(tree, dict) else [tree]


def tree_items(tree: Leaf | dict[str, Leaf]) -> list[tuple[str, Leaf]]:
    """Return `(key, leaf)` pairs; the key of a single leaf is the empty string."""
    return list(tree.items()) if isinstance(tree, dict) else [("", tree)]


def first_leaf(tree: Leaf | dict[str, Leaf]) -> Leaf:
    """Return the first leaf, for what all leaves have in common (batch size, device)."""
    return next(iter(tree.values())) if isinstance(tree, dict) else tree
