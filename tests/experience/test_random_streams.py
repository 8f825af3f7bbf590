"""Random streams: independent, their own, and where they were after a restart."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch

from lightning_rl.experience.random_streams import (
    RandomStreams,
    global_random_state,
    resolve_seed,
    restore_global_random_state,
    seeded,
)

NAMES = ("action", "minibatch", "exploration", "replay", "update")


def draws(streams: RandomStreams, count: int = 4) -> list[list[float]]:
    result = []
    for name in NAMES:
        result.append(torch.rand(count, generator=streams.torch(name)).tolist())
        result.append(streams.numpy(name).random(count).tolist())
    return result


def flat(rows: list[list[float]]) -> list[float]:
    return [number for row in rows for number in row]


def test_the_same_seed_draws_the_same_numbers() -> None:
    assert draws(RandomStreams(5)) == draws(RandomStreams(5))


def test_streams_seeds_and_ranks_differ() -> None:
    numbers = [
        number
        for seed, rank in ((0, 0), (1, 0), (0, 1), (0, 2))
        for number in flat(draws(RandomStreams(seed, rank)))
    ]
    assert len(set(numbers)) == len(numbers) == 4 * 10 * 4


def test_one_stream_does_not_disturb_another() -> None:
    undisturbed = RandomStreams(0)
    disturbed = RandomStreams(0)
    torch.rand(100, generator=disturbed.torch("exploration"))
    disturbed.numpy("action").random(100)
    for streams in (undisturbed, disturbed):
        streams.result = torch.rand(3, generator=streams.torch("minibatch")).tolist()  # type: ignore[attr-defined]
    assert undisturbed.result == disturbed.result  # type: ignore[attr-defined]


def test_global_streams_are_left_alone() -> None:
    before = [random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()]  # type: ignore[index,union-attr]
    draws(RandomStreams(0))
    after = [random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()]  # type: ignore[index,union-attr]
    assert before == after


@pytest.mark.parametrize("used", [0, 1, 7])
def test_streams_go_on_where_they_were(used: int, tmp_path: Any) -> None:
    streams = RandomStreams(3)
    draws(streams, used)
    torch.save(streams.state_dict(), tmp_path / "state")
    expected = draws(streams)
    again = RandomStreams(99)
    again.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    assert draws(again) == expected


def global_draws() -> list[float]:
    return [
        random.random(),
        random.gauss(0, 1),
        np.random.normal(),
        np.random.rand(),
        torch.rand(()).item(),
        torch.randn(()).item(),
    ]


def test_the_global_streams_survive_a_checkpoint(tmp_path: Any) -> None:
    global_draws()  # leaves half a pair of normals behind
    torch.save(global_random_state(), tmp_path / "state")
    expected = global_draws()
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    restore_global_random_state(torch.load(tmp_path / "state", weights_only=True))
    assert global_draws() == expected


def test_reading_the_global_streams_does_not_move_them() -> None:
    first = global_random_state()
    second = global_random_state()
    assert str(first) == str(second)


def test_a_seed_is_taken_from_the_argument_then_the_run_then_chance(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "17")
    assert resolve_seed(0) == 0
    assert resolve_seed(None) == 17
    monkeypatch.delenv("PL_GLOBAL_SEED")
    drawn = {resolve_seed(None) for _ in range(5)}
    assert len(drawn) == 5
    assert all(0 <= seed < 2**31 for seed in drawn)


def test_seeding_is_taken_back() -> None:
    before = torch.get_rng_state()
    with seeded(4):
        first = torch.rand(3)
    assert torch.equal(before, torch.get_rng_state())
    with seeded(4):
        assert torch.equal(first, torch.rand(3))
