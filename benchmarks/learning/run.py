"""Train the shipped configurations on several seeds, test them, and hold them against their gates.

python -m benchmarks.learning.run --only ppo/cartpole dqn/cartpole

A run that has a result is skipped, one that was cut is resumed, and one whose configuration has
changed since is trained again; so is one without a result when the package has changed. Exits with
1 while a gate is missed, or when something is worse than in the results of `--against FOLDER`.

Start it in a checkout that nobody edits: every process imports the package anew. A run during which
the package changes is refused, and so is a test with episodes longer than the environment allows.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.learning.exact import greedy_value
from benchmarks.learning.gates import GATES, TEST_EPISODES, Gate
from benchmarks.learning.pictures import draw
from benchmarks.learning.table import (
    RESULTS,
    missed,
    regressions,
    render,
    result_path,
    update_document,
)
from lightning_rl.envs.config import EnvConfig

ROOT = Path(__file__).parents[2]
LOGS = ROOT / "logs" / "learning"
COMMAND = (sys.executable, "-m", "lightning_rl")
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
KEPT_STATISTICS = ("mean_reward", "std_reward", "min_reward", "max_reward", "mean_length")


class RunError(RuntimeError):
    """A run has failed, or its result cannot be right."""


@dataclass(frozen=True)
class Run:
    """One seed of one configuration.

    Args:
        gate: The configuration and what it must reach.
        seed: Seed of the run.
        logs: Folder of all run directories.
    """

    gate: Gate
    seed: int
    logs: Path = LOGS

    @property
    def directory(self) -> Path:
        """The run directory."""
        return self.logs / self.gate.config / str(self.seed)

    @property
    def result(self) -> Path:
        """Where the result is stored."""
        return result_path(self.gate.config, self.seed)

    def training_command(self) -> list[str] | None:
        """Return what starts or continues training; None when it has finished."""
        record = self.directory / "run.json"
        if record.is_file() and json.loads(record.read_text())["status"] == "finished":
            return None
        if list(self.directory.glob("checkpoints/*.ckpt")):
            return ["resume", str(self.directory)]
        shutil.rmtree(self.directory, ignore_errors=True)  # cut before its first checkpoint
        return [
            *("fit", "--config", self.gate.config, "--seed_everything", str(self.seed)),
            *("--run.root", str(self.directory.parents[1])),
            *("--run.experiment", self.directory.parent.name),
            *("--run.name", self.directory.name, "--trainer.enable_progress_bar", "false"),
        ]


def digest(config: str) -> str:
    """Return a hash of a shipped configuration's content; comments do not count."""
    content = yaml.safe_load((ROOT / "configs" / f"{config}.yaml").read_text())
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def package_digest() -> str:
    """Return a hash of the package's source."""
    whole = hashlib.sha256()
    for path in sorted((ROOT / "lightning_rl").rglob("*.py")):
        whole.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
    return whole.hexdigest()


