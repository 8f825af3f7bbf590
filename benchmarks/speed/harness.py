"""What every runner shares: pinning, the clock, counting optimizer steps, the one line of JSON.

A runner is a module whose `main` calls `run_case` with a function that trains. It is executed by
the interpreter of its library, so only the standard library is imported here at module level.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import statistics
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.speed.cases import CASES, Case

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)


def pin(core: int | None) -> None:
    """Keep this process on one core and its numerical libraries on one thread.

    Must run before numpy, torch or jax are imported: they read these variables once.
    """
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    os.environ["JAX_PLATFORMS"] = "cpu"
    # XLA sizes its thread pool by the machine's cores, not by the ones this process may use.
    os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    if core is not None:
        os.sched_setaffinity(0, {core})


def import_all(*modules: str) -> None:
    """Import what a runner will need, so that its clock does not count it."""
    for module in modules:
        importlib.import_module(module)


class Clock:
    """Times training from the first env step after the warm-up to the end of training.

    Args:
        warmup_env_steps: Env steps that are not timed.
    """

    def __init__(self, warmup_env_steps: int) -> None:
        self.warmup_env_steps = warmup_env_steps
        self.created = time.perf_counter()
        self.started: tuple[int, float, float] | None = None
        self.stopped: tuple[int, float, float] | None = None

    def before_step(self, env_steps: int) -> None:
        """Take note that env step number `env_steps` (from 0) is about to be made."""
        if self.started is None and env_steps >= self.warmup_env_steps:
            self.started = (env_steps, time.perf_counter(), time.process_time())

    def stop(self, env_steps: int) -> None:
        """Take note that training is over after `env_steps`; the first call counts."""
        if self.stopped is None:
            self.stopped = (env_steps, time.perf_counter(), time.process_time())

    def timings(self) -> dict[str, float | int]:
        """Return counts, seconds and rates; `core_share` is CPU time over wall time when timed.

        Raises:
            RuntimeError: If training ended within the warm-up or was never stopped.
        """
        if self.started is None or self.stopped is None:
            raise RuntimeError("the run ended before the warm-up did: nothing was timed")
        first, wall, cpu = self.started
        steps, wall_end, cpu_end = self.stopped
        seconds = wall_end - wall
        return {
            "steps": steps,
            "timed_steps": steps - first,
            "seconds_after_warmup": seconds,
            "steps_per_s": (steps - first) / seconds,
            "total_s": wall_end - self.created,
            "core_share": (cpu_end - cpu) / seconds,
        }


@dataclass
class Outcome:
    """What a runner reports beside the clock.

    Args:
        library: Name and flavour, as told by the library itself.
        version: Version of the library and of what computes.
        gradient_steps: Steps taken by all optimizers together, counted and not computed.
        parameters: Scalars that the optimizers update.
        returns: Undiscounted returns of the last finished episodes.
    """

    library: str
    version: str
    gradient_steps: int
    parameters: int
    returns: list[float] = field(default_factory=list)


class TorchUpdates:
    """Counts the steps of every torch optimizer, from outside the library that owns them."""

    def __init__(self) -> None:
        from torch.optim.optimizer import register_optimizer_step_post_hook

        self.gradient_steps = 0
        self._optimizers: dict[int, Any] = {}
        self.hook = register_optimizer_step_post_hook(self._count)

    def watch(self, optimizer_class: Any, method: str = "step") -> None:
        """Count the steps of a class that calls no hooks as well, by the calls of `method`."""
        step = getattr(optimizer_class, method)

        def counted(optimizer: Any, *arguments: Any) -> None:
            step(optimizer, *arguments)
            self._count(optimizer)

        counted.hooked = True  # type: ignore[attr-defined]
        setattr(optimizer_class, method, counted)

    def _count(self, optimizer: Any, *_: Any) -> None:
        self.gradient_steps += 1
        self._optimizers[id(optimizer)] = optimizer

    @property
    def parameters(self) -> int:
        """Return the number of scalars that the optimizers seen so far update."""
        optimizers = self._optimizers.values()
        groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        return sum(parameter.numel() for group in groups for parameter in group["params"])


class EpisodeReturns:
    """Sums the rewards of vector environments into the returns of the last 100 episodes."""

    def __init__(self, num_envs: int) -> None:
        self._sums = [0.0] * num_envs
        self.last: deque[float] = deque(maxlen=100)

    def add(self, rewards: Any, episode_ends: Any) -> None:
        """Add one step's rewards `(N,)`; an episode is over where `episode_ends` `(N,)` is."""
        for index, (reward, end) in enumerate(
            zip(rewards.tolist(), episode_ends.tolist(), strict=True)
        ):
            self._sums[index] += reward
            if end:
                self.last.append(self._sums[index])
                self._sums[index] = 0.0


def peak_rss_mb() -> float:
    """Return the largest resident memory of this process so far, in MB (10^6 bytes)."""
    # Not getrusage: its maximum survives exec, and so starts at the parent's.
    status = Path("/proc/self/status").read_text()
    kibibytes = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
    return int(kibibytes) * 1024 / 1e6


def parser() -> argparse.ArgumentParser:
    """Return the parser of the arguments that all runners share."""
    result = argparse.ArgumentParser()
    result.add_argument("--case", choices=sorted(CASES), required=True)
    result.add_argument("--steps", type=int, help="another budget in env steps, to try things")
    result.add_argument("--warmup", type=int, help="another warm-up in env steps")
    result.add_argument("--seed", type=int, default=1)
    result.add_argument("--core", type=int, help="core to stay on (default: not pinned)")
    return result


def chosen_case(options: argparse.Namespace) -> Case:
    """Return the case that the options name, with their budget and warm-up."""
    case = CASES[options.case]
    if options.steps is not None:
        case = replace(case, total_env_steps=options.steps)
    if options.warmup is not None:
        case = replace(case, warmup_env_steps=options.warmup)
    return case


def report(outcome: Outcome, case: Case, clock: Clock) -> dict[str, Any]:
    """Return everything that is known of a finished run as one flat dictionary of primitives."""
    row = asdict(outcome)
    returns = row.pop("returns")[-100:]
    row["mean_return_last_100"] = statistics.fmean(returns) if returns else None
    return {**row, "case": case.name, **clock.timings(), "peak_rss_mb": peak_rss_mb()}


def run_case(
    options: argparse.Namespace, train: Callable[[Case, argparse.Namespace], tuple[Outcome, Clock]]
) -> None:
    """Pin, train, and write one line of JSON to standard output.

    Args:
        options: Parsed by `parser()`, perhaps with arguments of the runner's own.
        train: Imports its library, trains the case and returns what it counted and the clock.
            Whatever it prints goes to standard error.
    """
    pin(options.core)
    case = chosen_case(options)
    with contextlib.redirect_stdout(sys.stderr):
        outcome, clock = train(case, options)
    print(json.dumps(report(outcome, case, clock)))
