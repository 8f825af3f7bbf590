"""Adam and RMSprop on one flat parameter."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from lightning_rl.functional.optimizers import FlatAdam, FlatRMSprop, adam_update


def test_two_steps_by_hand() -> None:
    parameter = nn.Parameter(torch.tensor([1.0, 1.0], dtype=torch.float64))
    optimizer = FlatRMSprop(parameter, lr=0.1, alpha=0.75, eps=0.01)
    parameter.grad = torch.tensor([2.0, 0.0], dtype=torch.float64)
    optimizer.step()
    # g = 0.25 * 4 = 1; 1 - 0.1 * 2 / sqrt(1.01)
    assert parameter.tolist() == pytest.approx([1.0 - 0.2 / 1.01**0.5, 1.0])
    before = parameter[0].item()
    parameter.grad = torch.tensor([-4.0, 0.0], dtype=torch.float64)
    optimizer.step()
    # g = 0.75 * 1 + 0.25 * 16 = 4.75
    assert parameter[0].item() == pytest.approx(before + 0.4 / 4.76**0.5)


def test_without_eps_it_is_pytorch_s() -> None:
    parameters = [nn.Parameter(torch.ones(5, dtype=torch.float64)) for _ in range(2)]
    ours = FlatRMSprop(parameters[0], lr=0.01, eps=0.0)
    theirs = torch.optim.RMSprop([parameters[1]], lr=0.01, alpha=0.99, eps=0.0)
    generator = torch.Generator().manual_seed(0)
    for _ in range(10):
        gradient = torch.randn(5, generator=generator, dtype=torch.float64)
        for parameter, optimizer in zip(parameters, (ours, theirs), strict=True):
            parameter.grad = gradient.clone()
            optimizer.step()
    assert parameters[0].tolist() == pytest.approx(parameters[1].tolist())


def test_no_gradient_no_step_and_a_state_that_loads() -> None:
    parameter = nn.Parameter(torch.ones(2))
    optimizer = FlatRMSprop(parameter, lr=0.1)
    optimizer.step()
    assert parameter.tolist() == [1.0, 1.0]
    parameter.grad = torch.ones(2)
    optimizer.step()
    twin = nn.Parameter(parameter.detach().clone())
    other = FlatRMSprop(twin, lr=0.1)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    twin.grad = torch.ones(2)
    optimizer.step()
    other.step()
    assert torch.equal(twin, parameter)


def test_adam_in_tensor_operations_is_the_kernel_s() -> None:
    parameter = nn.Parameter(torch.linspace(-1.0, 1.0, 7))
    optimizer = FlatAdam(parameter, lr=0.1, eps=1e-3, betas=(0.5, 0.75))
    value, means = parameter.detach().clone(), [torch.zeros(7), torch.zeros(7)]
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        parameter.grad = torch.randn(7, generator=generator)
        optimizer.step()
        scales = torch.tensor(optimizer.scales())
        adam_update(value, parameter.grad, *means, scales, (0.5, 0.75), 1e-3)
    assert torch.allclose(value, parameter, atol=1e-6)
    state = optimizer.state[parameter]
    assert torch.allclose(means[0], state["exp_avg"])
    assert torch.allclose(means[1], state["exp_avg_sq"])
    assert optimizer.scales() == pytest.approx((0.1 / (1 - 0.5**5), (1 - 0.75**5) ** -0.5))


def test_adam_s_state_is_loaded_in_place() -> None:
    parameter = nn.Parameter(torch.ones(2))
    optimizer = FlatAdam(parameter, lr=0.1)
    unused = copy.deepcopy(optimizer.state_dict())
    before = dict(optimizer.state[parameter])
    parameter.grad = torch.ones(2)
    optimizer.step()
    used = copy.deepcopy(optimizer.state_dict())
    optimizer.step()
    for state, steps in ((used, 1.0), ({**used, "state": {}}, 0.0), (used, 1.0), (unused, 0.0)):
        optimizer.load_state_dict(state)
        assert all(optimizer.state[parameter][name] is before[name] for name in before)
        assert before["step"].item() == steps
        assert before["exp_avg"].tolist() == pytest.approx([0.1 * steps] * 2)
