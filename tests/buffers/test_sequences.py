"""Rollouts cut into sequences."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_rl.buffers.sequences import cut_sequences


def slow_cut(ended: np.ndarray, length: int) -> list[list[tuple[int, int]]]:
    """Walk along each environment and begin anew at ends and after `length` steps."""
    sequences: list[list[tuple[int, int]]] = []
    for env in range(ended.shape[1]):
        current: list[tuple[int, int]] = []
        for step in range(len(ended)):
            current.append((step, env))
            if ended[step, env] or len(current) == length or step == len(ended) - 1:
                sequences.append(current)
                current = []
    return sequences


@given(
    num_steps=st.integers(1, 20),
    num_envs=st.integers(1, 3),
    length=st.integers(1, 25),
    seed=st.integers(0, 50),
)
def test_every_step_is_in_one_sequence_of_one_episode(
    num_steps: int, num_envs: int, length: int, seed: int
) -> None:
    ended = np.random.default_rng(seed).random((num_steps, num_envs)) < 0.2
    cut = cut_sequences(ended, length)
    found = [
        [(int(step), int(env)) for step, valid in zip(steps, mask, strict=True) if valid]
        for steps, env, mask in zip(cut.steps, cut.envs[:, 0], cut.mask, strict=True)
    ]
    assert found == slow_cut(ended, length)
    assert cut.mask[:, 0].all()
    assert cut.mask.shape[1] == max(map(len, found))


def test_columns_are_taken_in_order() -> None:
    ended = np.array([[False], [True], [False], [False], [False]])
    cut = cut_sequences(ended, 2)
    assert cut.mask.tolist() == [[True, True], [True, True], [True, False]]
    column = torch.arange(5.0)[:, None]
    taken = cut.take(column)
    assert taken.tolist() == [[0.0, 1.0], [2.0, 3.0], [4.0, 4.0]]  # type: ignore[union-attr]
    assert cut.first(column).tolist() == [0.0, 2.0, 4.0]
    tree = cut.take({"a": column[..., None].expand(5, 1, 3)})
    assert tree["a"].shape == (3, 2, 3)  # type: ignore[call-overload]
