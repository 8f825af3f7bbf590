"""The network with layer normalisation, and that acting computes the same."""

from __future__ import annotations

import pytest
import torch

from lightning_rl.errors import ConfigError
from lightning_rl.networks.acting import acting_function
from lightning_rl.networks.layer_norm import LayerNormMLP


def test_the_output_against_literal_numbers() -> None:
    network = LayerNormMLP(1, 1, (2,))
    with torch.no_grad():
        network.hidden[0].weight.copy_(torch.tensor([[1.0], [3.0]]))
        network.norms[0].weight.copy_(torch.tensor([2.0, 2.0]))
        network.norms[0].bias.copy_(torch.tensor([3.0, 0.5]))
        network.output.weight.copy_(torch.tensor([[10.0, 100.0]]))
    # 1 and 3 become -1 and 1, then 1 and 2.5.
    assert network(torch.ones(1, 1)).item() == pytest.approx(260.0, abs=1e-2)
    # Twice the input gives the same: only its direction counts.
    assert network(2.0 * torch.ones(1, 1)).item() == pytest.approx(260.0, abs=1e-2)


@pytest.mark.parametrize("hidden_sizes", [(), (8,), (8, 16)])
def test_acting_in_numpy_equals_the_module(hidden_sizes: tuple[int, ...]) -> None:
    network = LayerNormMLP(4, 3, hidden_sizes)
    for parameter in network.parameters():
        torch.nn.init.uniform_(parameter, -1.0, 1.0)
    act = acting_function(network)
    for rows in (1, 6):
        x = torch.randn(rows, 4)
        expected = network(x).detach()
        torch.testing.assert_close(torch.from_numpy(act(x)), expected, atol=1e-4, rtol=1e-4)
        assert act(x).dtype == expected.numpy().dtype


def test_a_layer_without_units_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"expected positive layer sizes, got \[4, 8, 0, 3\]"):
        LayerNormMLP(4, 3, (8, 0))


def test_every_parameter_learns() -> None:
    network = LayerNormMLP(4, 3, (8, 8))
    network(torch.randn(6, 4)).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())
