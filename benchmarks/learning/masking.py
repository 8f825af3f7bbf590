"""Env steps that PPO needs for 95 % of the optimum with and without masks of valid actions.

python -m benchmarks.learning.masking --seeds 5

Trains the shipped configuration `ppo/few_valid_actions` with and without `mask_actions`, evaluates
it after every rollout, and exits with 1 unless each masked seed needs at most a third of what the
same seed needs unmasked. A seed that does not get there counts as its budget.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from benchmarks.learning.run import call
from lightning_rl.envs.few_valid_actions import FewValidActionsEnv

CONFIG = "ppo/few_valid_actions"
SHARE = 0.95
BUDGETS = {True: 10_000, False: 60_000}
"""Env steps of training with and without the mask."""


def env_steps_needed(seed: int, mask_actions: bool, folder: Path) -> int:
    """Return after how many env steps the greedy policy first had 95 % of the optimum.

    Args:
        seed: Seed of the run.
        mask_actions: Whether invalid actions are masked.
        folder: Where the run directory goes.
    """
    budget, name = BUDGETS[mask_actions], f"{mask_actions}-{seed}"
    call(
        *("fit", "--config", CONFIG, "--seed_everything", str(seed)),
        *("--model.mask_actions", str(mask_actions).lower()),
        *("--model.total_env_steps", str(budget), "--trainer.eval_every_env_steps", "512"),
        *("--trainer.enable_progress_bar", "false"),
        *("--run.root", str(folder), "--run.experiment", "masking", "--run.name", name),
    )
    metrics = json.loads((folder / "masking" / name / "metrics.json").read_text())
    threshold = SHARE * FewValidActionsEnv().optimal_return
    reached = [
        row["env_steps"] for row in metrics["evaluations"] if row["eval/mean_reward"] >= threshold
    ]
    return int(reached[0]) if reached else budget


def main(arguments: list[str] | None = None) -> int:
    """Measure and print a table; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.learning.masking")
    parser.add_argument("--seeds", type=int, default=5, help="seeds, from 1 on")
    options = parser.parse_args(arguments)
    print("| seed | masked | unmasked | ratio |\n|---|---|---|---|")
    met = True
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(1, options.seeds + 1):
            masked, unmasked = (env_steps_needed(seed, on, Path(folder)) for on in (True, False))
            print(f"| {seed} | {masked:,} | {unmasked:,} | {unmasked / masked:.1f} |", flush=True)
            met &= 3 * masked <= unmasked
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
