"""Masks of valid actions save at least two thirds of the env steps."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.learning.masking import BUDGETS, env_steps_needed


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 4])
def test_masked_ppo_needs_at_most_a_third_of_the_env_steps(seed: int, tmp_path: Path) -> None:
    masked, unmasked = (env_steps_needed(seed, on, tmp_path) for on in (True, False))
    assert masked < BUDGETS[True]
    assert 3 * masked <= unmasked
