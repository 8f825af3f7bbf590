"""Millions of env steps in one process: memory, descriptors, threads and objects stay flat."""

from __future__ import annotations

import gc
import itertools
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import psutil
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from lightning.pytorch.loggers import TensorBoardLogger

from lightning_rl import PPO, Trainer
from lightning_rl.callbacks.base import Callback
from lightning_rl.callbacks.curves import TrainingCurves
from lightning_rl.envs.config import EnvConfig
from lightning_rl.envs.probes import CountEnv

pytestmark = pytest.mark.system

MOST_MB_PER_MILLION = 0.5
SAMPLE_EVERY = 100_000


class BatchedCount(gymnasium.vector.VectorEnv):
    """All rows count in one array; an episode has 100 steps, so that the env is nearly free."""

    metadata: dict[str, Any] = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012

    def __init__(self, num_envs: int) -> None:
        self.num_envs = num_envs
        self.single_observation_space = spaces.Box(0.0, 100.0, (1,), np.float32)
        self.single_action_space = spaces.Discrete(2)
        self.count = np.zeros(num_envs)

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        """Begin at different counts, so that not all rows end at once."""
        self.count = np.arange(self.num_envs) % 100.0
        return self.count[:, None].astype(np.float32), {}

    def step(self, actions: Any) -> Any:
        """Count, or begin anew."""
        self.count = np.where(self.count >= 100, 0, self.count + 1)
        never = np.zeros(self.num_envs, dtype=bool)
        return self.count[:, None].astype(np.float32), self.count, self.count >= 100, never, {}


class Watch(Callback):
    """Samples the process every `SAMPLE_EVERY` env steps."""

    def __init__(self) -> None:
        self.samples: list[dict[str, float]] = []
        self.process = psutil.Process()
        self.next = 0

    def on_iteration_end(self, trainer: Any, agent: Any, statistics: Any) -> None:
        """Take a sample when one is due."""
        if agent.env_steps < self.next:
            return
        self.next += SAMPLE_EVERY
        sample = {
            "env_steps": agent.env_steps,
            "rss_mb": self.process.memory_info().rss / 1e6,
            "descriptors": self.process.num_fds(),
            "threads": self.process.num_threads(),
        }
        if len(self.samples) % 10 == 0:
            gc.collect()
            sample["objects"] = len(gc.get_objects())
        self.samples.append(sample)


def soak(root: Path, env_steps: int) -> list[dict[str, float]]:
    """Train with evaluations, pictures, the default callbacks and TensorBoard, CSV and SQLite."""
    gymnasium.register("Soak-v0", entry_point=CountEnv, vector_entry_point=BatchedCount)
    watch = Watch()
    trainer = Trainer(
        run={"root": str(root)},
        accelerator="cpu",
        logger=TensorBoardLogger(str(root / "tensorboard")),
        callbacks=[watch, TrainingCurves(every_s=1.0)],
        enable_progress_bar=False,
        eval_episodes=2,
        eval_every_env_steps=env_steps // 100,
    )
    env = EnvConfig("Soak-v0", num_envs=256, vectorization="vector")
    sizes = {"num_steps": 32, "minibatch_size": 8192, "update_epochs": 1, "hidden_sizes": (16,)}
    trainer.fit(PPO(env, total_env_steps=env_steps, seed=1, compile=False, **sizes))
    return watch.samples


def slope(samples: list[dict[str, float]], key: str) -> float:
    """Return the median of the slopes of all pairs (Theil and Sen), for 10^6 env steps."""
    points = [(sample["env_steps"] / 1e6, sample[key]) for sample in samples if key in sample]
    pairs = itertools.combinations(points, 2)
    return float(np.median([(y - x) / (b - a) for (a, x), (b, y) in pairs]))


def test_slope_of_a_line_with_a_step() -> None:
    """One step is no slope, a steady rise is."""
    flat = [{"env_steps": i * 1e5, "m": 5.0 + 13 * (i > 90)} for i in range(100)]
    rising = [{"env_steps": i * 1e5, "m": 5.0 + 0.3 * i} for i in range(100)]
    assert slope(flat, "m") == 0.0
    assert slope(rising, "m") == pytest.approx(3.0)


@pytest.mark.parametrize("env_steps", [pytest.param(10_000_000, marks=pytest.mark.slow)])
def test_ten_million_env_steps_leave_nothing_behind(tmp_path: Path, env_steps: int) -> None:
    words = [sys.executable, "-m", "tests.system.test_soak", str(tmp_path), str(env_steps)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    samples = json.loads(done.stdout.splitlines()[-1])
    late = [sample for sample in samples if sample["env_steps"] >= 0.2 * env_steps]
    assert len(late) >= 0.75 * env_steps / SAMPLE_EVERY
    assert slope(late, "rss_mb") <= MOST_MB_PER_MILLION
    for key in ("descriptors", "threads"):
        counts = Counter(sample[key] for sample in late)
        assert max(counts) - min(counts) <= 2, counts  # a checkpoint or a query under way
        assert slope(late, key) == 0.0
    assert slope(late, "objects") <= 200


if __name__ == "__main__":
    sys.stdout.write(json.dumps(soak(Path(sys.argv[1]), int(sys.argv[2]))) + "\n")
