"""Action heads against torch.distributions, and the statistics of their samples."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import distributions as td

from lightning_rl.errors import ConfigError
from lightning_rl.networks.distributions import make_action_head


def split_categoricals(parameters, sizes):
    return [td.Categorical(logits=part) for part in parameters.split(sizes, -1)]


def reference_categorical(parameters, action):
    reference = td.Categorical(logits=parameters)
    return reference.log_prob(action), reference.entropy()


def reference_gaussian(parameters, action):
    mean, log_std = parameters.chunk(2, -1)
    reference = td.Independent(td.Normal(mean, log_std.exp()), 1)
    return reference.log_prob(action.reshape(len(action), -1)), reference.entropy()


def reference_bernoulli(parameters, action):
    reference = td.Independent(td.Bernoulli(logits=parameters), 1)
    return reference.log_prob(action.flatten(1).float()), reference.entropy()


def reference_multi_categorical(sizes):
    def reference(parameters, action):
        parts = split_categoricals(parameters, sizes)
        columns = action.flatten(1).unbind(1)
        log_prob = sum(p.log_prob(c) for p, c in zip(parts, columns, strict=True))
        return log_prob, sum(p.entropy() for p in parts)

    return reference


CASES = {
    "discrete": (spaces.Discrete(5), 5, reference_categorical),
    "one_action": (spaces.Discrete(1), 1, reference_categorical),
    "box": (spaces.Box(-1, 1, (3,)), 3, reference_gaussian),
    "box_2d": (spaces.Box(-1, 1, (2, 3)), 6, reference_gaussian),
    "box_0d": (spaces.Box(-1, 1, ()), 1, reference_gaussian),
    "multi": (spaces.MultiDiscrete([2, 4, 3]), 9, reference_multi_categorical([2, 4, 3])),
    "multi_2d": (spaces.MultiDiscrete([[2, 3]]), 5, reference_multi_categorical([2, 3])),
    "binary": (spaces.MultiBinary(4), 4, reference_bernoulli),
    "binary_2d": (spaces.MultiBinary((2, 3)), 6, reference_bernoulli),
}


def head_and_parameters(name, batch_size=64, scale=2.0):
    space, num_outputs, _ = CASES[name]
    head = make_action_head(space)
    width = num_outputs * (2 if head.has_log_std else 1)
    parameters = torch.randn(batch_size, width, generator=torch.Generator().manual_seed(1)) * scale
    return head, parameters


@pytest.mark.parametrize("name", CASES)
def test_log_prob_and_entropy_equal_those_of_torch(name):
    head, parameters = head_and_parameters(name)
    action = head.sample(parameters, head.draw_noise((64,)))
    log_prob, entropy = CASES[name][2](parameters, action)
    assert head.num_outputs == CASES[name][1]
    assert head.log_prob(parameters, action).shape == (64,)
    torch.testing.assert_close(head.log_prob(parameters, action), log_prob, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(head.entropy(parameters), entropy, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_actions_belong_to_the_space(name):
    head, parameters = head_and_parameters(name, scale=0.1)
    space = CASES[name][0]
    noise = head.draw_noise((7, 64))
    assert noise.shape == head.noise_shape(7, 64) == (7, 64, head.num_outputs)
    for action in (head.sample(parameters, noise[0]), head.mode(parameters)):
        assert action.shape == (64, *head.action_shape)
        assert action.dtype == head.action_dtype
        assert head.action_shape == space.shape
        if not head.has_log_std:
            assert all(space.contains(row.astype(space.dtype)) for row in action.numpy())


@pytest.mark.parametrize("name", CASES)
def test_noise_comes_from_the_generator_only(name):
    head, _ = head_and_parameters(name)
    before = torch.get_rng_state()
    first = head.draw_noise((3, 2), torch.Generator().manual_seed(5))
    second = head.draw_noise((3, 2), torch.Generator().manual_seed(5))
    assert torch.equal(first, second)
    assert first.isfinite().all()
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", ["discrete", "multi", "binary"])
def test_frequencies_of_samples_match_the_probabilities(name):
    head, parameters = head_and_parameters(name, batch_size=1, scale=1.0)
    count = 200_000
    noise = head.draw_noise((count,), torch.Generator().manual_seed(0))
    actions = head.sample(parameters.expand(count, -1), noise)
    rows, seen = actions.reshape(count, -1).unique(dim=0, return_counts=True)
    probabilities = torch.stack(
        [head.log_prob(parameters, row.reshape(1, *head.action_shape)).exp()[0] for row in rows]
    )
    assert probabilities.sum() == pytest.approx(1.0, abs=1e-3)
    torch.testing.assert_close(seen / count, probabilities, rtol=0, atol=0.005)


def test_gaussian_samples_have_the_mean_and_deviation():
    head = make_action_head(spaces.Box(-1, 1, (2,)))
    parameters = torch.tensor([[1.0, -2.0, 0.0, -1.0]]).expand(100_000, -1)
    noise = head.draw_noise((100_000,), torch.Generator().manual_seed(0))
    actions = head.sample(parameters, noise)
    assert actions.mean(0).tolist() == pytest.approx([1.0, -2.0], abs=0.02)
    assert actions.std(0).tolist() == pytest.approx([1.0, 0.3679], abs=0.02)


def test_literals():
    discrete = make_action_head(spaces.Discrete(2))
    logits = torch.tensor([[0.0, np.log(3.0)]])
    assert discrete.log_prob(logits, torch.tensor([1])).exp().item() == pytest.approx(0.75)
    assert discrete.mode(logits).tolist() == [1]
    gaussian = make_action_head(spaces.Box(-1, 1, (1,)))
    standard = torch.zeros(1, 2)
    assert gaussian.log_prob(standard, torch.zeros(1, 1)).item() == pytest.approx(-0.9189385)
    assert gaussian.entropy(standard).item() == pytest.approx(1.4189385)
    coins = make_action_head(spaces.MultiBinary(2))
    assert coins.entropy(torch.zeros(1, 2)).item() == pytest.approx(2 * 0.6931472)


@pytest.mark.parametrize("name", CASES)
def test_extreme_parameters_stay_finite(name):
    head, parameters = head_and_parameters(name, scale=0.0)
    parameters = parameters + (0.0 if head.has_log_std else 80.0)
    parameters[:, 0] = -80.0 if not head.has_log_std else 80.0
    action = head.mode(parameters)
    assert head.log_prob(parameters, action).isfinite().all()
    assert head.entropy(parameters).isfinite().all()


@pytest.mark.parametrize("name", CASES)
def test_heads_compile_whole_and_have_gradients(name):
    head, parameters = head_and_parameters(name, batch_size=8)
    noise = head.draw_noise((8,))

    def everything(parameters):
        action = head.sample(parameters, noise)
        return head.log_prob(parameters, action), head.entropy(parameters), head.mode(parameters)

    torch.compiler.reset()  # else the cases add up to more recompilations than are allowed
    compiled = torch.compile(everything, fullgraph=True, backend="eager")
    for ours, expected in zip(compiled(parameters), everything(parameters), strict=True):
        torch.testing.assert_close(ours, expected)
    parameters.requires_grad_()
    log_prob, entropy, _ = everything(parameters)
    (log_prob.sum() + entropy.sum()).backward()
    assert parameters.grad.isfinite().all()


def test_unsupported_spaces_name_the_supported_ones():
    with pytest.raises(ConfigError, match="Discrete, Box, MultiDiscrete, MultiBinary"):
        make_action_head(spaces.Text(3))
    with pytest.raises(ConfigError, match="use MultiDiscrete for integers"):
        make_action_head(spaces.Box(0, 5, (2,), np.int64))
