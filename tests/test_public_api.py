"""The exported names, frozen: a new one needs a reason, a lost one breaks somebody."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys

import pytest

import lightning_rl

PUBLIC = [
    "A2C",
    "Algorithm",
    "C51",
    "CrossQ",
    "DDPG",
    "DQN",
    "DiscreteSAC",
    "EnvConfig",
    "ExecutionConfig",
    "ExecutionResult",
    "ExpectedSARSA",
    "PPO",
    "PQN",
    "QLearning",
    "QRDQN",
    "REINFORCE",
    "Rainbow",
    "RecurrentPPO",
    "RunResult",
    "SAC",
    "SARSA",
    "TD3",
    "TQC",
    "Trainer",
    "__version__",
    "choice",
    "evaluate_policy",
    "evaluate_policy_many",
    "export_policy",
    "grid_search",
    "loguniform",
    "make",
    "randint",
    "random_search",
    "record_replay",
    "record_video",
    "run",
    "run_experiment",
    "run_training_and_execution",
    "save_execution_results",
    "uniform",
]


def test_exactly_these_names_are_exported() -> None:
    assert sorted(lightning_rl.__all__) == sorted(PUBLIC)
    assert set(PUBLIC) <= set(dir(lightning_rl))


@pytest.mark.parametrize("name", PUBLIC)
def test_every_exported_name_exists_and_is_documented(name: str) -> None:
    value = getattr(lightning_rl, name)
    if name == "__version__":
        assert value.count(".") >= 2
    else:
        assert inspect.getdoc(value)
        assert value.__module__.startswith("lightning_rl.")


def test_an_unknown_name_is_refused_as_python_does() -> None:
    with pytest.raises(AttributeError, match="PP0"):
        lightning_rl.PP0  # noqa: B018


def test_importing_the_package_is_cheap() -> None:
    """First output within a second: torch and Lightning are imported when a name is used."""
    heavy = "('torch', 'lightning', 'gymnasium', 'numpy')"
    code = f"import sys, lightning_rl; print([m for m in {heavy} if m in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def test_the_version_stands_in_one_place() -> None:
    metadata = importlib.import_module("importlib.metadata")
    assert lightning_rl.__version__ == metadata.version("lightning-rl")
