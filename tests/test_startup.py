"""Importing torch pauses garbage collection, spares SciPy, and leaves both as they were."""

from __future__ import annotations

import gc
import subprocess
import sys

import pytest

from lightning_rl.startup import heavy_imports

FIRST = """
import gc, lightning_rl
{before}
gc.collect()
collections = []
gc.callbacks.append(lambda phase, info: collections.append(phase))
lightning_rl.PPO
assert gc.isenabled()
print(collections.count("stop"), gc.get_freeze_count() > 100_000)
"""


@pytest.mark.system
@pytest.mark.parametrize(("before", "frozen"), [("", "True"), ("import torch", "False")])
def test_the_first_use_imports_almost_without_collecting(before: str, frozen: str) -> None:
    code = FIRST.format(before=before)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    collections, is_frozen = done.stdout.split()
    assert int(collections) < 5  # it would be a thousand
    assert is_frozen == frozen


@pytest.mark.parametrize("enabled", [True, False])
def test_collection_is_left_as_it_was_even_by_a_failing_import(enabled: bool) -> None:
    frozen, before = gc.get_freeze_count(), gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        with pytest.raises(ImportError, match="paused: True"), heavy_imports():
            raise ImportError(f"paused: {not gc.isenabled()}")
        assert gc.isenabled() is enabled
        assert gc.get_freeze_count() == frozen  # torch was there before
    finally:
        (gc.enable if before else gc.disable)()


SCIPY = """
import sys
{before}
import lightning_rl
lightning_rl.PPO
print("scipy.stats" in sys.modules)
from scipy import signal
import scipy.signal
assert signal is scipy.signal is sys.modules["scipy.signal"]
print(scipy.signal.lfilter([1.0], [1.0, -0.5], [1.0, 0.0])[1])
"""


@pytest.mark.system
@pytest.mark.parametrize(("before", "there"), [("", "False"), ("import scipy.signal", "True")])
def test_scipy_is_imported_by_nobody_but_the_user(before: str, there: str) -> None:
    code = SCIPY.format(before=before)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [there, "0.5"]


STOCK = """
from lightning.pytorch import Trainer
from lightning_rl.algorithms.ppo import PPO
agent = PPO("CartPole-v1", 64)
agent.trainer = Trainer(logger=False, enable_checkpointing=False, enable_progress_bar=False)
print(*(type(callback).__name__ for callback in agent.configure_callbacks()))
"""


@pytest.mark.system
def test_a_run_is_guarded_wherever_its_algorithm_was_imported_from() -> None:
    done = subprocess.run([sys.executable, "-c", STOCK], capture_output=True, text=True, check=True)
    assert {"FailureGuard", "EpisodeStatistics"} <= set(done.stdout.split())
