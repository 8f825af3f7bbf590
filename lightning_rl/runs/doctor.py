"""A check of the whole installation in half a minute: what is here, and whether it works."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from lightning_rl.algorithms.ppo import PPO
from lightning_rl.callbacks.base import EventCallback
from lightning_rl.envs.config import EnvConfig
from lightning_rl.envs.preflight import check_env
from lightning_rl.errors import Interrupted, TrainingFailed
from lightning_rl.experience.setup import snapshot_level
from lightning_rl.runs import provenance
from lightning_rl.runs.execution import evaluate_policy
from lightning_rl.runs.trainer import Trainer
from lightning_rl.runs.upkeep import one_line

SEED = 1
ENV_STEPS = 1_024
UNIT = 128
LEAST_FREE_MB = 500

EXTRAS = {
    "box2d": "Box2D",
    "mujoco": "mujoco",
    "atari": "ale_py",
    "minatar": "minatar",
    "wandb": "wandb",
    "mlflow": "mlflow",
    "sweep": "optuna",
    "results": "rliable",
    "video": "imageio_ffmpeg",
    "onnx": "onnxruntime",
}
"""Extra of the package to the module that tells whether it is installed."""


class Doctor:
    """Checks one after the other; a failed one is told in a line and the rest that can goes on.

    Attributes:
        failures: `name: reason` of the checks that failed.

    Args:
        env: Id of the environment to check and to train on.
        say: Called with each line of the report.
    """

    def __init__(self, env: str, say: Callable[[str], Any]) -> None:
        self.env, self.failures = env, list[str]()
        self._say = say
        self._config = EnvConfig(env)
        self._level = ""

    def examine(self) -> bool:
        """Do all checks and give the verdict; return whether all is well."""
        started = time.monotonic()
        folder = Path(tempfile.mkdtemp(prefix="lightning-rl-doctor-"))
        try:
            self._check("packages", _packages)
            self._check("extras", _extras)
            self._check("machine", _machine)
            self._check("disk", lambda: _disk(folder))
            if self._check("environment", self._environment):
                with _quiet():
                    self._training(folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        took = f"{time.monotonic() - started:.0f} s"
        if self.failures:
            self._say(f"NOT OK: {'; '.join(self.failures)} ({took})")
        else:
            self._say(f"OK: training, stopping and resuming work on {self.env} ({took})")
        return not self.failures

    def _check(self, name: str, function: Callable[[], str]) -> bool:
        try:
            self._say(f"ok      {name:<12}  {function()}")
        except Exception as error:
            self.failures.append(f"{name}: {one_line(error)}")
            self._say(f"FAILED  {name:<12}  {one_line(error)}")
            return False
        return True

    def _environment(self) -> str:
        with contextlib.closing(self._config.make()) as env:
            check_env(env, SEED)
            started, steps = time.perf_counter(), 0
            env.reset(seed=SEED)
            env.action_space.seed(SEED)
            while time.perf_counter() - started < 0.3:
                _, _, terminated, truncated, _ = env.step(env.action_space.sample())
                steps += 1
                if terminated or truncated:
                    env.reset()
            speed = steps / (time.perf_counter() - started)
        self._level = snapshot_level(self._config, SEED)
        return f"{self.env}: {speed:,.0f} steps/s, can be saved mid-episode: {self._level}"

    def _training(self, folder: Path) -> None:
        whole = self._agent()
        if not self._check("training", lambda: _train(whole, folder / "whole")):
            return
        resumed = self._agent()
        if self._check("stop", lambda: _train_and_stop(resumed, folder / "cut")):
            self._check("resume", lambda: self._resume(whole, folder / "cut"))
        self._check("checkpoint", lambda: _execute(folder / "whole"))

    def _agent(self) -> PPO:
        return PPO(
            self._config,
            total_env_steps=ENV_STEPS,
            seed=SEED,
            num_steps=UNIT,
            minibatch_size=64,
            hidden_sizes=(32, 32),
            compile=False,
        )

    def _resume(self, whole: PPO, folder: Path) -> str:
        agent = self._agent()
        _trainer(folder).fit(agent, ckpt_path="last")
        if agent.env_steps != whole.env_steps:
            raise TrainingFailed(f"ended at env step {agent.env_steps}, not at {whole.env_steps}")
        theirs = agent.state_dict()
        differing = [
            k for k, value in whole.state_dict().items() if not torch.equal(value, theirs[k])
        ]
        if self._level == "boundary":
            return "continued; open episodes of this environment cannot be saved and began anew"
        if differing:
            raise TrainingFailed(
                f"the resumed run differs from one never stopped in {differing[0]}"
            )
        return "equal, bit for bit, to the run that was never stopped"


def _packages() -> str:
    return ", ".join(f"{name} {version}" for name, version in provenance.versions().items())


def _extras() -> str:
    present = {name: importlib.util.find_spec(module) for name, module in EXTRAS.items()}
    missing = [name for name, found in present.items() if found is None]
    installed = ", ".join(name for name, found in present.items() if found is not None)
    hint = f"; not installed: {', '.join(missing)}" if missing else ""
    return f"{installed or 'none'}{hint}"


def _machine() -> str:
    hardware = provenance.hardware("cuda" if torch.cuda.is_available() else "cpu")
    memory = hardware["memory_bytes"] / 1e9
    compiler = "a C++ compiler" if shutil.which("g++") or shutil.which("clang++") else "no compiler"
    return (
        f"{hardware['cpu']}, {hardware['usable_cores']} cores, {memory:.0f} GB, "
        f"GPU {hardware['gpu'] or 'none'}, {compiler}"
    )


def _disk(folder: Path) -> str:
    free = shutil.disk_usage(folder).free / 1e6
    (folder / "probe").write_bytes(bytes(1_000_000))
    if free < LEAST_FREE_MB:
        raise TrainingFailed(f"only {free:,.0f} MB are free in {folder.parent}")
    return f"{free / 1e3:,.0f} GB free in {folder.parent}"


def _trainer(folder: Path, *callbacks: Any) -> Trainer:
    run = {"root": str(folder), "experiment": "doctor", "name": "run", "log_level": "ERROR"}
    return Trainer(
        run=run,
        accelerator="cpu",  # what is equal bit for bit
        callbacks=list(callbacks),
        logger=False,
        enable_progress_bar=False,
        eval_every_env_steps=ENV_STEPS // 2,
        eval_episodes=2,
    )


def _train(agent: PPO, folder: Path) -> str:
    _trainer(folder).fit(agent)
    reward = agent.evaluation["mean_reward"]
    return f"PPO, {agent.env_steps:,} env steps, evaluation reward {reward:.1f}"


def _train_and_stop(agent: PPO, folder: Path) -> str:
    """Stop in the middle of the third update, as Ctrl-C would."""

    def stop(trainer: Any, agent: PPO) -> None:
        if agent.iteration == 2:
            agent.stop_requested = signal.SIGINT

    try:
        _trainer(folder, EventCallback(on_update_start=stop)).fit(agent)
    except Interrupted:
        return f"saved in the middle of an update at env step {agent.env_steps:,}"
    raise TrainingFailed("the run did not stop")


def _execute(folder: Path) -> str:
    checkpoint = folder / "doctor" / "run" / "checkpoints" / "last.ckpt"
    result = evaluate_policy(PPO.load_from_checkpoint(checkpoint), num_episodes=2)
    if not result.success:
        raise TrainingFailed(str(result.error_message))
    return f"loaded without a configuration, {result.mean_length:.0f} env steps per episode"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the runs' own messages out of the report."""
    package = logging.getLogger("lightning_rl")
    level = package.level
    package.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        package.setLevel(level)
