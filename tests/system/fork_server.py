"""Whole training runs in processes of their own, forked from one that has imported everything.

A forked run starts in milliseconds where a fresh interpreter needs seconds, so that a test can
afford to kill dozens. What a run leaves on disk is compared bit by bit.
"""

from __future__ import annotations

import copy
import csv
import json
import multiprocessing
import os
import random
import signal
import struct
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lightning_rl.loggers import query_metrics
from lightning_rl.loggers.database import open_read_only
from lightning_rl.storage.sealed import load_sealed
from lightning_rl.storage.segments import REPLAY_FOLDER, SegmentStore

FINISH_S = 180.0
KILLED = -signal.SIGKILL
_FORK_SERVER = multiprocessing.get_context("forkserver")
_FORK_SERVER.set_forkserver_preload(
    [
        "lightning_rl.runs.trainer",
        "lightning_rl.cli.main",
        "lightning_rl.cli.parser",
        "lightning_rl.algorithms.ppo",
        "lightning_rl.algorithms.dqn",
        "gymnasium.envs.classic_control",
        "gymnasium.envs.box2d",
        "gymnasium.envs.mujoco.half_cheetah_v5",
        "gymnasium.wrappers",
        "torch._dynamo",
        "tensorboard",
        "matplotlib.backends.backend_agg",
        "rliable.library",
    ]
)


@dataclass(frozen=True)
class Run:
    """One training run, described by primitives.

    Attributes:
        root: Where its directory `e/r` is made.
        algorithm: Name of an exported algorithm.
        agent: Constructor arguments.
        trainer: Arguments of our `Trainer`.
        checkpoint: Arguments of `Checkpoint`.
        patience: Of `EvaluationEarlyStopping`; None for none.
        ckpt_path: As for `fit`.
        kill_point: A named point at which to die, see `kill_points.kill_point`.
        stop: (module, n): ask the run to stop at the n-th look of that module at
            `stop_requested`; the modules are collector, on_policy, off_policy and evaluation.
        init: Import path of a function called in the process before training.
    """

    root: str
    algorithm: str
    agent: dict[str, Any]
    trainer: dict[str, Any] = field(default_factory=dict)
    checkpoint: dict[str, Any] = field(default_factory=dict)
    patience: int | None = None
    ckpt_path: str | None = None
    kill_point: str | None = None
    stop: tuple[str, int] | None = None

    @property
    def directory(self) -> Path:
        """The run directory."""
        return Path(self.root) / "e" / "r"

    @property
    def checkpoints(self) -> list[Path]:
        """All its checkpoints."""
        return sorted((self.directory / "checkpoints").glob("*.ckpt"))

    @property
    def newest_env_steps(self) -> int:
        """Env steps of the newest checkpoint, -1 where there is none."""
        return max((_env_steps(path) for path in self.checkpoints), default=-1)

    def at(self, root: Path) -> Run:
        """Return the same run elsewhere."""
        return replace(self, root=str(root))

    def changed(self, **agent: Any) -> Run:
        """Return the same run with other constructor arguments."""
        return replace(self, agent={**self.agent, **agent})

    def resumed(self) -> Run:
        """Return the run's continuation, or its first start where nothing was saved yet."""
        return replace(
            self, ckpt_path="last" if self.checkpoints else None, kill_point=None, stop=None
        )


def start(run: Run) -> BaseProcess:
    """Start a run in a forked process."""
    process = _FORK_SERVER.Process(target=_main, args=(run,))
    process.start()
    return process


def start_command(words: list[str], output: Path) -> BaseProcess:
    """Start `lightning-rl` with these words; what it prints goes to `output`."""
    process = _FORK_SERVER.Process(target=_command, args=(words, str(output)))
    process.start()
    return process


def warm_up() -> None:
    """Start the process that all others are forked from."""
    process = _FORK_SERVER.Process(target=os.getpid)
    process.start()
    process.join()


def finish(process: BaseProcess) -> int:
    """Wait for the end of a run and return its exit code."""
    process.join(FINISH_S)
    if process.exitcode is None:
        process.kill()
        process.join()
        raise TimeoutError(f"a run did not end within {FINISH_S} s")
    return process.exitcode


def complete(run: Run) -> float:
    """Run to the end and return the seconds it took."""
    started = time.perf_counter()
    code = finish(start(run))
    assert code == 0, f"exit code {code}"
    return time.perf_counter() - started


def resume_to_end(run: Run) -> None:
    """Continue a run that was stopped, and check that it begins at its newest checkpoint."""
    newest = run.newest_env_steps
    complete(run.resumed())
    attempt = record(run)["attempts"][-1]
    assert attempt["start_env_steps"] == max(0, newest)


def kill_at_random(run: Run, draws: random.Random, duration: float, times: int) -> int:
    """Start and SIGKILL a run up to `times` times; return how often that hit it."""
    for hits in range(times):
        process = start(run.resumed())
        time.sleep(draws.uniform(0.0, duration))
        process.kill()
        if finish(process) != KILLED:  # it was faster
            return hits
    return times


def state(run: Run) -> dict[str, Any]:
    """Return the last checkpoint without `volatile`, with the replay content it refers to."""
    checkpoint = load_sealed(run.directory / "checkpoints" / "last.ckpt")
    volatile = checkpoint.pop("volatile")
    replay = checkpoint["lightning_rl"]["source"].get("replay")
    if replay is not None:
        inserted = replay["inserted"]
        oldest = max(0, inserted - replay["capacity"])
        store = SegmentStore(run.directory / "checkpoints" / REPLAY_FOLDER)
        checkpoint["replay"] = store.read(volatile["segments"], oldest, inserted)
    return checkpoint


