"""MLP: shapes, initialisation, and the lean inference function."""

import math

import pytest
import torch
from torch import nn

from lightning_rl.errors import ConfigError
from lightning_rl.functional.parameters import flatten_parameters
from lightning_rl.networks.mlp import ACTIVATIONS, MLP, build_network, inference_function_of


def as_sequential(mlp, activation):
    modules = []
    for layer in mlp.layers:
        modules += [layer, activation]
    return nn.Sequential(*modules[:-1])


def test_forward_equals_a_sequential_network():
    mlp = MLP(4, 3, (8, 6))
    x = torch.randn(5, 4)
    torch.testing.assert_close(mlp(x), as_sequential(mlp, nn.Tanh())(x))
    assert mlp(x).requires_grad


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("activate_output", [False, True])
def test_inference_equals_forward_for_any_batch_size(activation, activate_output):
    mlp = MLP(4, 3, (8, 6), activation, orthogonal=False, activate_output=activate_output)
    act = mlp.inference_function()
    results = []
    for batch_size in (5, 1, 5, 300):
        x = torch.randn(batch_size, 4)
        original = x.clone()
        results.append((act(x), mlp(x).detach()))
        assert torch.equal(x, original)
    for ours, expected in results:  # compared at the end: earlier results must not be overwritten
        assert torch.equal(ours, expected)
        assert not ours.requires_grad


def test_inference_follows_in_place_updates_and_works_in_and_out_of_inference_mode():
    mlp = MLP(4, 3, (8,))
    flat = flatten_parameters(mlp)
    act, x = mlp.inference_function(), torch.randn(2, 4)
    with torch.inference_mode():
        act(x)
    act(x)
    with torch.no_grad():
        flat.flat.mul_(2.0)
    assert torch.equal(act(x), mlp(x))


def test_inference_follows_autocast():
    mlp = MLP(4, 3, (8, 8))
    act, x = mlp.inference_function(), torch.randn(2, 4)
    act(x)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        assert act(x).dtype == torch.bfloat16
        assert torch.equal(act(x), mlp(x))


def test_many_batch_sizes_do_not_pile_up():
    act = MLP(2, 1, (4,)).inference_function()
    for batch_size in range(1, 100):
        assert act(torch.zeros(batch_size, 2)).shape == (batch_size, 1)
    assert len(act._prepared) <= 16


def test_no_hidden_layer_is_a_linear_map():
    mlp = MLP(3, 2, ())
    x = torch.randn(4, 3)
    torch.testing.assert_close(mlp(x), mlp.layers[0](x))
    assert torch.equal(mlp.inference_function()(x), mlp(x))


def test_orthogonal_initialisation():
    mlp = MLP(4, 2, (16, 16), output_gain=0.01)
    first, middle, last = (layer.weight.detach() for layer in mlp.layers)
    torch.testing.assert_close(first.t() @ first, 2.0 * torch.eye(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(middle @ middle.t(), 2.0 * torch.eye(16), atol=1e-5, rtol=0)
    torch.testing.assert_close(last @ last.t(), 1e-4 * torch.eye(2), atol=1e-7, rtol=0)
    assert not any(layer.bias.any() for layer in mlp.layers)


def test_default_initialisation_is_that_of_torch():
    torch.manual_seed(3)
    mlp = MLP(4, 2, (8,), orthogonal=False)
    torch.manual_seed(3)
    expected = [nn.Linear(4, 8), nn.Linear(8, 2)]
    for ours, theirs in zip(mlp.layers, expected, strict=True):
        assert torch.equal(ours.weight, theirs.weight)
        assert torch.equal(ours.bias, theirs.bias)


def test_wrong_arguments():
    with pytest.raises(ConfigError, match="'tahn'; did you mean 'tanh'"):
        MLP(4, 2, (8,), activation="tahn")
    with pytest.raises(ConfigError, match=r"positive layer sizes, got \[4, 0, 2\]"):
        MLP(4, 2, (0,))


def test_build_network():
    module = nn.Linear(2, 3)
    assert build_network(module, MLP, 2, 3) is module
    assert build_network(nn.Linear, MLP, 2, 3).weight.shape == (3, 2)
    assert isinstance(build_network(None, lambda i, o: MLP(i, o, ()), 2, 3), MLP)
    for wrong in (7, lambda i, o: None):
        with pytest.raises(ConfigError, match=r"torch\.nn\.Module"):
            build_network(wrong, MLP, 2, 3)


def test_inference_of_any_module_keeps_no_graph():
    module = nn.Sequential(nn.Linear(2, 3))
    assert not inference_function_of(module)(torch.randn(1, 2)).requires_grad


def test_functional_call_and_compile():
    mlp, x = MLP(4, 2, (8,)), torch.randn(3, 4)
    doubled = {name: p.detach() * 2 for name, p in mlp.named_parameters()}
    compiled = torch.compile(
        lambda p, x: torch.func.functional_call(mlp, p, (x,)), fullgraph=True, backend="eager"
    )
    result = torch.func.functional_call(mlp, doubled, (x,))
    assert not torch.equal(result, mlp(x))
    torch.testing.assert_close(compiled(doubled, x), result)
    assert math.isfinite(float(result.detach().sum()))
