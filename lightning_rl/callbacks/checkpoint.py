"""Checkpoints: when they are taken, what they are called and which are kept."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Checkpoint as LightningCheckpoint

from lightning_rl.callbacks.base import Agent, Callback
from lightning_rl.errors import (
    CheckpointError,
    EnvironmentFailed,
    Interrupted,
    TrainingFailed,
    check_choice,
    check_ranges,
)
from lightning_rl.storage.background import Background
from lightning_rl.storage.sealed import load_sealed
from lightning_rl.storage.segments import (
    RANK_FOLDER,
    REPLAY_FOLDER,
    SegmentStore,
    SegmentWriteError,
    listed_segments,
)

logger = logging.getLogger(__name__)

LAST, BEST, EMERGENCY = "last.ckpt", "best.ckpt", "emergency.ckpt"
DEFAULT_PARTS = 10
RETRY_WARNING_S = 60.0
_NOTHING_TO_SAVE = (Interrupted, TrainingFailed, CheckpointError, OSError)


class Checkpoint(Callback, LightningCheckpoint):
    """Save the run at the boundary between two training units, and the best policies.

    Files in the folder: `env_steps=<n>.ckpt` every `every_env_steps` and at the end (the newest
    `keep` stay), `last.ckpt` with each of them and at least every `every_s` seconds, within a
    long unit or evaluation too, and `best.ckpt`, which points to the best of the `keep_best`
    checkpoints that an evaluation was the reason for. All are complete: any of them resumes, tests
    and loads. Saving changes no training state, and training waits for the disk only where it
    ends. A disk that is full costs a warning a minute, and a failed run only if the last state was
    never saved.

    As a subclass of Lightning's `Checkpoint` it runs behind all other callbacks, so their states
    are up to date.

    Args:
        dirpath: Folder; default `checkpoints` in the run directory, which otherwise leads to it.
        every_env_steps: Env steps between two numbered files; default a tenth of the budget.
        every_s: Longest time in seconds that a kill may lose.
        keep: Newest numbered files to keep, at least 1.
        keep_best: Best files to keep, 0 for none.
        monitor: Metric that decides what is best.
        mode: Whether the largest (`max`) or smallest (`min`) value is best.
    """

    def __init__(
        self,
        dirpath: str | None = None,
        every_env_steps: int | None = None,
        every_s: float = 60.0,
        keep: int = 3,
        keep_best: int = 1,
        monitor: str = "eval/mean_reward",
        mode: Literal["max", "min"] = "max",
    ) -> None:
        super().__init__()
        check_ranges(
            {
                "every_env_steps": (every_env_steps, 1, None),
                "every_s": (every_s, 0.0, None),
                "keep": (keep, 1, None),
                "keep_best": (keep_best, 0, None),
            }
        )
        check_choice("mode", mode, ("max", "min"))
        self.dirpath = dirpath
        self.every_env_steps, self.every_s = every_env_steps, every_s
        self.keep, self.keep_best = keep, keep_best
        self.monitor, self.mode = monitor, mode
        self.best: list[tuple[float, int]] = []
        """(score, env steps) of the kept best checkpoints, best first."""
        self._next_mark = 0
        self._saved_at = 0.0
        self._saved_env_steps = -1
        self._unsaved_error: OSError | None = None
        self._warned_at = -math.inf
        self._segments: dict[str, set[str]] = {}
        self._disk = Background()
        self._under_way: Path | None = None

    # When.

    def on_training_begins(self, trainer: Trainer, agent: Agent) -> None:
        """Note what has been saved so far."""
        self._note_time(trainer, agent)
        self._saved_env_steps = agent.env_steps
        self._next_mark = self._following_mark(agent)

    def on_unit_boundary(self, trainer: Trainer, agent: Agent) -> None:
        """Save when enough env steps or seconds have passed since the last time."""
        if agent.env_steps == 0 or _keeps_nothing(trainer):
            return
        if agent.env_steps >= self._next_mark:
            self._save_numbered(trainer, agent)
            self._next_mark = self._following_mark(agent)
        elif trainer.strategy.broadcast(time.monotonic() - self._saved_at >= self.every_s):
            self._save_last(trainer, agent)

    def on_save_due(self, trainer: Trainer, agent: Agent) -> None:
        """Save in the middle of a unit or an evaluation that takes long."""
        if agent.source is not None:
            self._save_last(trainer, agent)

    def on_stop(self, trainer: Trainer, agent: Agent) -> None:
        """Save in the middle of a unit, because the run was asked to stop."""
        if agent.source is not None:  # else it was asked before anything had begun
            self._save_last(trainer, agent)
        self.wait_for_disk()

    def on_validation_end(self, trainer: Trainer, agent: Agent) -> None:
        """Save when the evaluation is among the best."""
        score = trainer.callback_metrics.get(self.monitor)
        if trainer.sanity_checking or _keeps_nothing(trainer) or trainer.state.fn != "fit":
            return
        if score is None or not math.isfinite(float(score)) or not self.keep_best:
            return
        candidate = (float(score), agent.env_steps)
        sign = -1.0 if self.mode == "max" else 1.0
        # Of equal scores the earlier one stays: Python's sort is stable.
        ranking = sorted([*self.best, candidate], key=lambda entry: sign * entry[0])
        if candidate in ranking[: self.keep_best]:
            self.best = ranking[: self.keep_best]
            self._save_numbered(trainer, agent, is_last=False)

    def on_train_end(self, trainer: Trainer, agent: Agent) -> None:
        """Save the end of the run.

        Raises:
            CheckpointError: When the last state could not be written.
        """
        if _keeps_nothing(trainer) or agent.env_steps == 0:
            return
        self._save_numbered(trainer, agent)
        self.wait_for_disk()
        if self._unsaved_error is not None:
            raise CheckpointError(
                f"the end of the run could not be saved in {self.directory(trainer)}: "
                f"{self._unsaved_error.strerror}; free space and resume from the last checkpoint"
            )

    def on_exception(self, trainer: Trainer, agent: Agent, exception: BaseException) -> None:
        """Save what an unexpected error leaves usable, in a file that only `resume FILE` takes.

        Open episodes and the unfinished unit are dropped, since nobody knows how far they got.
        Nothing is saved when the run's own numbers are the error: the last checkpoint is good then.
        """
        self.wait_for_disk()
        is_sound = isinstance(exception, EnvironmentFailed)
        if isinstance(exception, _NOTHING_TO_SAVE) and not is_sound:
            return
        if trainer.state.fn != "fit" or agent.env_steps == 0 or trainer.world_size > 1:
            return
        try:
            agent.state.drop_unfinished = True
            agent.state.interrupts_validation = agent.is_evaluating
            path = self.directory(trainer) / EMERGENCY
            self._write(trainer, path)()
            logger.warning("saved what is usable; continue with: lightning-rl resume %s", path)
        except Exception as error:
            logger.warning("no emergency checkpoint could be written: %s", error)
        finally:
            agent.state.drop_unfinished = False

    # Where and how.

    def directory(self, trainer: Trainer) -> Path:
        """Return the folder of the checkpoints."""
        run_dir = getattr(trainer, "run_dir", None)
        default = Path(run_dir or trainer.default_root_dir) / "checkpoints"
        if self.dirpath is None:
            return default
        folder = Path(self.dirpath).expanduser()
        # The run directory's own name for it is what `resume` takes.
        return default if default.resolve() == folder.resolve() else folder

    def _note_time(self, trainer: Trainer, agent: Agent) -> None:
        self._saved_at = time.monotonic()
        if trainer.world_size == 1 and not _keeps_nothing(trainer):
            agent.save_at = self._saved_at + self.every_s

    def _following_mark(self, agent: Agent) -> int:
        every = self.every_env_steps
        if every is None:
            budget = agent.budget.schedule_env_steps or agent.budget.env_steps
            every = max(1, (budget or 100_000) // DEFAULT_PARTS)
        return (agent.env_steps // every + 1) * every

    def _save_numbered(self, trainer: Trainer, agent: Agent, is_last: bool = True) -> None:
        self._try_write(trainer, self.directory(trainer) / _numbered(agent.env_steps), is_last)

    def _save_last(self, trainer: Trainer, agent: Agent) -> None:
        self._try_write(trainer, self.directory(trainer) / LAST)

    def _try_write(self, trainer: Trainer, path: Path, is_last: bool = True) -> None:
        """Write, or warn at most once a minute that the disk does not take it.

        What takes the disk long happens in the background. Several processes wait for it together:
        one that went on could resume from an older file than the process that writes, or lose the
        segments it writes next to that one's pruning.
        """
        self._note_time(trainer, trainer.lightning_module)
        self.wait_for_disk()
        try:
            self._begin_write(trainer, path, is_last)
        except OSError as error:
            self._note_failure(path, error)
        if trainer.world_size > 1:
            self.wait_for_disk()
            trainer.strategy.barrier()

    def _begin_write(self, trainer: Trainer, path: Path, is_last: bool) -> None:
        """Write the file, and leave to the background what makes it durable and visible."""
        publish = self._write(trainer, path)
        best = [_numbered(env_steps) for _, env_steps in self.best]

        def finish() -> None:
            publish()
            if path.name != LAST and trainer.is_global_zero:
                self._publish(path, is_last, best)

        self._under_way = path
        self._disk.start(finish)

    def wait_for_disk(self) -> None:
        """Wait for the file that is under way; then it is durable, or its failure is noted."""
        path, self._under_way = self._under_way, None
        if path is None:
            return
        try:
            self._disk.wait()
        except OSError as error:
            self._note_failure(path, error)
        else:
            self._unsaved_error = None

    def _note_failure(self, path: Path, error: OSError) -> None:
        self._unsaved_error = error
        if time.monotonic() - self._warned_at >= RETRY_WARNING_S:
            self._warned_at = time.monotonic()
            logger.warning(
                "%s could not be written (%s); training goes on and tries again",
                path,
                error.strerror,
            )

    def _write(self, trainer: Trainer, path: Path) -> Callable[[], object]:
        """Write a file that the function returned makes durable and visible."""
        agent: Agent = trainer.lightning_module
        agent.state.folder = path.parent
        publications: list[Callable[[], object]] = []
        try:
            trainer.save_checkpoint(path, weights_only=False, storage_options=publications)
        except SegmentWriteError:
            raise
        except OSError:
            trainer.strategy.barrier()  # where the other ranks are waiting for this one
            raise
        finally:
            agent.state.folder = None
        replay = agent.state.replay
        if replay is not None and trainer.world_size == 1:
            self._segments[path.name] = replay.segment_files(path.parent / REPLAY_FOLDER)
        return publications[0] if publications else lambda: None  # the other ranks write nothing

    def _publish(self, path: Path, is_last: bool, best: list[str]) -> None:
        """Point the links to a new numbered file and remove what it makes superfluous."""
        if is_last:
            _link(path.parent, LAST, path.name)
        if best:
            _link(path.parent, BEST, best[0])
        self._prune(path.parent, best)

    def _prune(self, folder: Path, best: list[str]) -> None:
        """Remove numbered files that neither count nor quality keeps, and segments nobody lists."""
        numbered = sorted(folder.glob("env_steps=*.ckpt"), key=_env_steps_of)
        others = [path for path in numbered if path.name not in best]
        for path in others[: -self.keep]:
            path.unlink()
            self._segments.pop(path.name, None)
        store = folder / REPLAY_FOLDER
        if store.is_dir():
            used = {name for path in folder.glob("*.ckpt") for name in self._segments_of(path)}
            for place in (store, *store.glob(RANK_FOLDER.format(rank="*"))):
                SegmentStore(place).prune(used)

    def _segments_of(self, path: Path) -> set[str]:
        name = path.resolve().name
        if name not in self._segments:
            try:
                of_ranks = listed_segments(load_sealed(path)["volatile"])
            except CheckpointError:  # it was passed over on resume, and needs none
                of_ranks = []
            self._segments[name] = {segment["file"] for refs in of_ranks for segment in refs}
        return self._segments[name]

    def state_dict(self) -> dict[str, Any]:
        """Return the ranking of the best checkpoints."""
        return {"best": [list(entry) for entry in self.best]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue with the ranking of `state_dict`."""
        self.best = [(float(score), int(env_steps)) for score, env_steps in state_dict["best"]]


def _keeps_nothing(trainer: Trainer) -> bool:
    """Return whether this is a `fast_dev_run`."""
    return bool(trainer.fast_dev_run)  # type: ignore[attr-defined]


def _numbered(env_steps: int) -> str:
    return f"env_steps={env_steps}.ckpt"


def _env_steps_of(path: Path) -> int:
    return int(path.stem.split("=")[1])


def _link(folder: Path, name: str, target: str) -> None:
    """Make `name` a relative link to `target`, at once for every reader."""
    temporary = folder / f".tmp-{name}-{os.getpid()}"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    os.replace(temporary, folder / name)
