"""Encoders of observation spaces."""

import numpy as np
import pytest
import torch
from gymnasium import spaces

from lightning_rl.errors import ConfigError
from lightning_rl.networks.encoders import IdentityEncoder, make_encoder

SPACES = {
    "vector": (spaces.Box(-1, 1, (4,)), 4),
    "matrix": (spaces.Box(-1, 1, (2, 3)), 6),
    "scalar": (spaces.Box(-1, 1, ()), 1),
    "ram": (spaces.Box(0, 255, (5,), np.uint8), 5),
    "image": (spaces.Box(0, 255, (12, 12, 3), np.uint8), 128),
    "colour_stack": (spaces.Box(0, 255, (4, 12, 12, 3), np.uint8), 128),
    "discrete": (spaces.Discrete(5, start=-2), 5),
    "multi_discrete": (spaces.MultiDiscrete([2, 3], start=[1, -1]), 5),
    "multi_discrete_2d": (spaces.MultiDiscrete([[2, 3], [4, 1]]), 10),
    "multi_binary": (spaces.MultiBinary((2, 2)), 4),
}


def batch_of(space, size=6):
    if isinstance(space, spaces.Dict):
        return {key: batch_of(leaf, size) for key, leaf in space.items()}
    return torch.as_tensor(np.stack([np.asarray(space.sample()) for _ in range(size)]))


@pytest.mark.parametrize("name", SPACES)
def test_every_space_becomes_float_features(name):
    space, width = SPACES[name]
    encoder = make_encoder(space)
    features = encoder(batch_of(space))
    assert encoder.output_size == width
    assert features.shape == (6, width)
    assert features.dtype == torch.float32
    torch.compiler.reset()  # else the cases add up to more recompilations than are allowed
    compiled = torch.compile(encoder, fullgraph=True, backend="eager")
    observation = batch_of(space)
    torch.testing.assert_close(compiled(observation), encoder(observation))
    assert torch.func.functional_call(encoder, {}, (observation,)).shape == (6, width)


def test_float_vectors_cost_nothing():
    encoder = make_encoder(spaces.Box(-1, 1, (4,)))
    x = torch.randn(2, 4)
    assert isinstance(encoder, IdentityEncoder)
    assert encoder(x) is x


def test_one_hot_respects_start():
    encoder = make_encoder(spaces.Discrete(3, start=-1))
    assert encoder(torch.tensor([-1, 1])).tolist() == [[1, 0, 0], [0, 0, 1]]
    assert encoder(torch.tensor([[0]])).tolist() == [[0, 1, 0]]


def test_multi_discrete_one_hots_are_concatenated():
    encoder = make_encoder(spaces.MultiDiscrete([2, 3], start=[5, 0]))
    assert encoder(torch.tensor([[6, 0], [5, 2]])).tolist() == [[0, 1, 1, 0, 0], [1, 0, 0, 0, 1]]


def test_one_hot_adds_nothing_to_a_checkpoint():
    assert not make_encoder(spaces.Discrete(3)).state_dict()


def test_dict_entries_are_concatenated_in_the_order_of_the_space():
    space = spaces.Dict({"b.x": spaces.Discrete(2), "a": spaces.Box(-1, 1, (2,))})
    encoder = make_encoder(space)
    observation = {"b.x": torch.tensor([1]), "a": torch.tensor([[0.5, 0.25]])}
    expected = {"a": [0.5, 0.25], "b.x": [0.0, 1.0]}
    assert encoder(observation).tolist() == [[number for key in space for number in expected[key]]]
    assert encoder.output_size == 4


def test_dict_with_an_image_trains_its_convolutions():
    space = spaces.Dict({"image": SPACES["image"][0], "vector": SPACES["vector"][0]})
    encoder = make_encoder(space, cnn_output_size=16)
    assert encoder.output_size == 20
    encoder(batch_of(space)).sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in encoder.parameters())


@pytest.mark.parametrize(
    "space",
    [
        spaces.Text(3),
        spaces.Tuple([spaces.Discrete(2)]),
        spaces.Dict({"a": spaces.Dict({"b": spaces.Discrete(2)})}),
    ],
)
def test_unsupported_spaces_name_the_supported_ones(space):
    with pytest.raises(ConfigError, match="supported are Box, Discrete, MultiDiscrete"):
        make_encoder(space)


def test_an_empty_dict_is_refused():
    with pytest.raises(ConfigError, match="empty Dict"):
        make_encoder(spaces.Dict({}))
