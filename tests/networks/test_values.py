"""Q-networks and critics."""

import pytest
import torch
from gymnasium import spaces
from torch import nn

from lightning_rl.functional.parameters import check_unique_names
from lightning_rl.networks.values import MLPCritic, QNetwork

VECTOR = spaces.Box(-1, 1, (4,))


def test_default_is_the_network_of_cleanrl():
    network = QNetwork(VECTOR, 2)
    assert [tuple(p.shape) for p in network.parameters() if p.dim() == 2] == [
        (120, 4),
        (84, 120),
        (2, 84),
    ]
    assert network(torch.randn(5, 4)).shape == (5, 2)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize(
    ("space", "observation"),
    [
        (VECTOR, torch.randn(3, 4)),
        (spaces.Discrete(6), torch.tensor([0, 5, 2])),
        (spaces.Dict({"a": VECTOR}), {"a": torch.randn(3, 4)}),
    ],
)
def test_inference_equals_forward(space, observation, normalize):
    network = QNetwork(space, 3, normalize_observation=normalize)
    if normalize:
        network.observation_normalizer.update(observation)
    act = network.inference_function()
    for _ in range(2):
        assert torch.equal(act(observation), network(observation))
        assert not act(observation).requires_grad


def test_a_network_of_ones_own():
    network = QNetwork(VECTOR, 3, network=nn.Linear)
    assert network.network.weight.shape == (3, 4)
    act = network.inference_function()
    assert torch.equal(act(torch.ones(1, 4)), network(torch.ones(1, 4)))
    assert not act(torch.ones(1, 4)).requires_grad


def test_every_parameter_has_one_name_and_a_gradient():
    network = QNetwork(spaces.Box(0, 255, (8, 8, 1), "uint8"), 3)
    check_unique_names(network)
    image = torch.randint(0, 256, (4, 8, 8, 1), dtype=torch.uint8)
    network(image).square().sum().backward()
    assert all(p.grad.any() for p in network.parameters())


def test_critic_returns_one_number_per_row():
    assert MLPCritic(4)(torch.randn(3, 4)).shape == (3, 1)
