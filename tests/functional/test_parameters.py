"""Flat parameters, target-network updates, clipping."""

import copy

import pytest
import torch
from torch import nn

from lightning_rl.functional.parameters import (
    clip_by_global_norm,
    flatten_parameters,
    hard_update,
    polyak_update,
)


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))


def gradients_of(module, x):
    def loss(parameters):
        return torch.func.functional_call(module, parameters, (x,)).square().sum()

    return torch.func.grad(loss)({k: p.detach() for k, p in module.named_parameters()})


def test_parameters_keep_identity_and_follow_the_optimizer():
    module = network()
    before = dict(module.named_parameters())
    values = {name: p.detach().clone() for name, p in before.items()}
    flat = flatten_parameters(module)
    assert flat.flat.shape == (32,)
    assert flat.flat.is_contiguous()
    assert list(flat.named) == list(before)
    for name, parameter in module.named_parameters():
        assert parameter is before[name]
        assert torch.equal(parameter, values[name])
    flat.flat.grad = torch.ones_like(flat.flat)
    torch.optim.SGD([flat.flat], lr=0.5).step()
    for name, parameter in module.named_parameters():
        assert parameter is before[name]
        assert type(parameter) is nn.Parameter
        torch.testing.assert_close(parameter.detach(), values[name] - 0.5)
    assert flat.is_attached()


def test_fused_adam_on_flat_equals_adam_on_the_tensors():
    module, reference = network(), network()
    flat = flatten_parameters(module)
    fused = torch.optim.Adam([flat.flat], lr=1e-2, fused=True)
    plain = torch.optim.Adam(reference.parameters(), lr=1e-2)
    for seed in range(5):
        x = torch.randn(7, 3, generator=torch.Generator().manual_seed(seed))
        flat.flat.grad = flat.flatten_gradients(gradients_of(module, x))
        fused.step()
        plain.zero_grad()
        reference(x).square().sum().backward()
        plain.step()
    for ours, theirs in zip(module.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_loading_a_state_dict_keeps_the_views():
    module, other = network(0), network(1)
    flat = flatten_parameters(module)
    module.load_state_dict(other.state_dict())
    assert flat.is_attached()
    expected = torch.cat([p.detach().flatten() for p in other.parameters()])
    assert torch.equal(flat.flat.detach(), expected)


def test_replaced_data_is_noticed():
    module = network()
    flat = flatten_parameters(module)
    module.to(torch.float64)
    assert not flat.is_attached()


def test_gradients_are_flattened_by_name_also_when_compiled():
    module = network()
    flat = flatten_parameters(module)
    gradients = {name: torch.randn_like(p) for name, p in flat.named.items()}
    expected = torch.cat([gradients[name].flatten() for name, _ in module.named_parameters()])
    shuffled = dict(reversed(gradients.items()))
    compiled = torch.compile(flat.flatten_gradients, fullgraph=True, backend="eager")
    assert torch.equal(flat.flatten_gradients(shuffled), expected)
    assert torch.equal(compiled(shuffled), expected)


def test_a_parameter_with_two_names_is_refused():
    module = nn.ModuleDict({"actor": nn.Linear(2, 2), "critic": nn.Linear(2, 2)})
    module["critic"].weight = module["actor"].weight
    with pytest.raises(ValueError, match=r"'actor\.weight' and as 'critic\.weight'"):
        flatten_parameters(module)
    shared = nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"'0\.weight' and as '1\.weight'"):
        flatten_parameters(nn.Sequential(shared, shared))


def test_frozen_and_mixed_parameters():
    module = network()
    module[0].requires_grad_(False)
    assert list(flatten_parameters(module).named) == ["2.weight", "2.bias"]
    with pytest.raises(ValueError, match="trainable"):
        flatten_parameters(nn.Tanh())
    mixed = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).double())
    with pytest.raises(ValueError, match=r"torch\.float32 on cpu, torch\.float64 on cpu"):
        flatten_parameters(mixed)


@pytest.mark.parametrize("flat", [False, True])
def test_polyak_update(flat):
    target, online = network(0), network(1)
    with torch.no_grad():
        for parameter in target.parameters():
            parameter.fill_(1.0)
        for parameter in online.parameters():
            parameter.fill_(3.0)
    pair = (flatten_parameters(target), flatten_parameters(online)) if flat else (target, online)
    polyak_update(*pair, 0.25)
    assert all(torch.equal(p, torch.full_like(p, 1.5)) for p in target.parameters())
    assert all(torch.equal(p, torch.full_like(p, 3.0)) for p in online.parameters())
    hard_update(*pair)
    assert all(torch.equal(p, torch.full_like(p, 3.0)) for p in target.parameters())
    assert all(p.requires_grad for p in target.parameters())


def test_polyak_update_copies_buffers_and_refuses_a_mixture():
    target, online = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    online(torch.randn(8, 2))
    polyak_update(target, online, 0.1)
    assert torch.equal(target.running_mean, online.running_mean)
    assert target.num_batches_tracked == 1
    with pytest.raises(ValueError, match="one of each"):
        polyak_update(flatten_parameters(target), online, 0.1)
    with pytest.raises(ValueError, match="equal networks"):
        polyak_update(network(), nn.Linear(2, 2), 0.1)


def test_a_copied_network_is_independent():
    online = network()
    flat = flatten_parameters(online)
    target = copy.deepcopy(online)
    with torch.no_grad():
        flat.flat.zero_()
    assert any(p.any() for p in target.parameters())


@pytest.mark.parametrize("max_norm", [0.5, 1e3, float("inf")])
def test_clipping_equals_torch(max_norm):
    gradients = [torch.randn(4, 3), torch.randn(6)]
    flat = torch.cat([g.flatten() for g in gradients])
    parameters = [nn.Parameter(torch.zeros_like(g)) for g in gradients]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient.clone()
    expected_norm = torch.nn.utils.clip_grad_norm_(parameters, max_norm)
    clipped, norm = clip_by_global_norm(flat, max_norm)
    torch.testing.assert_close(norm, expected_norm)
    torch.testing.assert_close(clipped, torch.cat([p.grad.flatten() for p in parameters]))


def test_clipping_a_zero_gradient():
    clipped, norm = clip_by_global_norm(torch.zeros(3), 0.5)
    assert norm == 0.0
    assert not clipped.any()
