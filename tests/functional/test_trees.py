"""Trees of depth one."""

import pytest

from lightning_rl.functional.trees import first_leaf, map_tree, tree_items, tree_leaves


def test_a_leaf_is_a_tree():
    assert map_tree(lambda a, b: a + b, 1, 2) == 3
    assert tree_leaves(5) == [5]
    assert tree_items(5) == [("", 5)]
    assert first_leaf(5) == 5


def test_dictionary_keeps_the_order_of_the_first_tree():
    left, right = {"b": 1, "a": 2}, {"a": 20, "b": 10}
    assert list(map_tree(lambda a, b: a + b, left, right).items()) == [("b", 11), ("a", 22)]
    assert tree_leaves(left) == [1, 2]
    assert tree_items(left) == [("b", 1), ("a", 2)]
    assert first_leaf(left) == 1


@pytest.mark.parametrize(("left", "right"), [({"a": 1}, {"b": 1}), ({"a": 1}, 1), (1, {"a": 1})])
def test_different_structures_are_refused(left, right):
    with pytest.raises(ValueError, match="expected"):
        map_tree(lambda a, b: a, left, right)
