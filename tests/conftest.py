"""What every test shares: one thread, fixed seeds, no display, no network service."""

from __future__ import annotations

import os
import random

# Before torch and the environments are imported: threads are fixed at import.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
os.environ["WANDB_MODE"] = "offline"

import numpy as np
import pytest
import torch
from hypothesis import settings

# Imported by tests of several folders, whichever comes first.
pytest.register_assert_rewrite("tests.system.fork_server")
torch.set_num_threads(1)
# A test that fails fails again: the same examples every time, and no time limit on a busy machine.
settings.register_profile("repeatable", derandomize=True, deadline=None, database=None)
settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def _fixed_seeds() -> None:
    """Seed the global random streams, which tests may use; the package itself has its own."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked `gpu` where there is none."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))
