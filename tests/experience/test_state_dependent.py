"""State-dependent noise: what it is made of, how long it stays, and that it can be put back."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from lightning_rl.errors import ConfigError
from lightning_rl.experience.state_dependent import StateDependentNoise

SHAPE = (2, 3, 1)  # environments, features, action dimensions
FEATURES = np.array([[1.0, 2.0, -1.0], [0.5, 0.0, 3.0]], dtype=np.float32)
STD = np.array([[0.1], [0.2], [0.3]], dtype=np.float32)


def play(noise: StateDependentNoise, rollouts: list[int], generator: Any) -> list[list[float]]:
    """Return the noise `(N,)` of each step of some rollouts, always at the same features."""
    steps = []
    for num_steps in rollouts:
        at = noise.begin_rollout(generator, num_steps, STD)
        steps += [at(FEATURES, step)[:, 0].tolist() for step in range(num_steps)]
    return steps


def lengths(steps: list[list[float]]) -> list[int]:
    """Return how often each noise came in a row."""
    counts = [1]
    for before, after in pairwise(steps):
        if before == after:
            counts[-1] += 1
        else:
            counts.append(1)
    return counts


def test_the_noise_equals_a_slow_loop():
    noise = StateDependentNoise(-1, SHAPE)
    at = noise.begin_rollout(np.random.default_rng(0), 4, STD)
    result = at(FEATURES, 0)
    assert (result.shape, result.dtype) == ((2, 1), np.float32)
    matrices = np.random.default_rng(int(noise.seed)).standard_normal(SHAPE, dtype=np.float32)
    for row in range(2):
        expected = sum(FEATURES[row, f] * STD[f, 0] * matrices[row, f, 0] for f in range(3))
        assert result[row, 0] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("sample_freq", "rollouts", "kept"),
    [
        (-1, [4, 4, 1], [4, 4, 1]),
        (3, [4, 4, 1], [3, 3, 3]),  # across the ends of rollouts
        (1, [3], [1, 1, 1]),
        (5, [1] * 12, [5, 5, 2]),
        (100, [4, 4], [8]),
    ],
)
def test_how_long_a_matrix_is_kept(sample_freq: int, rollouts: list[int], kept: list[int]):
    noise = StateDependentNoise(sample_freq, SHAPE)
    assert lengths(play(noise, rollouts, np.random.default_rng(1))) == kept


def test_environments_have_matrices_of_their_own():
    noise = StateDependentNoise(-1, (2, 3, 1))
    at = noise.begin_rollout(np.random.default_rng(2), 1, STD)
    first, second = at(FEATURES[[0, 0]], 0)[:, 0]
    assert first != second


def test_learned_deviations_scale_a_matrix_that_is_kept():
    noise, generator = StateDependentNoise(10, SHAPE), np.random.default_rng(3)
    before = noise.begin_rollout(generator, 2, STD)(FEATURES, 0)
    after = noise.begin_rollout(generator, 2, 2.0 * STD)(FEATURES, 0)
    assert np.allclose(after, 2.0 * before)


def test_it_goes_on_from_a_checkpoint_also_with_other_environments():
    noise, generator = StateDependentNoise(5, SHAPE), np.random.default_rng(4)
    play(noise, [3], generator)
    again = StateDependentNoise(5, SHAPE)
    again.load_state_dict(noise.state_dict())
    state = generator.bit_generator.state
    then = play(noise, [4, 4], generator)
    generator.bit_generator.state = state
    assert play(again, [4, 4], generator) == then
    assert lengths(then) == [2, 5, 1]
    StateDependentNoise(5, (7, 3, 1)).load_state_dict(noise.state_dict())


@pytest.mark.parametrize("sample_freq", [0, -2])
def test_other_frequencies_are_refused(sample_freq: int):
    with pytest.raises(ConfigError, match=f"-1 for the start of every rollout, .* {sample_freq}"):
        StateDependentNoise(sample_freq, SHAPE)
