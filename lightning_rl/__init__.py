"""A reinforcement-learning trainer on PyTorch Lightning.

Names are imported on first use, so that `import lightning_rl` and the command line's quick answers
cost milliseconds and not the import of torch.
"""

from __future__ import annotations

import importlib
from typing import Any

from lightning_rl.startup import heavy_imports

__version__ = "0.1.0"

_EXPORTS = {
    "A2C": "lightning_rl.algorithms",
    "Algorithm": "lightning_rl.algorithms",
    "C51": "lightning_rl.algorithms",
    "CrossQ": "lightning_rl.algorithms",
    "DDPG": "lightning_rl.algorithms",
    "DQN": "lightning_rl.algorithms",
    "DiscreteSAC": "lightning_rl.algorithms",
    "EnvConfig": "lightning_rl.envs.config",
    "ExecutionConfig": "lightning_rl.runs.results",
    "ExecutionResult": "lightning_rl.runs.results",
    "ExpectedSARSA": "lightning_rl.algorithms",
    "PPO": "lightning_rl.algorithms",
    "PQN": "lightning_rl.algorithms",
    "QLearning": "lightning_rl.algorithms",
    "QRDQN": "lightning_rl.algorithms",
    "REINFORCE": "lightning_rl.algorithms",
    "Rainbow": "lightning_rl.algorithms",
    "RecurrentPPO": "lightning_rl.algorithms",
    "RunResult": "lightning_rl.runs.results",
    "SAC": "lightning_rl.algorithms",
    "SARSA": "lightning_rl.algorithms",
    "TD3": "lightning_rl.algorithms",
    "TQC": "lightning_rl.algorithms",
    "Trainer": "lightning_rl.runs.trainer",
    "choice": "lightning_rl.runs.search_space",
    "evaluate_policy": "lightning_rl.runs.front_door",
    "evaluate_policy_many": "lightning_rl.runs.front_door",
    "export_policy": "lightning_rl.runs.export",
    "grid_search": "lightning_rl.runs.search",
    "loguniform": "lightning_rl.runs.search_space",
    "make": "lightning_rl.runs.front_door",
    "randint": "lightning_rl.runs.search_space",
    "random_search": "lightning_rl.runs.search",
    "record_replay": "lightning_rl.runs.recording",
    "record_video": "lightning_rl.runs.recording",
    "run": "lightning_rl.runs.front_door",
    "run_experiment": "lightning_rl.cli.experiment",
    "run_training_and_execution": "lightning_rl.runs.front_door",
    "save_execution_results": "lightning_rl.runs.results",
    "uniform": "lightning_rl.runs.search_space",
}

__all__ = ["__version__", *sorted(_EXPORTS)]


def __getattr__(name: str) -> Any:
    """Import an exported name when it is first asked for."""
    if name not in _EXPORTS:
        raise AttributeError(f"module 'lightning_rl' has no attribute {name!r}")
    with heavy_imports():
        value = getattr(importlib.import_module(_EXPORTS[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the exported names, imported or not."""
    return __all__
