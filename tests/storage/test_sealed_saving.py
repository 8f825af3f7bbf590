"""What saving leaves alone, and what it refuses to write."""

import random

import numpy as np
import pytest
import torch

from lightning_rl.errors import CheckpointError
from lightning_rl.storage import sealed
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
    monkeypatch.setattr(sealed, "why_not_plain", lambda tree: None)
    with pytest.raises(CheckpointError, match="not saved, since it could not be loaded: the name"):
        save_sealed({"a": np.float64(1)}, path)
    assert load_sealed(path)["version"] == 1
