"""Replay files: a round trip, and what is refused before anything is made of it."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest

from lightning_rl.errors import ConfigError
from lightning_rl.storage import episode_file
from lightning_rl.storage.episode_file import EpisodeReplay, read_replay, write_replay

REPLAY = EpisodeReplay(
    algorithm="PPO",
    environment="Pendulum-v1",
    env={"id": "Pendulum-v1", "num_envs": 4},
    seed=7,
    actions=[[0.10000000149011612], [-2.0]],
    rewards=[-1.5, -0.25],
    terminated=False,
    truncated=True,
    episode=3,
    env_steps=800,
)


def test_a_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    write_replay(REPLAY, path)
    assert read_replay(path) == REPLAY
    content = json.loads(path.read_text())
    assert content["kind"] == "lightning_rl.replay"
    assert content["format"] == 1
    assert (content["reward"], content["length"]) == (-1.75, 2)
    assert content["observations"] is None


def test_rewards_that_are_not_finite_are_null_in_standard_json(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    write_replay(EpisodeReplay(**{**vars(REPLAY), "rewards": [math.inf, -math.inf]}), path)
    assert json.loads(path.read_text())["rewards"] == [None, None]
    write_replay(EpisodeReplay(**{**vars(REPLAY), "rewards": [math.inf, 1.0]}), path)
    assert "Infinity" not in path.read_text()
    read = read_replay(path)
    assert math.isnan(read.rewards[0])
    assert read.rewards[1] == 1.0


def written(tmp_path: Path, **changes: Any) -> Path:
    path = tmp_path / "r.json"
    write_replay(REPLAY, path)
    content = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not ...}))
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "x"}, "no replay file of lightning_rl"),
        ({"format": 2}, "has format 2, this version reads up to 1; update"),
        ({"format": "1"}, "has format '1'"),
        ({"seed": ...}, "no entry 'seed'"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**70}, "seed is 1180591620717411303424"),
        ({"seed": True}, "seed is True"),
        ({"actions": [1]}, "1 actions but 2 rewards"),
        ({"actions": "ab"}, "actions is 'ab'"),
        ({"rewards": [1, "2"]}, "a reward is '2'"),
        ({"rewards": [1, True]}, "a reward is True"),
        ({"env": []}, r"env is \[\]"),
        ({"env": {"frame_stack": 10**9}}, "env.frame_stack is 1000000000"),
        ({"algorithm": "\x1b[31mPPO"}, "algorithm is no plain name"),
        ({"environment": "x" * 2_000}, "environment is no plain name"),
        ({"terminated": 1}, "terminated is 1"),
    ],
)
def test_what_is_not_valid_is_named(changes: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        read_replay(written(tmp_path, **changes))
    assert "\n" not in str(error.value)
    assert "\x1b" not in str(error.value)


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"\xff\xfe", b"null", b"[" * 100_000, b'{"kind":' * 50_000, b"1" * 10_000],
)
def test_what_is_no_json_object_is_refused(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=r"not JSON|no replay file"):
        read_replay(path)


def test_only_files_of_a_sane_size_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    for path in (tmp_path, tmp_path / "pipe.json", tmp_path / "none.json"):
        with pytest.raises(ConfigError, match="no such replay file"):
            read_replay(path)
    monkeypatch.setattr(episode_file, "MAX_BYTES", 10)
    with pytest.raises(ConfigError, match="larger than"):
        read_replay(written(tmp_path))
