from collections import OrderedDict, deque
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lightning_rl.storage.plain import inspect, why_not_plain


class Marked(torch.Tensor):
    pass


class Text(str):
    __slots__ = ()


def _tensor_with_attribute():
    tensor = torch.zeros(2)
    tensor.note = "x"
    return tensor


def test_what_checkpoints_hold_is_plain():
    module = nn.Linear(2, 3)
    optimizer = torch.optim.Adam(module.parameters())
    module(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    tree = {
        "state_dict": module.state_dict(),
        "optimizer_states": [optimizer.state_dict()],
        "rng": {"key": b"\x00\xff", "counter": 2**128 - 1, "position": None},
        "shape": torch.Size([1, 2]),
        "dtype": torch.bfloat16,
        "betas": (0.9, 0.999),
    }
    assert why_not_plain(tree) is None


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.float64(1.0), "numpy.float64; store a tensor or a plain number"),
        (np.int64(1), "numpy.int64; store a tensor or a plain number"),
        (np.zeros(2), "numpy.ndarray; store a tensor or a plain number"),
        (Path("a"), "Path; store a string"),
        (deque([1]), "collections.deque; store only"),
        ({1}, "set; store a sorted list"),
        (object(), "object; store only"),
        (bytearray(b"a"), "bytearray; store only"),
        (Text("a"), "Text; store only"),
        (len, "builtin_function_or_method; store only"),
        (b"", "empty bytes cannot be read back"),
        (1 << 2039, "an integer of more than 255 bytes"),
        ({(1, 2): 3}, "a key of type tuple"),
        ({np.int64(1): 3}, "a key of type numpy.int64"),
        (torch.zeros(2).to_sparse(), "a sparse, nested or quantized tensor"),
        (torch.zeros(2, device="meta"), "a meta tensor"),
        (torch.zeros(1).expand(3), "an expanded tensor"),
        (_tensor_with_attribute(), "a tensor with the attribute 'note'"),
        (torch.zeros(1).as_subclass(Marked), "Marked; store a plain tensor"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else None,
)
def test_the_refusal_names_the_path_and_the_remedy(value, expected):
    problem = why_not_plain({"callbacks": {"x": [0, value]}})
    assert problem is not None
    assert problem.startswith("['callbacks']['x'][1]: ")
    assert expected in problem


def test_an_attribute_of_an_ordered_dict_is_refused_except_module_versions():
    tree = OrderedDict(a=1)
    tree._metadata = OrderedDict(version=1)
    assert why_not_plain(tree) is None
    tree.hook = print
    assert why_not_plain(tree) == "the object itself: an attribute 'hook'"


def test_depth_is_bounded_also_by_a_shared_branch_and_a_cycle():
    fine: list = []
    for _ in range(98):
        fine = [fine]
    assert why_not_plain(fine) is None
    assert "nested deeper than 100 levels" in str(why_not_plain([[fine]]))
    cycle: list = []
    cycle.append(cycle)
    assert "nested deeper" in str(why_not_plain(cycle))
    chain: list = [[]]
    for _ in range(150):
        chain.append([chain[-1]])
    assert "nested deeper" in str(why_not_plain(chain))  # each link stands at depth 1 as well


def test_shared_branches_are_visited_once():
    tree: list = [1]
    for _ in range(60):  # 2^60 paths
        tree = [tree, tree]
    assert why_not_plain(tree) is None


def test_the_content_says_on_what_the_form_of_the_file_depends():
    content = inspect({"a": [torch.ones(3), 1], "b": (2.5, "four")})
    assert content.problem is None
    kind = (torch.Tensor, torch.float32, "cpu", False)
    assert content.kinds == {dict, list, tuple, str, int, float, kind}
    assert content.size == 3 * 10 + 2 * 14 + 50 + 10 + 10 + 26


@pytest.mark.parametrize("length", [9_999, 10_000])
def test_a_tuple_is_bounded_with_all_that_hangs_below_it(length):
    flat, pair = tuple(range(length)), ((1, 2),) * 4
    problem = "['x']: a tuple of more than 10,000 values; store a list or a tensor"
    assert why_not_plain({"x": flat}) == (problem if length == 10_000 else None)
    assert why_not_plain({"x": pair}) is None
    tower = (1, 2)
    for _ in range(13):
        tower = (tower, tower)
    assert why_not_plain({"x": tower}) == problem
    assert why_not_plain({"x": [flat[:5_000], [flat[:5_000]]]}) is None
