"""What a table costs beside the environment it learns in.

python -m benchmarks.tables

Q-learning, with one environment and with eight, against the bare environment with random actions,
in turns. Processor time per env step, from the fourth training unit to the end; of the callbacks,
those that every agent has. The table goes into `docs/performance.md`; exits with 1 when a goal is
missed.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import lightning.pytorch

import lightning_rl
from benchmarks.page import replace_part
from benchmarks.speed.run_lightning_rl import make_trainer

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
GOAL = 0.5
GOALS = {"FrozenLake-v1": GOAL, "CliffWalking-v1": GOAL, "Taxi-v4": GOAL, "Blackjack-v1": None}
NUM_ENVS = (1, 8)
WARMUP_UNITS = 3


@dataclass
class Costs:
    """Processor time of one env step in µs, medians.

    Attributes:
        bare: Of the environment with random actions.
        learning: Of Q-learning, by number of environments.
    """

    bare: float
    learning: dict[int, float]


class Stopwatch(lightning.pytorch.Callback):
    """Takes the processor time at the ends of units.

    Attributes:
        marks: Env steps and seconds of processor time at the end of each unit.
    """

    def __init__(self) -> None:
        self.marks: list[tuple[int, float]] = []

    def on_train_batch_end(self, trainer: Any, agent: Any, *_: Any) -> None:
        """Take it."""
        self.marks.append((agent.env_steps, time.process_time()))

    def us_per_step(self) -> float:
        """Return the time of an env step after the warm-up."""
        (begin, started), (end, stopped) = self.marks[WARMUP_UNITS - 1], self.marks[-1]
        return (stopped - started) / (end - begin) * 1e6


def bare(env_id: str, env_steps: int) -> float:
    """Return the µs of an env step with random actions."""
    env = gymnasium.make(env_id, disable_env_checker=True)  # as training goes without it, too
    env.reset(seed=1)
    env.action_space.seed(1)
    started = time.process_time()
    for _ in range(env_steps):
        _, _, terminated, truncated, _ = env.step(env.action_space.sample())
        if terminated or truncated:
            env.reset()
    return (time.process_time() - started) / env_steps * 1e6


def learning(env_id: str, num_envs: int, env_steps: int) -> float:
    """Return the µs of an env step of Q-learning, its defaults in place."""
    env = lightning_rl.EnvConfig(env_id, num_envs=num_envs)
    agent = lightning_rl.QLearning(env, total_env_steps=env_steps, seed=1)
    stopwatch = Stopwatch()
    make_trainer("plain", stopwatch, "32-true").fit(agent)
    return stopwatch.us_per_step()


def measure(env_id: str, env_steps: int, repeats: int) -> Costs:
    """Measure one environment.

    Args:
        env_id: Its id.
        env_steps: Of each run.
        repeats: Runs of each kind; they alternate.
    """
    bares: list[float] = []
    learnings: dict[int, list[float]] = {num_envs: [] for num_envs in NUM_ENVS}
    for _ in range(repeats):
        bares.append(bare(env_id, env_steps))
        for num_envs, times in learnings.items():
            times.append(learning(env_id, num_envs, env_steps))
    medians = {num_envs: statistics.median(times) for num_envs, times in learnings.items()}
    return Costs(statistics.median(bares), medians)


def missed(costs: dict[str, Costs]) -> list[str]:
    """Return the goals that were not reached, in words."""
    return [
        f"{env_id}: {one.bare / time_of:.2f} times the bare rate in {num_envs} environments"
        for env_id, one in costs.items()
        for num_envs, time_of in one.learning.items()
        if (goal := GOALS[env_id]) is not None and one.bare / time_of < goal
    ]


def render(costs: dict[str, Costs]) -> str:
    """Return the figures as they stand on the page."""
    lines = ["| environment | bare | one environment | eight environments |", "|---|---|---|---|"]
    for env_id, one in costs.items():
        times = one.learning.values()
        cells = [f"{time_of:.1f} µs ({one.bare / time_of:.2f} ×)" for time_of in times]
        lines.append(f"| {' | '.join([env_id, f'{one.bare:.1f} µs', *cells])} |")
    return "\n".join(lines)


def main(words: list[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description="What a table costs beside its environment.")
    parser.add_argument("--page", type=Path, default=PAGE, help="where the table goes")
    parser.add_argument("--env-steps", type=int, default=20_000, help="of each run")
    parser.add_argument("--repeats", type=int, default=7, help="runs of each kind")
    options = parser.parse_args(words)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    costs = {env_id: measure(env_id, options.env_steps, options.repeats) for env_id in GOALS}
    replace_part(options.page, "tables", render(costs))
    print(render(costs))
    problems = missed(costs)
    for line in problems:
        print(f"missed: {line}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