def call(*arguments: str) -> None:
    """Run the command line in a process of its own, on one thread.

    Raises:
        RunError: It did not exit with 0.
    """
    done = subprocess.run(
        [*COMMAND, *arguments],
        cwd=ROOT, env={**os.environ, **ONE_THREAD}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["no message"]
        raise RunError(f"lightning-rl {' '.join(arguments)}: exit {done.returncode}: {lines[-1]}")


def test(checkpoint: Path, env: str) -> dict[str, Any]:
    """Return statistics of greedy returns over fresh episodes, of a seed stream of their own.

    Raises:
        RunError: Too few episodes, or one longer than the environment's registered time limit.
    """
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "results.json"
        call(
            *("test", "--ckpt_path", str(checkpoint), "--output", str(output)),
            *("--episodes", str(TEST_EPISODES)),
        )
        results = json.loads(output.read_text())
    limit = EnvConfig(env).spec().max_episode_steps
    lengths = results["episode_lengths"]
    if len(lengths) != TEST_EPISODES or (limit and max(lengths) > limit):
        raise RunError(
            f"{checkpoint}: expected {TEST_EPISODES} episodes of at most {limit} steps, "
            f"received {len(lengths)} of up to {max(lengths)}"
        )
    return {key: results[key] for key in KEPT_STATISTICS}


def measure(checkpoint: Path, gate: Gate) -> dict[str, Any]:
    """Return what a checkpoint is judged by: its test, and its exact value where the gate asks."""
    scores = test(checkpoint, gate.env)
    if gate.measure == "exact":
        scores["exact_value"] = greedy_value(checkpoint)
    return scores


def is_current(run: Run) -> bool:
    """Return whether the run has a result, and of today's configuration."""
    if not run.result.is_file():
        return False
    return bool(json.loads(run.result.read_text())["config_sha256"] == digest(run.gate.config))


def execute(run: Run) -> None:
    """Train and test one seed and store its result, unless that is done already."""
    if is_current(run):
        return
    source = package_digest()
    origin = f"{digest(run.gate.config)} {source}"
    stamp = run.directory.parent / f"{run.seed}.sha256"
    if not stamp.is_file() or stamp.read_text() != origin:
        shutil.rmtree(run.directory, ignore_errors=True)
        stamp.parent.mkdir(parents=True, exist_ok=True)
        stamp.write_text(origin)
    command = run.training_command()
    if command:
        call(*command)
    result = {**collect(run), "package_sha256": source}
    if package_digest() != source:
        raise RunError(f"{run.directory}: the package's source changed during the run")
    run.result.parent.mkdir(exist_ok=True)
    run.result.write_text(json.dumps(result, indent=1) + "\n")
    score = result["best"][run.gate.score_key]
    print(f"{run.gate.config} seed {run.seed}: best.ckpt {score:.2f}", flush=True)


def collect(run: Run) -> dict[str, Any]:
    """Return the result of a finished training, tested now."""
    record = json.loads((run.directory / "run.json").read_text())
    metrics = json.loads((run.directory / "metrics.json").read_text())
    checkpoints = run.directory / "checkpoints"
    env_steps = record["env_steps"]
    return {
        "config": run.gate.config,
        "config_sha256": digest(run.gate.config),
        "seed": run.seed,
        "env_steps": env_steps,
        "training_s": round(metrics["training"]["wall_time_s"], 1),
        "attempts": len(record["attempts"]),
        "compiled": record["compiled"],
        "best": {
            "env_steps": metrics["best"]["env_steps"],
            **measure(checkpoints / "best.ckpt", run.gate),
        },
        "last": {"env_steps": env_steps, **measure(checkpoints / "last.ckpt", run.gate)},
        "test_episodes": TEST_EPISODES,
        "evaluations": [
            [row["env_steps"], row["eval/mean_reward"]] for row in metrics["evaluations"]
        ],
        "git_commit": record["git_commit"],
        "versions": record["versions"],
        "cpu": record["hardware"]["cpu"],
        "system": platform.platform(),
    }


def main(arguments: list[str] | None = None) -> int:
    """Run what is asked for; return the exit code."""
    options = parse(arguments)
    failures: list[str] = []
    if not options.table:
        chosen = [gate for gate in GATES if not options.only or gate.config in options.only]
        runs = [
            Run(gate, seed)
            for gate in chosen
            for seed in range(1, min(options.seeds, gate.seeds) + 1)
        ]

        def attempt(run: Run) -> None:
            try:
                execute(run)
            except RunError as error:
                failures.append(str(error))
                print(error, file=sys.stderr, flush=True)

        with ThreadPoolExecutor(options.jobs) as pool:
            list(pool.map(attempt, runs))
    update_document()
    draw(GATES, RESULTS)
    print(render())
    gates = [config for config in missed() if not options.only or config in options.only]
    for config in gates:
        print(f"missed: {config}", file=sys.stderr)
    worse = regressions(options.against) if options.against else []
    for line in worse:
        print(f"regression: {line}", file=sys.stderr)
    return 1 if gates or failures or worse else 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.learning.run")
    known = [gate.config for gate in GATES]
    parser.add_argument("--only", nargs="+", choices=known, help="configurations; default all")
    parser.add_argument("--seeds", type=int, default=5, help="at most so many seeds of each")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, one thread each")
    parser.add_argument(
        "--table", action="store_true", help="only rewrite docs/results.md, train nothing"
    )
    parser.add_argument("--against", type=Path, help="folder of earlier results; worse is exit 1")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
