"""Train one case with CleanRL's files, run unchanged from a checkout that the user names.

CleanRL's files are scripts for gymnasium 0.29. They are executed as they are; what they look up in
gymnasium and torch is replaced from outside, so that they run on today's gymnasium, count their env
steps, write no event files, and leave out the normalisation that the other libraries are not given.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import runpy
import subprocess
import sys
import tempfile
import types
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.speed.cases import Case, DQNSettings, PPOSettings
from benchmarks.speed.harness import (
    Clock,
    EpisodeReturns,
    Outcome,
    TorchUpdates,
    import_all,
    parser,
    run_case,
)

FILES = {
    ("ppo", "CartPole-v1"): "ppo.py",
    ("ppo", "HalfCheetah-v5"): "ppo_continuous_action.py",
    ("dqn", "CartPole-v1"): "dqn.py",
}
# `ppo_continuous_action.py` wraps its environments in these; the other libraries train without.
NORMALIZING_WRAPPERS = (
    "NormalizeObservation",
    "TransformObservation",
    "NormalizeReward",
    "TransformReward",
)


def ppo_options(settings: PPOSettings, num_envs: int) -> dict[str, Any]:
    """Return the settings that only the PPO files have."""
    return {
        "num-steps": settings.num_steps,
        "num-minibatches": settings.num_steps * num_envs // settings.minibatch_size,
        "update-epochs": settings.update_epochs,
        "gae-lambda": settings.gae_lambda,
        "clip-coef": settings.clip_coef,
        "ent-coef": settings.ent_coef,
        "vf-coef": settings.vf_coef,
        "max-grad-norm": settings.max_grad_norm,
    }


def dqn_options(settings: DQNSettings) -> dict[str, Any]:
    """Return the settings that only the DQN file has; it does not clip gradients."""
    return {
        "buffer-size": settings.capacity,
        "batch-size": settings.batch_size,
        "learning-starts": settings.learning_starts,
        "train-frequency": settings.train_frequency,
        "target-network-frequency": settings.target_update_interval,
        "start-e": settings.epsilon_start,
        "end-e": settings.epsilon_end,
        "exploration-fraction": settings.epsilon_fraction,
    }


def command_line(case: Case, seed: int) -> list[str]:
    """Return a case as the arguments of CleanRL's files."""
    settings = case.settings
    flags = ["--no-cuda"]
    if isinstance(settings, PPOSettings):
        flags += ["--no-anneal-lr", "--no-clip-vloss"]
        own = ppo_options(settings, case.num_envs)
    else:
        own = dqn_options(settings)
    options = {
        "env-id": case.env_id,
        "num-envs": case.num_envs,
        "total-timesteps": case.total_env_steps,
        "seed": seed,
        "learning-rate": settings.learning_rate,
        "gamma": settings.gamma,
        **own,
    }
    return flags + [word for name, value in options.items() for word in (f"--{name}", str(value))]


def make_vector_env(clock: Clock, returns: EpisodeReturns) -> tuple[type, dict[str, int]]:
    """Return the class that stands in for `SyncVectorEnv`, and the env steps that it counts."""
    import gymnasium

    count = {"env_steps": 0}

    class ClockedVectorEnv(gymnasium.vector.SyncVectorEnv):
        """Drives the clock and translates gymnasium 1's episode ends for CleanRL's files."""

        def step(self, actions: Any) -> tuple[Any, ...]:
            clock.before_step(count["env_steps"])
            observations, rewards, terminated, truncated, infos = super().step(actions)
            count["env_steps"] += self.num_envs
            returns.add(rewards, terminated | truncated)
            # With next-step autoreset this observation *is* the final one, under its old key.
            infos["final_observation"] = observations
            return observations, rewards, terminated, truncated, infos

    return ClockedVectorEnv, count


class _NoWriter:
    """Takes the place of tensorboard's writer; trackers are off for every library."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def add_scalar(self, *_: Any) -> None: ...

    def add_text(self, *_: Any) -> None: ...

    def close(self) -> None: ...


def replace_lookups(vector_env: type) -> None:
    """Put our stand-ins where CleanRL's files look for gymnasium's and torch's classes."""
    import gymnasium

    vars(gymnasium.vector)["SyncVectorEnv"] = vector_env
    for name in NORMALIZING_WRAPPERS:
        setattr(gymnasium.wrappers, name, lambda env, *_, **__: env)
    module = types.ModuleType("torch.utils.tensorboard")
    vars(module)["SummaryWriter"] = _NoWriter
    sys.modules["torch.utils.tensorboard"] = module


@contextlib.contextmanager
def as_script(checkout: Path, arguments: list[str]) -> Iterator[None]:
    """Let a file of the checkout see its packages, its arguments and an empty folder."""
    argv, path, folder = sys.argv, list(sys.path), os.getcwd()
    with tempfile.TemporaryDirectory() as scratch:
        sys.argv, sys.path[:0] = ["cleanrl", *arguments], [str(checkout)]
        os.chdir(scratch)
        try:
            yield
        finally:
            os.chdir(folder)
            sys.argv, sys.path[:] = argv, path


def revision(checkout: Path) -> str:
    """Return the first eight digits of the checkout's commit, or "unknown commit"."""
    command = ["git", "-C", str(checkout), "rev-parse", "--short=8", "HEAD"]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout.strip() or "unknown commit"


def train(case: Case, options: argparse.Namespace) -> tuple[Outcome, Clock]:
    """Train the case; see `harness.run_case`."""
    import torch

    torch.set_num_threads(1)
    import_all("gymnasium", "tyro")
    checkout = Path(options.cleanrl).resolve()
    updates, returns = TorchUpdates(), EpisodeReturns(case.num_envs)
    clock = Clock(case.warmup_env_steps)
    vector_env, count = make_vector_env(clock, returns)
    replace_lookups(vector_env)
    script = checkout / "cleanrl" / FILES[case.algorithm, case.env_id]
    with as_script(checkout, command_line(case, options.seed)):
        runpy.run_path(str(script), run_name="__main__")
    clock.stop(count["env_steps"])
    versions = f"{revision(checkout)} (torch {version('torch')})"
    outcome = Outcome(
        "cleanrl", versions, updates.gradient_steps, updates.parameters, list(returns.last)
    )
    return outcome, clock


def main() -> None:
    """Run from the command line."""
    arguments = parser()
    arguments.add_argument(
        "--cleanrl", required=True, metavar="PATH", help="a checkout of vwxyzjn/cleanrl"
    )
    run_case(arguments.parse_args(), train)


if __name__ == "__main__":
    main()
