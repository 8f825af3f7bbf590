"""What saving leaves alone, and what it refuses to write."""

import random

import numpy as np
import pytest
import torch

from lightning_rl.errors import CheckpointError
from lightning_rl.storage import sealed
from lightning_rl.storage.plain import Content
from lightning_rl.storage.sealed import load_sealed, save_sealed

OLD = {"version": 1, "weights": torch.arange(600.0)}
NEW = {"version": 2, "weights": torch.arange(900.0), "list": [1, 2.5, None, "x"]}


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "last.ckpt"
    save_sealed(OLD, path)
    return path


def test_saving_touches_no_random_stream(path):
    states = random.getstate(), np.random.get_state()[1].tobytes(), torch.get_rng_state()
    save_sealed(NEW, path)
    load_sealed(path)
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tobytes() == states[1]
    assert torch.equal(torch.get_rng_state(), states[2])


def test_a_torch_that_writes_something_new_is_noticed_when_saving(path, monkeypatch):
    monkeypatch.setattr(sealed, "inspect", lambda tree: Content())
    with pytest.raises(CheckpointError, match="not saved, since it could not be loaded: the name"):
        save_sealed({"a": np.float64(1)}, path)
    assert load_sealed(path)["version"] == 1


@pytest.fixture
def read_back(monkeypatch):
    """Count the archives that are read back; at first no kind is known."""
    counted = []
    monkeypatch.setattr(sealed, "_kinds_read_back", set())
    monkeypatch.setattr(sealed, "check_archive", lambda file, size: counted.append(size))
    return counted


def test_what_is_written_is_read_back_once_for_its_kinds(path, read_back):
    save_sealed(OLD, path)
    save_sealed({"other": 2, "weights": torch.arange(3.0)}, path)
    assert len(read_back) == 1
    for number, value in enumerate((1.5, None, [1], torch.arange(3), torch.ones(2) > 0), start=2):
        save_sealed({**OLD, "new": value}, path)
        save_sealed({**OLD, "new": value}, path)
        assert len(read_back) == number


@pytest.mark.parametrize("value", ["x" * 130_000, list(range(60_000)), [torch.ones(1)] * 12_000])
def test_what_may_reach_a_bound_is_always_read_back(path, read_back, value):
    save_sealed({"a": value}, path)
    save_sealed({"a": value}, path)
    assert len(read_back) == 2


def test_a_bound_that_is_passed_later_is_noticed_when_saving(path):
    save_sealed({"a": ["x"]}, path)
    with pytest.raises(CheckpointError, match="not saved, since it could not be loaded: too many"):
        save_sealed({"a": ["x"] * 600_000}, path)
    with pytest.raises(CheckpointError, match=r"not saved.*17 MB outside tensors"):
        save_sealed({"a": ["x" * (17 << 20)]}, path)
    assert load_sealed(path) == {"a": ["x"]}


@pytest.mark.parametrize("block", [1, 2, 3, 7, 1 << 20])
def test_the_seal_is_that_of_the_bytes_however_they_were_written(path, monkeypatch, block):
    class Choppy(sealed._Recorder):
        def write(self, data):
            view = memoryview(data).cast("B")
            return sum(
                super(Choppy, self).write(view[i : i + block]) for i in range(0, len(view), block)
            )

    monkeypatch.setattr(sealed, "_Recorder", Choppy)
    digest = save_sealed(NEW, path)
    assert sealed.verify_seal(path) == digest
    assert load_sealed(path)["list"] == NEW["list"]
