"""What a sweep is worth: TPE beside random search, and what pruning saves.

python -m benchmarks.sweeps

Runs sweeps of 20 trials of PPO on CartPole-v1 with 8,192 env steps each: for every sweep seed one
by TPE with median pruning, and one at random without. Exits with 1 unless the best TPE trial beats
the median of the random ones on every seed, and pruned trials used at most 60 % of their budget.
The table goes into `docs/sweeps.md`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

from benchmarks.page import replace_part

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "sweeps.md"
BUDGET = 8_192
MOST_OF_PRUNED = 0.6
SWEEP: dict[str, Any] = {
    "config": [],
    "model": {
        "class_path": "PPO",
        "init_args": {
            "env": {"id": "CartPole-v1", "num_envs": 4},
            **{"num_steps": 128, "minibatch_size": 128, "update_epochs": 4, "compile": False},
            "total_env_steps": BUDGET,
        },
    },
    "trainer": {
        **{"logger": False, "accelerator": "cpu"},
        **{"eval_episodes": 4, "eval_every_env_steps": BUDGET // 8},
    },
    "space": {
        "model.learning_rate": {"log_uniform": [1e-5, 1e-2]},
        "model.gamma": {"uniform": [0.8, 0.999]},
        "model.ent_coef": {"log_uniform": [1e-4, 1.0]},
        "model.minibatch_size": [64, 128, 256],
    },
    "log_level": "WARNING",
}  # fmt: skip
PRUNERS = {"tpe": "median", "random": "none"}
Row = dict[str, Any]


def run_sweep(folder: Path, sampler: str, seed: int, trials: int, workers: int) -> list[Row]:
    """Run one sweep in processes of its own and return its trials.

    Args:
        folder: Where to.
        sampler: `tpe` or `random`.
        seed: Of the sampler.
        trials: Their number.
        workers: Trials at a time.
    """
    name = f"{sampler}-{seed}"
    file = write_sweep(folder, sampler, seed, trials, workers)
    command = [sys.executable, "-m", "lightning_rl", "sweep", "--config", str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name}: exit code {done.returncode}\n{done.stderr[-2000:]}")
    rows: list[Row] = json.loads((folder / name / "results.json").read_text())
    return rows


def write_sweep(folder: Path, sampler: str, seed: int, trials: int, workers: int) -> Path:
    """Write the file of one sweep and return it; arguments as of `run_sweep`."""
    name = f"{sampler}-{seed}"
    sizes = {"trials": trials, "workers": workers, "output_dir": str(folder)}
    content = {**SWEEP, "name": name, "sampler": sampler, "seed": seed, **sizes}
    content["pruner"] = PRUNERS[sampler]
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


def summary(seed: int, tpe: list[Row], random: list[Row]) -> dict[str, float]:
    """Return the figures of one sweep seed; a pruned trial has no score."""
    scores = [row["score"] for row in random if row["score"] is not None]
    pruned = [row["env_steps"] for row in tpe if row["state"] == "pruned"]
    used = [sum(row["env_steps"] for row in rows) for rows in (tpe, random)]
    return {
        "seed": seed,
        "best_tpe": max(row["score"] for row in tpe if row["score"] is not None),
        "best_random": max(scores),
        "median_random": statistics.median(scores),
        "pruned": len(pruned),
        "used_by_pruned": statistics.fmean(pruned) / BUDGET if pruned else 0.0,
        "used_by_all": used[0] / used[1],
    }


def holds(rows: list[dict[str, float]]) -> bool:
    """Return whether the figures are what a sweep promises, on every seed."""
    return all(
        row["best_tpe"] > row["median_random"] and 0 < row["used_by_pruned"] <= MOST_OF_PRUNED
        for row in rows
    )


def render(rows: list[dict[str, float]], trials: int) -> str:
    """Return the figures as a table."""
    lines = [
        "| sweep seed | best, TPE | best, random | median, random | pruned by TPE's sweep | of "
        "their budget used | env steps of both sweeps, TPE / random |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        shown = [f"{row[key]:.1f}" for key in ("best_tpe", "best_random", "median_random")]
        shares = [f"{row[key]:.0%}" for key in ("used_by_pruned", "used_by_all")]
        cells = [f"{row['seed']}", *shown, f"{row['pruned']} of {trials}", *shares]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(words: list[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description="TPE beside random search, and pruning.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="sweep seeds")
    parser.add_argument("--trials", type=int, default=20, help="trials of a sweep")
    parser.add_argument("--workers", type=int, default=2, help="trials at a time")
    parser.add_argument("--page", type=Path, default=PAGE, help="where the table goes")
    options = parser.parse_args(words)
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for seed in options.seeds:
            found = [
                run_sweep(Path(scratch), sampler, seed, options.trials, options.workers)
                for sampler in ("tpe", "random")
            ]
            rows.append(summary(seed, *found))
            print(json.dumps(rows[-1]), flush=True)
    replace_part(options.page, "sweeps", render(rows, options.trials))
    return 0 if holds(rows) else 1


if __name__ == "__main__":
    sys.exit(main())