def metric_rows(run: Run) -> list[dict[str, str]]:
    """Return the rows of `metrics.csv` as text, without measured times."""
    with (run.directory / "metrics.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [
        {tag: cell for tag, cell in row.items() if not tag.startswith(("time/", "system/"))}
        for row in rows
    ]


def database_rows(run: Run) -> list[dict[str, Any]]:
    """Return the rows of `metrics.db`, without wall clock, attempts and measured times."""
    return [
        {name: value for name, value in row.items() if name not in ("wall_time", "attempt")}
        for row in query_metrics(run.directory / "metrics.db")
        if not row["metric_name"].startswith(("time/", "system/"))
    ]


def assert_gapless(run: Run) -> None:
    """Check that rows of `metrics.db` are counted without gap and that no clock runs backwards."""
    rows = query_metrics(run.directory / "metrics.db")
    with open_read_only(run.directory / "metrics.db") as connection:
        events = [event for (event,) in connection.execute("SELECT event FROM metrics")]
    assert sorted(set(events)) == list(range(1, max(events) + 1))
    episodes = [row["episode"] for row in rows if row["metric_name"] == "episode/reward"]
    assert episodes == list(range(len(episodes)))
    for column in ("env_steps", "attempt"):
        values = [row[column] for row in rows]
        assert values == sorted(values), column
    steps = [int(row["step"]) for row in metric_rows(run)]
    assert steps == sorted(steps)


def record(run: Run) -> dict[str, Any]:
    """Return `run.json`."""
    content: dict[str, Any] = json.loads((run.directory / "run.json").read_text(encoding="utf-8"))
    return content


def assert_equal(reference: Run, other: Run) -> None:
    """Compare final state and metric rows of two runs bit by bit."""
    assert list(differences(state(reference), state(other))) == []
    expected, received = metric_rows(reference), metric_rows(other)
    assert [row["step"] for row in received] == [row["step"] for row in expected]
    assert list(differences(expected, received)) == []
    assert database_rows(other) == database_rows(reference)


def differences(expected: Any, received: Any, path: str = "") -> Iterator[str]:
    """Yield the paths at which two trees of primitives and tensors differ in type or bits."""
    if type(expected) is not type(received):
        yield f"{path}: {expected!r:.60} is not {received!r:.60}"
    elif isinstance(expected, dict):
        for key in sorted(expected.keys() | received.keys(), key=str):
            if key in expected and key in received:
                yield from differences(expected[key], received[key], f"{path}/{key}")
            else:
                yield f"{path}/{key}: only in one"
    elif isinstance(expected, list | tuple):
        if len(expected) != len(received):
            yield f"{path}: {len(expected)} and {len(received)} entries"
        for index, pair in enumerate(zip(expected, received, strict=False)):
            yield from differences(*pair, f"{path}/{index}")
    elif _bits(expected) != _bits(received):
        yield f"{path}: {expected!r:.60} is not {received!r:.60}"


def _bits(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.dtype, value.shape, value.detach().contiguous().numpy().tobytes()
    return struct.pack("<d", value) if isinstance(value, float) else value


def _env_steps(path: Path) -> int:
    return int(load_sealed(path)["lightning_rl"]["env_steps"])


def _main(run: Run) -> None:
    # As in a program of the user's; here environments would start a fork server of their own.
    multiprocessing.set_start_method("fork", force=True)
    torch.set_num_threads(1)
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    if run.kill_point is not None:
        os.environ["LIGHTNING_RL_KILL_POINT"] = run.kill_point
    train(run)


def _command(words: list[str], output: str) -> None:
    multiprocessing.set_start_method("fork", force=True)
    torch.set_num_threads(1)
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.argv = ["lightning-rl", *words]
    from lightning_rl.cli.main import main

    raise SystemExit(main(words))


def train(run: Run) -> None:
    """Do what `run` describes, in this process."""
    from lightning_rl import Trainer, algorithms
    from lightning_rl.callbacks import Checkpoint, EvaluationEarlyStopping
    from lightning_rl.callbacks.curves import TrainingCurves

    # Drawing takes as long as all the rest of so small a run.
    TrainingCurves.draw = lambda *_: None  # type: ignore[method-assign]
    callbacks: list[Any] = [Checkpoint(**run.checkpoint)]
    if run.patience is not None:
        callbacks.append(EvaluationEarlyStopping(run.patience))
    agent = getattr(algorithms, run.algorithm)(**copy.deepcopy(run.agent))
    if run.stop is not None:
        _stop_at(agent, *run.stop)
    settings = {"eval_episodes": 3, "log_every_n_steps": 2, **run.trainer}
    trainer = Trainer(
        run={"root": run.root, "experiment": "e", "name": "r"},
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        callbacks=callbacks,
        **settings,
    )
    trainer.fit(agent, ckpt_path=run.ckpt_path)


def _stop_at(agent: Any, module: str, number: int) -> None:
    """Ask the agent to stop when `module` looks for the `number`-th time whether it should."""
    poll, looks = agent.poll, 0

    def counting_poll() -> None:
        nonlocal looks
        looks += Path(sys._getframe(1).f_code.co_filename).stem == module
        if looks == number:
            agent.stop_requested = int(signal.SIGTERM)
        poll()

    agent.poll = counting_poll
