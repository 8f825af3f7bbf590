"""Lightning's door to sealed files: what `trainer.save_checkpoint` and `ckpt_path` go through."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from lightning.pytorch.plugins.io import CheckpointIO

from lightning_rl.errors import CheckpointError
from lightning_rl.storage.sealed import Unpublished, begin_sealed, load_sealed
from lightning_rl.storage.segments import REPLAY_FOLDER, SegmentStore

# Lightning's loop progress and epoch number: a run that was extended has another epoch.
_VOLATILE_ENTRIES = {"loops", "epoch"}
# Stock callbacks that store absolute paths or wall clock; the name is the beginning of Lightning's
# `state_key`.
_VOLATILE_CALLBACKS = ("ModelCheckpoint", "OnExceptionCheckpoint", "Timer")


class SealedCheckpointIO(CheckpointIO):
    """Writes sealed checkpoints in which everything that a stop can change stands under `volatile`.

    Lightning's loop progress and the state of its own callbacks with paths or times are moved
    there when saving and back when loading, so that all other entries of a resumed run's
    checkpoint equal those of a run never stopped.
    """

    def save_checkpoint(
        self,
        checkpoint: dict[str, Any],
        path: str | os.PathLike[str],
        storage_options: Any | None = None,
    ) -> None:
        """Write `checkpoint` sealed; `checkpoint` itself is not changed.

        Args:
            checkpoint: Lightning's dictionary, of tensors and primitives.
            path: Where to; missing folders are made.
            storage_options: None, or a list: instead of being called, the function that makes the
                written file durable and visible (`begin_sealed`) is appended to it.

        Raises:
            TypeError: Other `storage_options` were given.
            CheckpointError: The checkpoint holds something that could not be loaded again.
            OSError: It could not be written; an older file of that name is intact.
        """
        if storage_options is not None and type(storage_options) is not list:
            raise TypeError(
                f"expected storage_options=None or a list, received {storage_options!r}"
            )
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        files: list[Unpublished] = []
        packed = pack_volatile(checkpoint)
        write_segments = packed.pop("write_segments", None)
        flush_loggers = packed.pop("flush_loggers", [])
        try:
            if write_segments is not None:
                store = SegmentStore(path.parent / REPLAY_FOLDER, files)
                packed["volatile"]["segments"] = write_segments(store)
            files.append(begin_sealed(packed, path.parent, lambda _: path.name))
        except BaseException:
            _discard(files)
            raise

        def publish() -> None:
            # Last the checkpoint: it never lists or counts what is missing.
            try:
                for flush in flush_loggers:
                    flush()
                for file in files:
                    file.publish()
            finally:
                _discard(files)

        if storage_options is None:
            publish()
        else:
            storage_options.append(publish)

    def load_checkpoint(
        self,
        path: str | os.PathLike[str],
        map_location: Any | None = None,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """Read a sealed checkpoint.

        Args:
            path: The file, or a link to it.
            map_location: As in `torch.load`; None is the CPU.
            weights_only: Not looked at: loading never runs code from the file, whatever is asked
                for.

        Raises:
            CheckpointError: One line with the file and the reason.
        """
        where = "cpu" if map_location is None else map_location
        checkpoint = unpack_volatile(load_sealed(Path(path), where))
        checkpoint["volatile"]["directory"] = str(Path(path).resolve().parent)
        return checkpoint

    def remove_checkpoint(self, path: str | os.PathLike[str]) -> None:
        """Remove a checkpoint if it exists; of a symbolic link only the link.

        Raises:
            CheckpointError: It is a directory, which we never write.
        """
        path = Path(path)
        if path.is_dir() and not path.is_symlink():
            raise CheckpointError(f"{path}: not removed, since it is a directory")
        path.unlink(missing_ok=True)


def _discard(files: list[Unpublished]) -> None:
    for file in files:
        file.discard()


def pack_volatile(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Return a shallow copy with what a stop can change moved under `volatile`.

    What the agent put there stays beside it.
    """
    packed = dict(checkpoint)
    volatile = dict(packed.pop("volatile", {}))
    for key in _VOLATILE_ENTRIES & packed.keys():
        volatile[key] = packed.pop(key)
    if "callbacks" in packed:
        callbacks = packed["callbacks"]
        moved = {key: state for key, state in callbacks.items() if _is_volatile(key)}
        packed["callbacks"] = {k: state for k, state in callbacks.items() if k not in moved}
        volatile["callbacks"] = moved
    packed["volatile"] = volatile
    return packed


def unpack_volatile(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Return a shallow copy with Lightning's entries back in their places.

    The agent's stay under `volatile`.
    """
    unpacked = dict(checkpoint)
    volatile = dict(unpacked.get("volatile", {}))
    for key in _VOLATILE_ENTRIES & volatile.keys():
        unpacked[key] = volatile.pop(key)
    if "callbacks" in volatile:
        unpacked["callbacks"] = {**unpacked.get("callbacks", {}), **volatile.pop("callbacks")}
    unpacked["volatile"] = volatile
    return unpacked


def _is_volatile(state_key: str) -> bool:
    """Return whether `state_key` (`Timer`, `ModelCheckpoint{...}`) is a stock class's."""
    return state_key.partition("{")[0] in _VOLATILE_CALLBACKS
