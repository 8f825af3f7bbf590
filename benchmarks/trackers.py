"""What loggers and callbacks cost: throughput with all of them beside none, and SQLite's rows.

python -m benchmarks.trackers

Runs of PPO and DQN on CartPole-v1 alternate between Lightning's Trainer with everything off and
ours with the default callbacks, CSV, SQLite, TensorBoard, W&B (offline) and MLflow (local store).
One more run has a tracker that hangs 10 s in every call. Evaluation is off in all. The table goes
into `docs/trackers.md`; exits with 1 when a goal is missed.

The training thread shares its core with nobody only on a quiet machine: the ratio of CPU time, in
which threads of loggers count, stands beside that of wall time.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.page import replace_part
from benchmarks.speed.cases import CASES
from benchmarks.speed.harness import Clock, pin
from benchmarks.speed.run_lightning_rl import make_agent, make_callback, make_trainer

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "trackers.md"
# MLflow needs seconds to make its store, and W&B to import what it begins with, both in threads:
# the warm-up is longer than for the speed of training.
USED = {
    "ppo_cartpole": {"total_env_steps": 256_000, "warmup_env_steps": 102_400},
    "dqn_cartpole": {"total_env_steps": 150_000, "warmup_env_steps": 60_000},
}
LEAST_RATIO, MOST_OF_TIME, LEAST_ROWS_PER_S = 0.95, 0.01, 20_000
HANG_S = 10.0
Row = dict[str, Any]


def all_trackers(folder: Path) -> list[Any]:
    """Return one logger of each kind that needs no server; CSV and SQLite come by themselves."""
    from lightning.pytorch.loggers import MLFlowLogger, TensorBoardLogger, WandbLogger

    return [
        TensorBoardLogger(str(folder), name="", version=""),
        WandbLogger(project="benchmark", offline=True),
        MLFlowLogger(tracking_uri=f"sqlite:///{folder}/mlflow.db"),
    ]


def hanging_tracker() -> Any:
    """Return a logger each call of which takes `HANG_S`."""
    from lightning.pytorch.loggers import Logger

    class Hanging(Logger):
        """Answers late."""

        name = version = "hanging"

        def log_metrics(self, *_: Any, **__: Any) -> None:
            """Take long."""
            time.sleep(HANG_S)

        def log_hyperparams(self, *_: Any, **__: Any) -> None:
            """Take long."""
            time.sleep(HANG_S)

    return Hanging()


def train(kind: str, case_name: str, core: int) -> Row:
    """Train once in this process and return the measured rates.

    Args:
        kind: `plain`, `trackers` or `hanging`.
        case_name: A case of `benchmarks.speed`.
        core: Core to stay on.
    """
    import lightning_rl

    pin(core)
    case, returns = replace(CASES[case_name], **USED[case_name]), deque[float](maxlen=100)
    clock = Clock(case.warmup_env_steps)
    agent = make_agent(case, False, seed=1)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        os.chdir(scratch)
        callback = make_callback(clock, returns)
        if kind == "plain":
            trainer = make_trainer("plain", callback, "32-true")
        else:
            loggers = all_trackers(Path(scratch)) + [hanging_tracker()] * (kind == "hanging")
            trainer = lightning_rl.Trainer(
                run={"root": scratch}, logger=loggers, callbacks=[callback], limit_val_batches=0
            )
        trainer.fit(agent)
        os.chdir("/")
    timings = clock.timings()
    return {
        "steps_per_s": timings["steps_per_s"],
        "steps_per_cpu_s": timings["steps_per_s"] / timings["core_share"],
        "logging_share": agent.logging_s / agent.elapsed_s,
    }


def sqlite_rows_per_s(episodes: int = 50_000) -> float:
    """Return how many rows `SQLiteLogger` takes a second, until all are committed."""
    from lightning_rl.loggers import SQLiteLogger
    from lightning_rl.types import Episode

    with tempfile.TemporaryDirectory() as scratch:
        started = time.perf_counter()
        with SQLiteLogger(Path(scratch) / "m.db") as logger:
            for index in range(episodes):
                logger.log_episode(Episode(index, 0, 0, 1.0, 20, True, False, index * 20))
        return 2 * episodes / (time.perf_counter() - started)


def run(kind: str, case: str) -> Row:
    """Train in a process of its own, on the last core."""
    core = max(os.sched_getaffinity(0))
    words = [sys.executable, "-m", "benchmarks.trackers", "--one", kind, case, str(core)]
    own = {"WANDB_SILENT": "true", "MLFLOW_LOGGING_LEVEL": "ERROR"}
    done = subprocess.run(
        words, cwd=ROOT, env={**os.environ, **own}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{kind} {case}: exit code {done.returncode}\n{done.stderr[-2000:]}")
    row: Row = json.loads(done.stdout.splitlines()[-1])
    print(kind, case, json.dumps(row), flush=True)
    return row


def measure(case: str, repeats: int) -> Row:
    """Return the figures of one case, from alternating runs."""
    rows: dict[str, list[Row]] = {"plain": [], "trackers": []}
    for _ in range(repeats):
        for kind, found in rows.items():
            found.append(run(kind, case))
    hanging = run("hanging", case)

    def median(kind: str, key: str) -> float:
        return statistics.median(row[key] for row in rows[kind])

    return {
        "case": case,
        "plain": median("plain", "steps_per_s"),
        "trackers": median("trackers", "steps_per_s"),
        "wall_ratio": median("trackers", "steps_per_s") / median("plain", "steps_per_s"),
        "cpu_ratio": median("trackers", "steps_per_cpu_s") / median("plain", "steps_per_cpu_s"),
        "logging_share": median("trackers", "logging_share"),
        "logging_share_hanging": hanging["logging_share"],
    }


def missed(rows: list[Row], rows_per_s: float) -> list[str]:
    """Return the goals that were not reached, in words."""
    found = []
    for row in rows:
        if row["wall_ratio"] < LEAST_RATIO:
            found.append(f"{row['case']}: throughput {row['wall_ratio']:.2f} × without")
        for key in ("logging_share", "logging_share_hanging"):
            if row[key] > MOST_OF_TIME:
                found.append(f"{row['case']}: {key} {row[key]:.1%}")
    if rows_per_s < LEAST_ROWS_PER_S:
        found.append(f"SQLite: {rows_per_s:,.0f} rows/s")
    return found


def render(rows: list[Row], rows_per_s: float, repeats: int, load: float) -> str:
    """Return the figures as they stand on the page."""
    lines = [
        "| case, not compiled | env steps/s without | with all | ratio (goal ≥ 0.95) | the same in "
        "CPU time | of the training thread's time in tracker calls (goal ≤ 1 %) | one hanging |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [
            *(row["case"], f"{row['plain']:,.0f}", f"{row['trackers']:,.0f}"),
            *(f"{row['wall_ratio']:.2f}", f"{row['cpu_ratio']:.2f}"),
            *(f"{row['logging_share']:.2%}", f"{row['logging_share_hanging']:.2%}"),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        f"Medians of {repeats} alternating runs each; load average of the machine {load:.1f}. "
        f"SQLite took {rows_per_s:,.0f} rows/s (goal ≥ 20,000).",
    ]
    return "\n".join(lines)


def main(words: list[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description="What loggers and callbacks cost.")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each kind")
    parser.add_argument("--cases", nargs="+", choices=tuple(USED), default=list(USED), help="cases")
    parser.add_argument("--page", type=Path, default=PAGE, help="where the table goes")
    parser.add_argument("--one", nargs=3, metavar=("KIND", "CASE", "CORE"), help="one run, as JSON")
    options = parser.parse_args(words)
    if options.one:
        kind, case, core = options.one
        with contextlib.redirect_stdout(sys.stderr):
            row = train(kind, case, int(core))
        print(json.dumps(row))
        return 0
    rows = [measure(case, options.repeats) for case in options.cases]
    rows_per_s = sqlite_rows_per_s()
    load = os.getloadavg()[0]
    replace_part(options.page, "overhead", render(rows, rows_per_s, options.repeats, load))
    for line in missed(rows, rows_per_s):
        print(f"missed: {line}")
    return 1 if missed(rows, rows_per_s) else 0


if __name__ == "__main__":
    sys.exit(main())
