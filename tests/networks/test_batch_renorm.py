"""Batch renormalisation: its numbers, its statistics and its limits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from lightning_rl.networks.batch_renorm import BatchRenorm, RenormMLP, RenormNetwork

VECTOR = spaces.Box(-1.0, 1.0, (3,), np.float32)


def test_at_first_it_is_batch_normalisation():
    torch.manual_seed(0)
    ours, theirs = BatchRenorm(1, 4), nn.BatchNorm1d(4, eps=1e-3, momentum=0.01)
    for _ in range(5):
        x = torch.randn(32, 4) * 3 + 2
        assert torch.allclose(ours(x[None], True)[0], theirs(x), atol=1e-5)
    assert torch.allclose(ours.mean[0, 0], theirs.running_mean, atol=1e-5)
    # PyTorch keeps the sample variance, the paper the population's.
    assert torch.allclose(
        ours.var[0, 0] - 0.99**5, (theirs.running_var - 0.99**5) * 31 / 32, atol=1e-4
    )
    assert ours.batches.item() == 5


def test_each_member_has_statistics_of_its_own():
    norm = BatchRenorm(2, 1)
    x = torch.tensor([[[0.0], [2.0]], [[10.0], [30.0]]])
    normalised = norm(x, True)
    assert normalised.flatten().tolist() == pytest.approx([-1, 1, -1, 1], abs=1e-3)
    assert norm.mean.flatten().tolist() == pytest.approx([0.01, 0.2])
    assert norm.var.flatten().tolist() == pytest.approx([0.99 + 0.01, 0.99 + 1.0])


def test_after_the_warm_up_it_is_corrected_towards_the_running_statistics():
    norm = BatchRenorm(1, 1)
    norm.batches.fill_(100_000)
    norm.mean.fill_(1.0)
    norm.var.fill_(4.0 - 1e-3)
    x = torch.tensor([[[0.0], [4.0]]])  # mean 2, deviation 2
    expected = (x - 1.0) / 2.0  # by the running statistics
    assert torch.allclose(norm(x, True), expected, atol=1e-3)


def test_the_correction_is_bounded():
    norm = BatchRenorm(1, 1)
    norm.batches.fill_(100_000)
    x = torch.tensor([[[1_000.0], [1_200.0]]])  # mean 1100, deviation 100, against 0 and 1
    assert norm(x, True).flatten().tolist() == pytest.approx([-3.0 + 5.0, 3.0 + 5.0], abs=1e-3)


def test_without_batch_statistics_nothing_changes_and_rows_do_not_matter():
    torch.manual_seed(0)
    network = RenormMLP(2, 3, (8,), 1)
    x = torch.randn(16, 3)
    for _ in range(3):
        network(x, True)
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    alone, together = network(x[:1]), network(x)
    assert torch.allclose(alone, together[:, :1], atol=1e-6)
    assert all(torch.equal(before[name], buffer) for name, buffer in network.named_buffers())
    assert not torch.allclose(network(x, True), together, atol=1e-3)


def test_actors_and_critics_have_their_shapes():
    actor, critic = RenormNetwork(VECTOR, 0, 1, (8,), 4), RenormNetwork(VECTOR, 2, 3, (8,), 1)
    observation = torch.randn(5, 3)
    assert actor(observation).shape == (5, 4)
    assert critic(observation, torch.randn(5, 2)).shape == (3, 5)
    with torch.no_grad():
        assert np.allclose(actor.acting_function()(observation), actor(observation))
