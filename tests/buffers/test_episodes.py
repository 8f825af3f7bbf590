"""Returns of whole episodes, whatever rollouts they are cut into."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lightning_rl.buffers.episodes import OpenEpisodes

GAMMA = 0.5


def absorb(open_episodes: OpenEpisodes, reward: Any, ended: Any, first: int = 0) -> Any:
    reward, ended = torch.tensor(reward, dtype=torch.float64), torch.tensor(ended)
    number = torch.arange(reward.numel()).view_as(ended) + first
    steps = {"observation": {"a": number[..., None]}, "action": number}
    rows = open_episodes.absorb(steps, reward, ended.bool(), GAMMA)
    assert rows["observation"]["a"][:, 0].tolist() == rows["action"].tolist()
    return dict(zip(rows["action"].tolist(), rows["return"].tolist(), strict=True))


def test_one_rollout_by_hand() -> None:
    waiting = OpenEpisodes()
    # Two environments, side by side; the second's episode goes on.
    rows = absorb(waiting, [[1.0, 1.0], [2.0, 1.0], [4.0, 1.0]], [[0, 0], [1, 0], [0, 0]])
    assert rows == {0: 2.0, 2: 2.0}
    assert len(waiting) == 4


def test_an_episode_over_three_rollouts_by_hand() -> None:
    waiting = OpenEpisodes()
    assert absorb(waiting, [[8.0], [4.0]], [[0], [0]]) == {}
    assert absorb(waiting, [[0.0], [16.0]], [[0], [0]], first=2) == {}
    # 8 + 4/2 + 0/4 + 16/8 + 32/16, and what follows each step likewise.
    rows = absorb(waiting, [[32.0], [1.0]], [[1], [0]], first=4)
    assert rows == {0: 14.0, 1: 12.0, 2: 16.0, 3: 32.0, 4: 32.0}
    assert list(rows) == [0, 1, 2, 3, 4]
    assert len(waiting) == 1


@pytest.mark.parametrize("num_steps", [1, 3, 4, 60])
def test_every_step_comes_once_with_the_return_of_a_slow_loop(num_steps: int) -> None:
    generator = torch.Generator().manual_seed(0)
    reward = torch.rand((60, 3), generator=generator, dtype=torch.float64)
    ended = torch.rand((60, 3), generator=generator) < 0.1
    expected, follow = {}, [None, None, None]
    for t in reversed(range(60)):
        for n in range(3):
            if ended[t, n]:
                follow[n] = 0.0
            if follow[n] is not None:
                follow[n] = reward[t, n].item() + GAMMA * follow[n]
                expected[3 * t + n] = follow[n]
    waiting, received = OpenEpisodes(), {}
    for start in range(0, 60, num_steps):
        part = slice(start, start + num_steps)
        rows = absorb(waiting, reward[part].tolist(), ended[part].tolist(), first=3 * start)
        assert not rows.keys() & received.keys()
        received |= rows
    assert received.keys() == expected.keys()
    assert {k: received[k] for k in expected} == pytest.approx(expected)
    assert len(waiting) == 180 - len(expected)


def test_what_was_no_step_is_left_out() -> None:
    valid = torch.tensor([[True], [True], [False], [True]])
    steps = {"action": torch.arange(4)[:, None]}
    reward = torch.tensor([[1.0], [2.0], [0.0], [4.0]])
    ended = torch.tensor([[False], [True], [False], [True]])
    rows = OpenEpisodes().absorb(steps, reward, ended, GAMMA, valid)
    assert rows["action"].tolist() == [0, 1, 3]
    assert rows["return"].tolist() == [2.0, 2.0, 4.0]


def test_waiting_steps_can_be_saved(tmp_path: Any) -> None:
    first, second = OpenEpisodes(), OpenEpisodes()
    absorb(first, [[8.0], [4.0]], [[0], [0]])
    torch.save(first.state_dict(), tmp_path / "state")
    second.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    assert absorb(second, [[32.0]], [[1]], first=2) == {0: 18.0, 1: 20.0, 2: 32.0}
    first.clear()
    assert len(first) == 0
