"""What the source text says agrees with what the imported classes say."""

from __future__ import annotations

import inspect
import subprocess
import sys
from typing import Any

import pytest

from lightning_rl import trust
from lightning_rl.cli.checks import ENV, RUN, TRAINER, algorithms
from lightning_rl.cli.signatures import (
    argument_help,
    class_exists,
    docstring_of,
    public_classes,
    signature_of,
)


@pytest.mark.parametrize(
    "path",
    [
        "lightning_rl.algorithms.ppo.PPO",
        "lightning_rl.algorithms.dqn.DQN",
        ENV,
        RUN,
        "lightning.pytorch.Trainer",
        "lightning.pytorch.callbacks.EarlyStopping",
        "lightning.pytorch.loggers.TensorBoardLogger",
        "torch.nn.Linear",
        "gymnasium.wrappers.TimeLimit",
    ],
)
def test_the_text_gives_the_arguments_of_the_class(path: str) -> None:
    module, _, name = path.rpartition(".")
    cls = getattr(__import__(module, fromlist=[name]), name)
    real = [p for p in inspect.signature(cls).parameters.values() if p.kind is not p.VAR_KEYWORD]
    signature = signature_of(path)
    assert signature is not None
    assert {p.name for p in real} <= set(signature.parameters)


def test_arguments_passed_on_are_followed_to_the_base_class() -> None:
    signature = signature_of(TRAINER)
    assert signature is not None
    assert signature.complete
    assert {"eval_every_env_steps", "max_time", "profiler"} <= set(signature.parameters)


def test_what_is_not_there_is_unknown() -> None:
    assert signature_of("lightning_rl.nothing.Here") is None
    assert signature_of("os.PathLike") is None
    assert not class_exists("torch.nn.Linaer")
    assert class_exists("torch.nn.Linear")


@pytest.mark.parametrize(
    ("path", "name", "value", "accepted"),
    [
        (ENV, "num_envs", 4, True),
        (ENV, "num_envs", 4.0, True),
        (ENV, "num_envs", 4.5, False),
        (ENV, "num_envs", True, False),
        (ENV, "num_envs", "4", False),
        (ENV, "num_envs", None, False),
        (ENV, "frame_stack", None, True),
        (ENV, "vectorization", "async", True),
        (ENV, "vectorization", "asynch", False),
        (ENV, "action", "rescale", True),
        (ENV, "action", "scale", False),
        (ENV, "imports", ["a", "b"], True),
        (ENV, "imports", [1], False),
        (ENV, "imports", "a", False),
        (ENV, "kwargs", {"a": object}, True),
        (ENV, "kwargs", [], False),
        (ENV, "normalize_reward", 1, False),
        (TRAINER, "devices", "auto", True),
        (TRAINER, "devices", [0, 1], True),
        (TRAINER, "devices", 1.5, False),
        (TRAINER, "limit_val_batches", 0.5, True),
        (TRAINER, "max_time", {"hours": 1}, True),
        ("lightning_rl.algorithms.ppo.PPO", "gamma", 1, True),
        ("lightning_rl.algorithms.ppo.PPO", "gamma", "high", False),
        ("lightning_rl.algorithms.ppo.PPO", "hidden_sizes", [64, 64], True),
        ("lightning_rl.algorithms.ppo.PPO", "hidden_sizes", 64, False),
        ("lightning_rl.algorithms.ppo.PPO", "learning_rate_schedule", "linear", True),
        ("lightning_rl.algorithms.ppo.PPO", "learning_rate_schedule", "cosine", False),
    ],
)
def test_types(path: str, name: str, value: Any, accepted: bool) -> None:
    signature = signature_of(path)
    assert signature is not None
    assert signature.parameters[name].accept(value)[0] is accepted


def test_a_whole_float_becomes_the_int_that_is_asked_for() -> None:
    signature = signature_of("lightning_rl.algorithms.ppo.PPO")
    assert signature is not None
    assert repr(signature.parameters["total_env_steps"].accept(1e6)[1]) == "1000000"
    assert repr(signature.parameters["gamma"].accept(1.0)[1]) == "1.0"


def test_names_and_documentation() -> None:
    assert {"PPO", "DQN"} <= set(algorithms())
    assert public_classes("lightning.pytorch.callbacks")["EarlyStopping"].endswith(".EarlyStopping")
    assert docstring_of("lightning_rl.algorithms.ppo.PPO").startswith("Proximal Policy")
    assert argument_help(ENV, "num_envs").startswith("Environments stepped together")
    assert "Discount" in argument_help("lightning_rl.algorithms.ppo.PPO", "gamma")
    assert argument_help(ENV, "nothing") == ""


def test_reading_imports_nothing(tmp_path: Any) -> None:
    """Also not the class that is read."""
    (tmp_path / "canary_signature.py").write_text(
        "raise SystemExit('sung')\nclass Net:\n    def __init__(self, size: int) -> None: ...\n"
    )
    code = (
        "import sys; from lightning_rl.cli.signatures import signature_of as s;"
        "own, linear = s('canary_signature.Net'), s('torch.nn.Linear');"
        "print(list(own.parameters), list(linear.parameters)[0],"
        "[m for m in ('canary_signature', 'torch', 'lightning', 'numpy') if m in sys.modules])"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": f"{tmp_path}:{':'.join(p for p in sys.path if p)}"},
    )
    assert shown.stdout.strip() == "['size'] in_features []"
    assert not trust.is_trusted("canary_signature.Net")
