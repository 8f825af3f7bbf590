"""Episode seeds: never twice in a run, never shared between training and evaluation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_rl.envs.seeding import SeedStream, episode_seed
from lightning_rl.errors import ConfigError

STREAMS: tuple[SeedStream, ...] = ("train", "evaluation", "test", "scratch")


def test_no_seed_repeats_in_a_million_episodes() -> None:
    seeds = {episode_seed(3, "train", episode) for episode in range(1_000_000)}
    assert len(seeds) == 1_000_000


@pytest.mark.parametrize("run_seed", [0, 1, 2**31 - 1, 2**63])
def test_streams_are_disjoint_and_fit_31_bits(run_seed: int) -> None:
    seeds = [episode_seed(run_seed, stream, n) for stream in STREAMS for n in range(5_000)]
    assert len(set(seeds)) == 20_000
    assert min(seeds) >= 0
    assert max(seeds) < 2**31


@given(st.integers(0, 2**64), st.sampled_from(STREAMS), st.integers(0, 2**29 - 1))
def test_the_two_high_bits_tell_the_stream(run_seed: int, stream: SeedStream, number: int) -> None:
    assert episode_seed(run_seed, stream, number) >> 29 == STREAMS.index(stream)


def test_runs_meet_different_episodes() -> None:
    first, second = ({episode_seed(run, "train", n) for n in range(10_000)} for run in (0, 1))
    assert len(first & second) < 10  # of 2**29; chance alone gives about 0.2


def test_seeds_look_unrelated() -> None:
    seeds = np.array([episode_seed(0, "train", n) for n in range(4_000)], dtype=np.int64)
    low_bits = (seeds[:, None] >> np.arange(29)) & 1
    assert np.abs(low_bits.mean(axis=0) - 0.5).max() < 0.05
    assert abs(np.corrcoef(seeds[:-1], seeds[1:])[0, 1]) < 0.1


def test_seeds_stay_the_same_over_versions() -> None:
    # A change would silently give every stored run other episodes.
    assert [episode_seed(0, "train", n) for n in range(3)] == SEEDS_OF_RUN_0
    assert episode_seed(42, "test", 7) == SEED_OF_RUN_42


@pytest.mark.parametrize("number", [-1, 2**29])
def test_a_number_out_of_range_is_refused(number: int) -> None:
    with pytest.raises(ConfigError, match="expected an episode number in"):
        episode_seed(0, "train", number)


SEEDS_OF_RUN_0 = [240419922, 127168760, 483883541]
SEED_OF_RUN_42 = 1131473977
