"""SIGTERM and SIGINT: everything saved, an exit code that says so, and how to go on."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from tests.system.fork_server import Run, assert_equal, finish, start_command

pytestmark = pytest.mark.system

CODES = {signal.SIGTERM: 143, signal.SIGINT: 130}
# Before the handlers are there, a signal ends the process as it ends any other.
UNHANDLED = {signal.SIGTERM: -signal.SIGTERM, signal.SIGINT: 130}
DURABLE_S = 2.0


def fit_words(root: Path, env_steps: int = 1024, **options: Any) -> list[str]:
    """A run of PPO that spends about half of its time in evaluations and saves often."""
    settings = {
        "model.env": "CartPole-v1",
        "model.total_env_steps": env_steps,
        "model.num_steps": 32,
        "model.minibatch_size": 32,
        "model.seed": 3,
        "seed_everything": 3,
        "run.root": root,
        "run.experiment": "e",
        "run.name": "r",
        "trainer.accelerator": "cpu",
        "trainer.logger": "false",
        "trainer.eval_every_env_steps": 128,
        "trainer.eval_episodes": 5,
        "trainer.enable_progress_bar": "false",
        **options,
    }
    return ["fit", "--model", "PPO", *(f"--{key}={value}" for key, value in settings.items())]


def run_in(root: Path) -> Run:
    return Run(str(root), "PPO", {})


def wait_for(condition: Callable[[], Any], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)


def env_steps(root: Path) -> int:
    try:
        return int(json.loads((root / "e" / "r" / "run.json").read_text())["env_steps"])
    except (FileNotFoundError, ValueError):
        return -1


def is_training(root: Path) -> bool:
    return (root / "e" / "r" / "metrics.csv").exists()


def stop(process: BaseProcess, number: int) -> tuple[int, float]:
    """Send a signal and return the exit code and the seconds until the process was gone."""
    began = time.monotonic()
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid or 0, number)
    code = finish(process)
    return code, time.monotonic() - began


@pytest.mark.parametrize("number", CODES)
def test_a_signal_saves_says_how_to_go_on_and_loses_nothing(
    number: signal.Signals, tmp_path: Path
) -> None:
    whole, stopped, out = tmp_path / "whole", tmp_path / "stopped", tmp_path / "out"
    assert finish(start_command(fit_words(whole), tmp_path / "whole.out")) == 0
    process = start_command(fit_words(stopped), out)
    wait_for(lambda: is_training(stopped))
    sent = time.time()
    code, _ = stop(process, number)
    directory = stopped / "e" / "r"
    assert code == CODES[number]
    assert (directory / "checkpoints" / "last.ckpt").stat().st_mtime - sent < DURABLE_S
    text = out.read_text()
    assert f"stopped by {number.name}; continue with: lightning-rl resume {directory}" in text
    assert "Traceback" not in text
    record = json.loads((directory / "run.json").read_text())
    assert (record["status"], record["attempts"][0]["signal"]) == ("interrupted", number.name)
    assert finish(start_command(["resume", str(directory)], out)) == 0
    assert_equal(run_in(whole), run_in(stopped))


def test_a_second_signal_leaves_at_once(tmp_path: Path) -> None:
    """The first one waits for a step boundary, which this environment never reaches."""
    out = tmp_path / "out"
    process = _endless_step(tmp_path, out)
    os.kill(process.pid or 0, signal.SIGTERM)
    time.sleep(0.2)
    assert process.is_alive()
    code, seconds = stop(process, signal.SIGTERM)
    assert (code, seconds < 0.5) == (-signal.SIGTERM, True)
    assert "Traceback" not in out.read_text()


def _endless_step(folder: Path, out: Path) -> BaseProcess:
    """Start a run whose environment hangs after a while."""
    (folder / "hanging_env.py").write_text(
        "import time\n"
        "from pathlib import Path\n"
        "from gymnasium.envs.classic_control.cartpole import CartPoleEnv\n"
        "class Hanging(CartPoleEnv):\n"
        "    steps = 0\n"
        "    def step(self, action):\n"
        "        Hanging.steps += 1\n"
        "        if Hanging.steps == 6000:\n"
        f"            Path({str(folder / 'hangs')!r}).touch()\n"
        "            time.sleep(60)\n"
        "        return super().step(action)\n"
    )
    script = folder / "train.py"
    script.write_text(
        "from hanging_env import Hanging\n"
        "from lightning_rl import PPO, Trainer\n"
        f"Trainer(run={{'root': {str(folder)!r}}}, logger=False, accelerator='cpu',\n"
        "        eval_every_env_steps=0, enable_progress_bar=False,\n"
        "        ).fit(PPO(Hanging, total_env_steps=100_000, compile=False))\n"
    )
    process: Any = _Script(script, out)
    wait_for((folder / "hangs").exists)
    return process  # type: ignore[no-any-return]


class _Script(subprocess.Popen):
    """A script in an interpreter of its own, with the methods of a forked process."""

    def __init__(self, path: Path, out: Path) -> None:
        with out.open("w") as file:
            super().__init__([sys.executable, str(path)], stdout=file, stderr=file)

    def is_alive(self) -> bool:
        return self.poll() is None

    def join(self, seconds: float) -> None:
        self.wait(seconds)

    @property
    def exitcode(self) -> int | None:
        return self.returncode


def go_on(root: Path) -> list[str]:
    """The command that continues the run, or starts it where nothing was saved."""
    run = run_in(root)
    return ["resume", str(run.directory)] if run.checkpoints else fit_words(root)


def time_of_fit(root: Path) -> float:
    began = time.monotonic()
    assert finish(start_command(fit_words(root), root.with_suffix(".out"))) == 0
    return time.monotonic() - began


def check_random_signals(count: int, folder: Path) -> list[float]:
    """Stop runs at random moments, from the first instant on, up to three times each.

    Returns:
        Seconds from each signal that a run heeded to the end of its process.
    """
    whole, draws, done = folder / "whole", random.Random(0), 0
    heeded = []
    duration = time_of_fit(whole)
    while done < count:
        if done and done % 30 == 0:  # on a machine that got busier most signals would come early
            duration = time_of_fit(folder / f"timed{done}")
        root, out, directory = (
            folder / str(done),
            folder / f"{done}.out",
            folder / str(done) / "e/r",
        )
        for _ in range(3):
            saved = list(directory.glob("checkpoints/*.ckpt"))
            words = ["resume", str(directory)] if saved else fit_words(root)
            process = start_command(words, out)
            time.sleep(draws.uniform(0.0, duration))
            number = draws.choice(list(CODES))
            code, seconds = stop(process, number)
            done += 1
            if code == CODES[number]:
                heeded.append(seconds)
            assert code in (0, CODES[number], UNHANDLED[number]), out.read_text()
        assert finish(start_command(go_on(root), out)) == 0, out.read_text()
        assert "Traceback" not in out.read_text()
        assert_equal(run_in(whole), run_in(root))
    return heeded


def test_signals_at_random_moments(tmp_path: Path) -> None:
    check_random_signals(9, tmp_path)


@pytest.mark.slow
def test_many_signals_at_random_moments(tmp_path: Path) -> None:
    heeded = check_random_signals(200, tmp_path)
    assert len(heeded) > 50
    assert np.quantile(heeded, 0.99) <= DURABLE_S


@pytest.mark.parametrize("number", CODES)
def test_a_signal_while_modules_are_imported(number: signal.Signals, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with out.open("w") as file:
        command = [sys.executable, "-m", "lightning_rl", *fit_words(tmp_path)]
        process = subprocess.Popen(command, stdout=file, stderr=file)
    wait_for(lambda: b"torch" in Path(f"/proc/{process.pid}/maps").read_bytes())
    process.send_signal(number)
    assert process.wait(30) == UNHANDLED[number]
    assert "Traceback" not in out.read_text()
    assert not (tmp_path / "e").exists()


def test_stopping_leaves_no_process_behind(tmp_path: Path) -> None:
    words = fit_words(tmp_path, **{"model.env.vectorization": "async", "model.env.num_envs": 2})
    process = start_command(words, tmp_path / "out")
    wait_for(lambda: env_steps(tmp_path) > 0)
    workers = psutil.Process(process.pid).children(recursive=True)
    assert len(workers) == 2
    assert stop(process, signal.SIGTERM)[0] == 143
    assert psutil.wait_procs(workers, timeout=2)[1] == []
    assert "Traceback" not in (tmp_path / "out").read_text()
