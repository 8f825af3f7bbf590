"""What saving a run with a replay buffer of more than 1 GB costs: pause, bytes, memory.

python -m benchmarks.saving

SAC collects wide observations from an environment that costs nothing and never learns, so that the
buffer grows as fast as one can fill it; a checkpoint is due with every `EVERY` transitions, as many
as an agent that sees pixels collects in a minute or so. One more agent is saved for the first time
when its buffer is full. The table goes into `docs/performance.md`; exits with 1 when a goal is
missed.

A pause is the time of `trainer.save_checkpoint`, in which the training thread does nothing else.
The memory is the growth of the resident set during it (Linux counts its peak).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from benchmarks.page import replace_part
from lightning_rl.storage.segments import REPLAY_FOLDER

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
NUM_FEATURES = 4_096
CAPACITY, EVERY = 36_000, 4_000  # a transition has 32.8 kB: 1.2 GB, 131 MB between two checkpoints
INTERVAL_S = 60.0
MOST_PAUSE, MOST_MEMORY = 0.05, 1.1


@dataclass
class Save:
    """One checkpoint.

    Attributes:
        added: Transitions since the one before.
        seconds: Length of the pause.
        written_mb: Size of the files that were not there before.
        state_mb: Size of all that the checkpoint needs, segments included.
        memory_mb: Growth of the resident set, at its peak.
    """

    added: int
    seconds: float
    written_mb: float
    state_mb: float
    memory_mb: float


class Wide(gymnasium.Env[np.ndarray, np.ndarray]):
    """Observations of many numbers, at the price of copying them."""

    observation_space = spaces.Box(-1.0, 1.0, (NUM_FEATURES,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)

    def __init__(self) -> None:
        self._values = np.linspace(-1.0, 1.0, NUM_FEATURES, dtype=np.float32)
        self._steps = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin an episode."""
        super().reset(seed=seed)
        self._steps = 0
        return self._observe(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Count."""
        self._steps += 1
        return self._observe(), 0.0, False, self._steps >= 1_000, {}

    def _observe(self) -> np.ndarray:
        return np.roll(self._values, self._steps)


class Watch:
    """Measures what calls of `trainer.save_checkpoint` cost.

    Args:
        agent: Whose checkpoints they are.
        save: The method.
    """

    def __init__(self, agent: Any, save: Any) -> None:
        self.saves: list[Save] = []
        self._agent, self._save = agent, save
        self._known: set[str] = set()
        self._env_steps = 0

    def __call__(self, path: Any, *args: Any, **kwargs: Any) -> None:
        """Save and take the figures."""
        forget_peak()
        before, started = memory_mb("VmRSS"), time.perf_counter()
        self._save(path, *args, **kwargs)
        seconds = time.perf_counter() - started
        publications = kwargs.get("storage_options") or []
        while publications:  # what a thread would do meanwhile, now, to look at the files
            publications.pop(0)()
        peak = memory_mb("VmHWM")
        replay = Path(path).parent / REPLAY_FOLDER
        files = {file.name: file.stat().st_size for file in replay.glob("*.segment")}
        own = Path(path).stat().st_size
        needed = self._agent.state.replay.segment_files(replay)
        self.saves.append(
            Save(
                added=self._agent.env_steps - self._env_steps,
                seconds=seconds,
                written_mb=(own + sum(s for n, s in files.items() if n not in self._known)) / 1e6,
                state_mb=(own + sum(files[name] for name in needed)) / 1e6,
                memory_mb=max(0.0, peak - before),
            )
        )
        self._known |= set(files)
        self._env_steps = self._agent.env_steps


def forget_peak() -> None:
    """Let Linux count the peak of resident memory from here on."""
    Path("/proc/self/clear_refs").write_text("5")


def memory_mb(name: str) -> float:
    """Return `VmRSS`, the resident memory of this process, or `VmHWM`, its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(name))


def measure(capacity: int, every: int, total: int) -> list[Save]:
    """Fill a buffer and return what each checkpoint cost.

    Args:
        capacity: Transitions that the buffer keeps.
        every: Env steps between two checkpoints.
        total: Env steps of the run.
    """
    import lightning_rl
    from lightning_rl.callbacks import Checkpoint

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        agent = lightning_rl.SAC(
            env=Wide,
            total_env_steps=total,
            capacity=capacity,
            learning_starts=total + 1,
            compile=False,
            seed=1,
        )
        trainer = lightning_rl.Trainer(
            run={"root": scratch},
            callbacks=[Checkpoint(every_env_steps=every, every_s=1e9)],
            limit_val_batches=0,
            enable_progress_bar=False,
        )
        trainer.save_checkpoint = watch = Watch(agent, trainer.save_checkpoint)
        trainer.fit(agent)
    return watch.saves


def missed(saves: list[Save], at_once: Save) -> list[str]:
    """Return the goals that were not reached, in words.

    Args:
        saves: Checkpoints of a run that is saved again and again.
        at_once: That of a whole buffer, which no minute fills: only its memory counts.
    """
    found = [
        f"pause {save.seconds:.1f} s after {save.added} transitions"
        for save in saves
        if save.seconds > MOST_PAUSE * INTERVAL_S
    ]
    for save in (*saves, at_once):
        if save.memory_mb > MOST_MEMORY * save.state_mb:
            found.append(f"memory {save.memory_mb:.0f} MB for {save.state_mb:.0f} MB")
    return found


def render(rows: dict[str, Save]) -> str:
    """Return the figures as they stand on the page."""
    lines = [
        "| checkpoint | new transitions | pause | of 60 s (goal ≤ 5 %) | written | whole state "
        "| extra memory | of the state (goal ≤ 1.1) |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, save in rows.items():
        cells = [
            *(name, f"{save.added:,}", f"{save.seconds:.2f} s", f"{save.seconds / INTERVAL_S:.1%}"),
            *(f"{save.written_mb:,.0f} MB", f"{save.state_mb:,.0f} MB"),
            *(f"{save.memory_mb:,.0f} MB", f"{save.memory_mb / save.state_mb:.2f}"),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def slowest(saves: list[Save]) -> Save:
    """Return the checkpoint with the longest pause."""
    return max(saves, key=lambda save: save.seconds)


def main(words: list[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description="What saving a large replay buffer costs.")
    parser.add_argument("--page", type=Path, default=PAGE, help="where the table goes")
    options = parser.parse_args(words)
    growing = measure(CAPACITY, EVERY, 2 * CAPACITY)
    filling, overwriting = growing[: CAPACITY // EVERY], growing[CAPACITY // EVERY :]
    (at_once, *_) = measure(CAPACITY, CAPACITY, CAPACITY)
    rows = {
        "while it fills, the slowest": slowest(filling),
        "full, the oldest overwritten, the slowest": slowest(overwriting),
        "the first, of a full buffer": at_once,
    }
    replace_part(options.page, "saving", render(rows))
    print(render(rows))
    problems = missed(growing, at_once)
    for line in problems:
        print(f"missed: {line}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
