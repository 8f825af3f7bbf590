"""Policies with memory: one step at a time, whole sequences, and their greedy module."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium import spaces

from lightning_rl.errors import ConfigError
from lightning_rl.networks.recurrent import GreedyRecurrentPolicy, RecurrentActorCritic

VECTOR = spaces.Box(-1.0, 1.0, (3,), np.float32)
MIXED = spaces.Dict({"seen": VECTOR, "bit": spaces.Discrete(2)})
BOX = spaces.Box(-1.0, 1.0, (2,), np.float32)
CELLS = pytest.mark.parametrize(("cell", "size"), [("lstm", 10), ("gru", 5)])


def observe(space: spaces.Space, *shape: int) -> torch.Tensor | dict[str, torch.Tensor]:
    if isinstance(space, spaces.Dict):
        return {key: observe(leaf, *shape) for key, leaf in space.items()}  # type: ignore[misc]
    if isinstance(space, spaces.Discrete):
        return torch.randint(2, shape)
    return torch.randn(*shape, 3)


@CELLS
@pytest.mark.parametrize("space", [VECTOR, MIXED])
def test_a_sequence_is_its_steps_one_after_the_other(
    cell: str, size: int, space: spaces.Space
) -> None:
    network = RecurrentActorCritic(space, BOX, cell, 5, normalize_observation=space is VECTOR)
    assert network.state_size == size
    observation, state = observe(space, 4, 6), torch.randn(4, size)
    distribution, value = network.sequence(observation, state)
    assert distribution.shape == (4, 6, 4)
    assert value.shape == (4, 6)
    for step in range(6):
        now = (
            {key: leaf[:, step] for key, leaf in observation.items()}
            if isinstance(observation, dict)
            else observation[:, step]
        )
        one, one_value, state = network(now, state)
        torch.testing.assert_close(one, distribution[:, step])
        torch.testing.assert_close(one_value, value[:, step])


@CELLS
def test_every_parameter_gets_a_gradient(cell: str, size: int) -> None:
    network = RecurrentActorCritic(VECTOR, BOX, cell, 5)
    distribution, value = network.sequence(torch.randn(2, 3, 3), torch.randn(2, size))
    ((distribution - 1).square().sum() + value.square().sum()).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


@CELLS
def test_the_first_observation_is_remembered(cell: str, size: int) -> None:
    network = RecurrentActorCritic(VECTOR, spaces.Discrete(3), cell, 5)
    one = torch.zeros(1, 4, 3)
    other = one.clone()
    other[:, 0] = 1.0
    values = [network.sequence(seen, torch.zeros(1, size))[1] for seen in (one, other)]
    assert not torch.equal(values[0][:, -1], values[1][:, -1])


def test_the_greedy_policy_takes_and_gives_its_state() -> None:
    network = RecurrentActorCritic(VECTOR, spaces.Discrete(3), "lstm", 5)
    policy = GreedyRecurrentPolicy(network, lambda logits: logits.argmax(-1))
    assert policy.state_shape == (10,)
    observation, state = torch.randn(7, 3), torch.randn(7, 10)
    action, after = policy(observation, state)
    distribution, _, expected = network(observation, state)
    assert torch.equal(action, distribution.argmax(-1))
    assert torch.equal(after, expected)


def test_another_cell_is_refused() -> None:
    with pytest.raises(ConfigError, match="cell"):
        RecurrentActorCritic(VECTOR, BOX, "rnn")
