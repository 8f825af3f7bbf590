"""Gradients of several networks at once: each of its own loss, eager and compiled."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_rl.functional.joint_gradients import joint_gradient_function
from lightning_rl.functional.parameters import flatten_parameters

# Inside the compiler.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")


class Number(nn.Module):
    """One parameter."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor([value]))

    def forward(self) -> Tensor:
        return self.value


class Counting(Number):
    """A buffer that changes with every call, as running statistics do."""

    def __init__(self, value: float) -> None:
        super().__init__(value)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self) -> Tensor:
        self.calls.add_(1.0)
        return self.value * self.calls


def losses(a: Any, b: Any, other: Any, x: dict[str, Tensor]) -> tuple[tuple[Tensor, ...], Tensor]:
    """Scalar 0 depends on both networks and is minimised by `a` alone; so is scalar 1, by `b`."""
    first = (a() * b() * x["x"]).sum()
    second = (b().square() * other()).sum()
    return (first, second), torch.stack((first, second)).detach()


X = {"x": torch.tensor([4.0])}


class Alternating(Number):
    """A network that acts on Python state: a program traced once would miss it."""

    sign = 1.0

    def forward(self) -> Tensor:
        return self.value * self.sign


@pytest.fixture
def ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the classes of this file count as ours, which are traced once and called unguarded."""
    for network in (Number, Counting):
        monkeypatch.setattr(network, "__module__", "lightning_rl.networks.number")


@pytest.mark.usefixtures("ours")
@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_each_network_gets_the_gradient_of_its_own_loss(compiled: bool):
    a, b, other = Number(2.0), Number(3.0), Number(5.0)
    flats = [flatten_parameters(a), flatten_parameters(b)]
    gradient = joint_gradient_function(losses, [a, b], flats, compiled, [other])
    for _ in range(2):
        (of_a, of_b), statistics = gradient(X)
        # d(abx)/da = bx = 12, d(b^2 o)/db = 2bo = 30; the first does not reach b (ax = 8).
        assert (of_a.tolist(), of_b.tolist()) == ([12.0], [30.0])
        assert statistics.tolist() == pytest.approx([24.0, 45.0, (144 + 900) ** 0.5])
    assert all(p.grad is None for p in (*a.parameters(), *b.parameters(), *other.parameters()))
    assert not of_a.requires_grad
    assert not statistics.requires_grad
    # It reads the parameters as they are at each call.
    flats[1].flat.data.fill_(1.0)
    (of_a, of_b), _ = gradient(X)
    assert (of_a.tolist(), of_b.tolist()) == ([4.0], [10.0])


def test_a_scalar_behind_the_last_network_is_not_differentiated():
    a, b, other = Number(2.0), Number(3.0), Number(5.0)
    gradient = joint_gradient_function(losses, [a], [flatten_parameters(a)], False, [b, other])
    gradients, statistics = gradient(X)
    assert [g.tolist() for g in gradients] == [[12.0]]
    assert statistics[-1].item() == 12.0


def test_python_state_of_somebody_elses_network_is_seen_when_compiled():
    a, b, other = Alternating(2.0), Number(3.0), Number(5.0)
    flats = [flatten_parameters(a), flatten_parameters(b)]
    gradient = joint_gradient_function(losses, [a, b], flats, True, [other])
    assert [part.tolist() for part in gradient(X)[0]] == [[12.0], [30.0]]
    a.sign = -1.0
    gradients, statistics = gradient(X)
    assert [part.tolist() for part in gradients] == [[-12.0], [30.0]]
    assert statistics.tolist() == pytest.approx([-24.0, 45.0, (144 + 900) ** 0.5])
    assert not any(tensor.requires_grad for tensor in (*gradients, statistics))


@pytest.mark.slow
@pytest.mark.parametrize("is_ours", [True, False])
def test_a_buffer_is_updated_once_per_call_compiled_as_eager(
    is_ours: bool, request: pytest.FixtureRequest
):
    if is_ours:
        request.getfixturevalue("ours")
    for compiled in (False, True):
        a, b = Counting(2.0), Number(3.0)

        def loss(a: Any, b: Any, x: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
            first = (a() * b() * x).sum()
            return (first, first), first.detach().view(1)

        flats = [flatten_parameters(a), flatten_parameters(b)]
        gradient = joint_gradient_function(loss, [a, b], flats, compiled)
        for call in (1, 2, 3):
            (of_a, _), _ = gradient(torch.tensor([4.0]))
            assert a.calls.item() == call
            assert of_a.tolist() == [12.0 * call]


@pytest.mark.slow
def test_compiled_equals_eager_for_networks_that_share_a_loss():
    torch.manual_seed(0)
    critic, actor = nn.Linear(4, 1), nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))

    def loss(critic: Any, actor: Any, x: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        with torch.no_grad():
            target = critic(torch.cat((x, actor(x)), -1)) * 0.9 + 1.0
        error = (critic(torch.cat((x, x[:, :1]), -1)) - target).square().mean()
        return (error, -critic(torch.cat((x, actor(x)), -1)).mean()), error.detach().view(1)

    flats = [flatten_parameters(critic), flatten_parameters(actor)]
    x = torch.randn(16, 3)
    results = [
        joint_gradient_function(loss, [critic, actor], flats, compiled)(x)
        for compiled in (False, True)
    ]
    for eager, compiled in zip(results[0][0], results[1][0], strict=True):
        assert torch.allclose(eager, compiled, atol=1e-6)
        assert eager.abs().max() > 0
    assert torch.allclose(results[0][1], results[1][1], atol=1e-6)
