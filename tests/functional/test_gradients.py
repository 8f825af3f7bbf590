"""From a loss to a flat gradient: eager, compiled, clipped, and what stays untouched."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_rl.functional.gradients import gradient_function, is_traceable
from lightning_rl.functional.parameters import flatten_parameters


def squares(network: Any, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    error = (network(x).squeeze(-1) - y).square().mean()
    return error, torch.stack((error, y.mean())).detach()


def distance(network: Any, other: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    loss = (network(x) - other(x)).square().mean()
    return loss, loss.detach().view(1)


def line(weight: float = 2.0) -> nn.Linear:
    network = nn.Linear(1, 1)
    nn.init.constant_(network.weight, weight)
    nn.init.zeros_(network.bias)
    return network


def two_layers() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))


X, Y = torch.tensor([[1.0], [2.0]]), torch.tensor([0.0, 1.0])
# Errors 2 and 3: d/dw of their mean square is 2 * 1 + 3 * 2, d/db is 2 + 3.


def test_the_gradient_of_a_line_in_literal_numbers():
    network = line()
    flat = flatten_parameters(network)
    gradient, statistics = gradient_function(squares, network, flat, compiled=False)(X, Y)
    assert gradient.tolist() == pytest.approx([8.0, 5.0])
    loss, mean, norm = statistics.tolist()
    assert (loss, mean) == (6.5, 0.5)
    assert norm == pytest.approx(89**0.5)
    assert network.weight.grad is None


def test_clipping_keeps_direction_and_reports_the_norm_before():
    network = line()
    flat = flatten_parameters(network)
    for max_norm, expected in ((1.0, 1.0), (100.0, 89**0.5)):
        function = gradient_function(squares, network, flat, False, max_norm=max_norm)
        gradient, statistics = function(X, Y)
        assert gradient.norm().item() == pytest.approx(expected, rel=1e-4)
        assert (gradient[0] / gradient[1]).item() == pytest.approx(1.6)
        assert statistics[-1].item() == pytest.approx(89**0.5)


def test_a_frozen_network_gets_no_gradient_and_is_read_as_it_is_now():
    network, other = line(2.0), line(5.0)
    flat = flatten_parameters(network)
    function = gradient_function(distance, network, flat, False, frozen=[other])
    gradient, _ = function(torch.ones(1, 1))
    assert gradient.tolist() == [-6.0, -6.0]
    with torch.no_grad():
        other.weight.fill_(2.0)
    assert function(torch.ones(1, 1))[0].tolist() == [0.0, 0.0]
    assert other.weight.grad is None


def test_a_step_on_the_flat_parameter_is_seen_by_the_next_gradient():
    network = line()
    flat = flatten_parameters(network)
    function = gradient_function(squares, network, flat, compiled=False)
    flat.flat.grad, _ = function(X, Y)
    torch.optim.SGD([flat.flat], lr=0.1).step()
    assert network.weight.item() == pytest.approx(1.2)
    assert network.bias.item() == pytest.approx(-0.5)
    # Errors 0.7 and 0.9.
    assert function(X, Y)[0].tolist() == pytest.approx([2.5, 1.6])


def test_it_works_where_gradients_are_off():
    network = line()
    function = gradient_function(squares, network, flatten_parameters(network), compiled=False)
    with torch.no_grad():
        assert function(X, Y)[0].tolist() == pytest.approx([8.0, 5.0])


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # inside the compiler
def test_compiled_and_eager_agree():
    """In values, clipping, statistics and weights, with a frozen network beside the trained one."""

    def loss(network: Any, other: Any, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        error = (network(x).squeeze(-1) - other(x).squeeze(-1) - y).square().mean()
        return error, error.detach().view(1)

    torch.manual_seed(0)
    networks = [two_layers(), two_layers()]
    networks[1].load_state_dict(networks[0].state_dict())
    frozen = nn.Sequential(nn.Linear(3, 1), line())
    batches = [(torch.randn(16, 3), torch.randn(16)) for _ in range(3)]
    results = []
    for network, compiled in zip(networks, (False, True), strict=True):
        flat = flatten_parameters(network)
        function = gradient_function(loss, network, flat, compiled, frozen=[frozen], max_norm=0.5)
        optimizer, rows = torch.optim.SGD([flat.flat], lr=0.5), []
        for batch in batches:
            flat.flat.grad, statistics = function(*batch)
            rows.append((flat.flat.grad.clone(), statistics.clone()))
            optimizer.step()
        results.append((rows, flat.flat.detach().clone()))
        assert flat.is_attached()
        assert all(type(p) is nn.Parameter for p in network.parameters())
    (eager, eager_weights), (fast, fast_weights) = results
    for (gradient, statistics), (other_gradient, other_statistics) in zip(eager, fast, strict=True):
        torch.testing.assert_close(other_gradient, gradient, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(other_statistics, statistics, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(fast_weights, eager_weights, rtol=1e-5, atol=1e-5)


class Alternating(nn.Module):
    """A network that acts on Python state: a program traced once would miss it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.sign = nn.Linear(1, 1), 1.0

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) * self.sign


def test_only_what_is_ours_or_torchs_is_traced_once():
    assert is_traceable(two_layers())
    assert not is_traceable(nn.Sequential(nn.Linear(1, 1), Alternating()))
    assert not is_traceable(nn.LSTM(1, 1))


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # inside the compiler
def test_python_state_of_somebody_elses_network_is_seen_when_compiled():
    network = Alternating()
    function = gradient_function(squares, network, flatten_parameters(network), compiled=True)
    before = function(X, torch.zeros(2))[0]
    y = network(X).squeeze(-1).detach()
    network.sign = -1.0
    # The prediction turns round, and so does the target: the error stays, its slope too.
    after = function(X, torch.zeros(2))[0]
    torch.testing.assert_close(after, before)
    error_of_ones = function(X, -y)[1][0].item()
    assert error_of_ones == pytest.approx(0.0, abs=1e-6)
