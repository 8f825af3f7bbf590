"""Acting in NumPy gives what the modules give, whatever is rewritten between two calls."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.utils.parametrizations import weight_norm

from lightning_rl.networks.acting import acting_function
from lightning_rl.networks.mlp import MLP


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("activate_output", [False, True])
def test_a_network_in_numpy_is_the_module(activation: str, activate_output: bool) -> None:
    mlp = MLP(3, 2, (5, 4), activation, activate_output=activate_output)
    act = acting_function(mlp)
    for rows in (1, 7, 1):
        observation = torch.randn(rows, 3)
        expected = mlp(observation).detach().numpy()
        np.testing.assert_allclose(act(observation), expected, rtol=1e-5, atol=1e-6)


def test_an_observation_and_weights_rewritten_in_place_are_seen() -> None:
    mlp = MLP(2, 1, (), "relu")
    act = acting_function(mlp)
    layer, observation = mlp.layers[0], torch.tensor([[1.0, 2.0]])
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 10.0]]))
        layer.bias.fill_(0.5)
        assert act(observation).tolist() == [[21.5]]
        observation.copy_(torch.tensor([[3.0, 4.0]]))
        assert act(observation).tolist() == [[43.5]]
        layer.bias.fill_(0.25)
        assert act(observation).tolist() == [[43.25]]
    assert act(torch.tensor([[0.0, 1.0]])).tolist() == [[10.25]]


@pytest.mark.parametrize("activation", ["relu", "elu"])  # the second one acts in PyTorch
def test_weights_that_layers_compute_are_those_of_the_moment(activation: str) -> None:
    mlp = MLP(2, 1, (3,), activation)
    for layer in mlp.layers:
        weight_norm(layer)
    act, observation = acting_function(mlp), torch.tensor([[1.0, 2.0]])
    before = act(observation).copy()
    with torch.no_grad():
        for parameter in mlp.parameters():
            parameter.mul_(2.0).add_(1.0)
    after = act(observation)
    np.testing.assert_allclose(after, mlp(observation).detach().numpy(), rtol=1e-5)
    assert abs(after - before).item() > 0.1
