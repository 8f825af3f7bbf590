"""Measure libraries against each other: every case, several repeats, interleaved, on one core.

    python -m benchmarks.speed.run --cleanrl PATH [--cases ppo_cartpole ...] [--libraries sb3 ...]

Each run is a process of its own. A run during which the machine was not quiet is repeated, and
marked when it stays so. Results are saved after every run; the table is written at the end.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.speed.cases import CASES
from benchmarks.speed.libraries import LIBRARIES, REPOSITORY, Library
from benchmarks.speed.load import Elsewhere, calibrate, noise
from benchmarks.speed.table import render

RESULTS = Path(__file__).parent / "results"
TABLE = REPOSITORY / "docs" / "performance_table.md"
TIMEOUT_S = 900


def say(line: str) -> None:
    """Write one line to standard error at once."""
    print(line, file=sys.stderr, flush=True)


def machine() -> dict[str, Any]:
    """Return what the numbers depend on: processor, cores, system, interpreter."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": models[0] if models else platform.machine(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def commit() -> str:
    """Return the commit that is measured, with a "+" when files differ from it."""
    command = ["git", "-C", str(REPOSITORY), "describe", "--always", "--dirty=+"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip() or "no commit"


def cpu_seconds_of_children() -> float:
    """Return the CPU time of all finished children of this process."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def parse_output(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """Return a runner's line of JSON, or `{"error": …}` with its last word."""
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode == 0 and lines:
        return dict(json.loads(lines[-1]))
    words = [line for line in done.stderr.splitlines() if line.strip()]
    return {"error": words[-1] if words else f"exit code {done.returncode}"}


def measure(name: str, case: str, core: int, extra: list[str]) -> dict[str, Any]:
    """Run one library on one case in a process of its own; return everything that was seen."""
    command = [*LIBRARIES[name].command(case), *extra]
    calibration_ms = calibrate()
    elsewhere, start, cpu = Elsewhere(core), time.perf_counter(), cpu_seconds_of_children()
    done = subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, timeout=TIMEOUT_S
    )
    wall_s = time.perf_counter() - start
    row = parse_output(done)
    if CASES[case].whole_process:
        row["core_share"] = (cpu_seconds_of_children() - cpu) / wall_s
    return {
        **row,
        "name": name,
        "case": case,
        "wall_s": wall_s,
        "elsewhere": elsewhere.share(),
        # The slower of before and after: a core that slowed down on the way is caught too.
        "calibration_ms": max(calibration_ms, calibrate()),
    }


def measure_quietly(
    name: str, case: str, options: argparse.Namespace, usual_ms: float
) -> dict[str, Any]:
    """Measure; while the machine was not quiet, measure again, `--retries` times at most."""
    extra = ["--seed", str(options.seed)]
    if LIBRARIES[name].runner == "run_cleanrl":
        extra += ["--cleanrl", options.cleanrl]
    for _ in range(options.retries + 1):
        row = measure(name, case, options.core, extra)
        if "error" in row:
            break
        row["noise"] = noise(row, usual_ms)
        if not row["noise"]:
            break
        say(f"  not quiet: {'; '.join(row['noise'])}")
    return row


def why_not(name: str, library: Library, case: str, options: argparse.Namespace) -> str | None:
    """Return why a library cannot run a case here, or None when it can."""
    if case not in library.cases:
        return f"{name} has no {case}"
    if not library.interpreter().exists():
        return f"{name}: no {library.interpreter()}; make it by benchmarks.speed.make_envs"
    if library.runner == "run_cleanrl" and options.cleanrl is None:
        return f"{name}: needs --cleanrl PATH, a checkout of vwxyzjn/cleanrl"
    return None


def plan(options: argparse.Namespace) -> list[tuple[str, str]]:
    """Return (case, library) in the order of running: the libraries take turns within each case."""
    order = []
    for case in options.cases:
        able = []
        for name in options.libraries:
            problem = why_not(name, LIBRARIES[name], case, options)
            if problem:
                say(f"skipped: {problem}")
            else:
                able.append(name)
        order += [(case, name) for _ in range(options.repeats) for name in able]
    return order


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--libraries", nargs="+", choices=LIBRARIES, default=list(LIBRARIES))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--retries", type=int, default=1, help="further tries of a noisy run")
    parser.add_argument("--cleanrl", metavar="PATH", help="a checkout of vwxyzjn/cleanrl")
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--table", type=Path, default=TABLE, help=f"default: {TABLE}")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Measure all that was asked for; return 1 when a run failed."""
    options = parse(arguments)
    os.sched_setaffinity(0, {options.core})  # inherited by every run
    stamp = datetime.datetime.now().strftime("%Y-%m-%d_%H%M%S")
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"{stamp}.json"
    rows: list[dict[str, Any]] = []
    result = {"date": stamp, "commit": commit(), "machine": machine(), "runs": rows}
    usual_ms = calibrate(repeats=50)
    order = plan(options)
    for index, (case, name) in enumerate(order, start=1):
        row = measure_quietly(name, case, options, usual_ms)
        rows.append(row)
        file.write_text(json.dumps(result, indent=1) + "\n")
        seen = (
            row.get("error") or f"{row['steps_per_s']:,.0f} steps/s, {row['wall_s']:.1f} s in all"
        )
        say(f"[{index}/{len(order)}] {case} {name}: {seen}")
    options.table.parent.mkdir(exist_ok=True)
    options.table.write_text(render(result))
    say(f"results: {file}\ntable: {options.table}")
    return int(any("error" in row for row in rows))


if __name__ == "__main__":
    sys.exit(main())
