"""Which libraries take part, in which virtual environment and by which runner."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.speed.cases import CASES

REPOSITORY = Path(__file__).resolve().parents[2]
VENVS = REPOSITORY / ".venvs"

TORCH = "torch==2.13.0"
GYMNASIUM = "gymnasium[mujoco]==1.4.0"


@dataclass(frozen=True)
class Environment:
    """A virtual environment of one peer.

    Args:
        requirements: Lists for pip, installed one after the other: torch first, so that no peer's
            own range picks another build.
        import_name: What is imported to see whether the installation works.
    """

    requirements: tuple[tuple[str, ...], ...]
    import_name: str


ENVIRONMENTS = {
    # SB3's QR-DQN lives in its contrib package.
    "sb3": Environment(
        ((TORCH,), ("stable-baselines3==2.9.2", "sb3-contrib==2.9.2", GYMNASIUM)), "sb3_contrib"
    ),
    # SBX builds on SB3 and so needs torch installed, though only jax computes.
    "sbx": Environment(((TORCH,), ("sbx-rl==0.28.0", "jax==0.10.2", GYMNASIUM)), "sbx"),
    "tianshou": Environment(((TORCH,), ("tianshou==2.0.1", GYMNASIUM)), "tianshou"),
    # CleanRL is files to run from a checkout of the user's; this is what those files import.
    "cleanrl": Environment(((TORCH,), (GYMNASIUM, "tyro")), "tyro"),
}


@dataclass(frozen=True)
class Library:
    """One row of the tables: a library, or one way of running it.

    Args:
        runner: Module under `benchmarks.speed` that trains with it.
        environment: Key of `ENVIRONMENTS`, or None for the interpreter that runs the benchmark.
        arguments: Further arguments of the runner.
        cases: Names of the cases that it can run with equal hyperparameters.
        is_peer: Whether ratios are taken to it.
    """

    runner: str
    environment: str | None
    arguments: tuple[str, ...] = ()
    cases: tuple[str, ...] = tuple(CASES)
    is_peer: bool = True

    def command(self, case: str) -> list[str]:
        """Return the command line that runs `case`, up to the arguments shared by all runners."""
        module = f"benchmarks.speed.{self.runner}"
        return [str(self.interpreter()), "-m", module, "--case", case, *self.arguments]

    def interpreter(self) -> Path:
        """Return the Python that runs this library; it need not exist yet."""
        if self.environment is None:
            return Path(sys.executable)
        return VENVS / self.environment / "bin" / "python"


_WHOLE = tuple(name for name, case in CASES.items() if case.whole_process)
_TRAINING = tuple(name for name in CASES if name not in _WHOLE)
# What all peers have: PPO and DQN.
_COMMON = tuple(
    name for name, case in CASES.items() if case.algorithm in ("ppo", "dqn") and not case.own_only
)
_OFF_POLICY = ("sac_pendulum", "td3_pendulum")
_TABULAR = tuple(name for name, case in CASES.items() if case.algorithm == "qlearning")
_COMPARED = tuple(name for name in _TRAINING if not CASES[name].own_only)


def _ours(compile_: str, trainer: str, cases: tuple[str, ...], *further: str) -> Library:
    arguments = ("--compile", compile_, "--trainer", trainer, *further)
    return Library("run_lightning_rl", None, arguments, cases, is_peer=False)


LIBRARIES = {
    "lightning_rl": _ours("true", "plain", _TRAINING),
    "lightning_rl-eager": _ours(  # a table has no gradient that could be compiled
        "false", "plain", tuple(name for name in _COMPARED if name not in _TABULAR)
    ),
    # With the callbacks and loggers that are on by default.
    "lightning_rl-callbacks": _ours("true", "default", _COMPARED),
    "lightning_rl-bf16": _ours("true", "plain", ("sac_wide",), "--precision", "bf16-mixed"),
    "lightning_rl-defaults": _ours("auto", "default", _WHOLE),
    "sb3": Library(
        "run_sb3", "sb3", cases=(*_COMMON, *_OFF_POLICY, "qrdqn_cartpole", "a2c_cartpole")
    ),
    "sbx": Library("run_sb3", "sbx", ("--flavour", "sbx"), (*_COMMON, *_OFF_POLICY)),
    "tianshou": Library(
        "run_tianshou", "tianshou", cases=tuple(name for name in _COMMON if name not in _WHOLE)
    ),
    "cleanrl": Library(
        "run_cleanrl",
        "cleanrl",
        cases=tuple(name for name in _COMMON if not CASES[name].library_defaults),
    ),
    # Random actions and no learning: what a table is held against.
    "bare_env": Library("run_bare_env", None, cases=_TABULAR),
}
