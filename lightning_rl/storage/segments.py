"""Append-only replay segments, and the choice of the newest checkpoint that is still good.

A checkpoint lists the segments it needs with their sha256. Segments are never changed, so a
checkpoint costs only the transitions that are new, and a buffer can never be ahead of its
checkpoint.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, TypedDict

import torch
from torch import Tensor

from lightning_rl.errors import CheckpointError
from lightning_rl.storage.sealed import Unpublished, begin_sealed, load_sealed, verify_seal

REPLAY_FOLDER = "replay"
"""Where a folder of checkpoints keeps its segments."""

RANK_FOLDER = "rank{rank}"
"""Where in it process `rank` of several keeps those of its own buffer; the first has no folder."""

_SEGMENT_NAME = re.compile(r"[0-9]+-[0-9]+-[0-9a-f]{12}\.segment", re.ASCII)
_NUMBERED = re.compile(r"env_steps=([0-9]{1,18})\.ckpt", re.ASCII)
_MAX_LISTED = 15
SEGMENT_BYTES = 64 << 20
"""Largest segment, and so the largest memory that writing the content of a buffer takes."""
MAX_DEFERRED = 64
"""Most written segments that wait to be published: each is an open file."""


class SegmentWriteError(OSError):
    """One of several processes could not write its segments; raised by all of them together."""


class SegmentRef(TypedDict):
    """How a checkpoint names a segment: primitives only.

    Attributes:
        file: Name of the file in the store's folder.
        start: Index of the first transition in the run's order, counted from 0.
        end: Index behind the last.
        sha256: Digest of the file in hexadecimal digits.
    """

    file: str
    start: int
    end: int
    sha256: str


class SegmentStore:
    """A folder of replay segments.

    Args:
        directory: The folder, usually `checkpoints/replay`; made when the first segment is written.
        deferred: A list that takes written segments, to be published in their order; None to
            publish them at once.
    """

    def __init__(self, directory: Path, deferred: list[Unpublished] | None = None) -> None:
        self.directory = Path(directory)
        self._deferred = deferred

    def append(self, start: int, columns: dict[str, Tensor]) -> SegmentRef:
        """Write the transitions from `start` on as one sealed file `<start>-<end>-<sha12>.segment`.

        Equal content has an equal name: a resumed run that writes the same transitions again makes
        no second file.

        Args:
            start: Index of the first transition in the run's order.
            columns: Name to tensor `(rows, ...)`; all with the same, positive number of rows.

        Raises:
            ValueError: The columns are empty or of different length.
            OSError: The segment could not be written; the store is unchanged.
        """
        lengths = {len(column) if column.dim() else 0 for column in columns.values()}
        if len(lengths) != 1 or 0 in lengths or start < 0:
            raise ValueError(
                f"expected columns of one positive length and start >= 0, received lengths "
                f"{sorted(lengths)} and start {start}"
            )
        end = start + lengths.pop()
        owned = {name: _owned(columns[name]) for name in sorted(columns)}
        self.directory.mkdir(parents=True, exist_ok=True)
        sealed = begin_sealed(
            {"start": start, "end": end, "columns": owned},
            self.directory,
            lambda digest: f"{start}-{end}-{digest[:12]}.segment",
        )
        if self._deferred is None or len(self._deferred) >= MAX_DEFERRED:
            sealed.publish()
        else:
            self._deferred.append(sealed)
        return {"file": sealed.path.name, "start": start, "end": end, "sha256": sealed.sha256}

    def holds(self, reference: Mapping[str, Any]) -> bool:
        """Whether the file of a reference is there."""
        return (self.directory / reference["file"]).exists()

    def read(
        self, refs: Iterable[Mapping[str, Any]], wanted_start: int, wanted_end: int
    ) -> dict[str, Tensor]:
        """Return the transitions `wanted_start <= index < wanted_end`, in order.

        Args:
            refs: The segments that a checkpoint lists, in any order; those outside the wanted
                range are not opened.
            wanted_start: Index of the first transition.
            wanted_end: Index behind the last.

        Returns:
            Name to tensor `(wanted_end - wanted_start, ...)` on the CPU; an empty dictionary for
            an empty range.

        Raises:
            CheckpointError: A segment is damaged, missing or another one than listed, or the range
                has a gap.
        """
        parts: list[dict[str, Tensor]] = []
        position = wanted_start
        for ref in sorted(map(self._checked, refs), key=lambda ref: ref["start"]):
            if ref["end"] <= position or position >= wanted_end:
                continue
            if ref["start"] > position:
                break
            columns = self._load(ref)
            rows = slice(position - ref["start"], min(ref["end"], wanted_end) - ref["start"])
            parts.append({name: column[rows] for name, column in columns.items()})
            position = min(ref["end"], wanted_end)
        if position < wanted_end:
            raise CheckpointError(
                f"{self.directory}: no segment holds transition {position} "
                f"(wanted {wanted_start} to {wanted_end})"
            )
        return self._join(parts)

    def verify(self, refs: Iterable[Mapping[str, Any]]) -> None:
        """Compare the sha256 of every listed segment with its file, without loading any.

        Raises:
            CheckpointError: A segment is damaged, missing or another one than listed.
        """
        for ref in refs:
            path = self.directory / self._checked(ref)["file"]
            if verify_seal(path) != ref["sha256"]:
                raise CheckpointError(f"{path}: is not the segment that the checkpoint lists")

    def prune(self, keep: Collection[str]) -> list[str]:
        """Remove all segments but those named in `keep`, and return the removed names.

        Call it after the checkpoints that named the others are gone; a file that cannot be removed
        is left.
        """
        removed = []
        for path in sorted(self.directory.glob("*.segment")):
            if path.name not in keep:
                with contextlib.suppress(OSError):
                    path.unlink()
                    removed.append(path.name)
        return removed

    def _checked(self, ref: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return a well-formed reference, whose file name cannot lead out of the folder."""
        kinds = {"file": str, "start": int, "end": int, "sha256": str}
        if not isinstance(ref, Mapping) or any(type(ref.get(k)) is not t for k, t in kinds.items()):
            raise CheckpointError(f"{self.directory}: the list of its segments is malformed")
        if not _SEGMENT_NAME.fullmatch(ref["file"]):
            raise CheckpointError(f"{self.directory}: {ref['file'][:80]!r} is no segment's name")
        return ref

    def _load(self, ref: Mapping[str, Any]) -> dict[str, Tensor]:
        """Read one segment and compare it with what the checkpoint says of it."""
        path = self.directory / ref["file"]
        segment = load_sealed(path, sha256=ref["sha256"])
        rows = ref["end"] - ref["start"]
        if (segment.get("start"), segment.get("end")) != (ref["start"], ref["end"]):
            raise CheckpointError(f"{path}: holds other transitions than the checkpoint lists")
        columns = segment.get("columns")
        if not isinstance(columns, dict) or not all(_has_rows(c, rows) for c in columns.values()):
            raise CheckpointError(f"{path}: holds a column that has not {rows} rows")
        return columns

    def _join(self, parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Join parts row by row; all must have the same columns."""
        if any(part.keys() != parts[0].keys() for part in parts):
            raise CheckpointError(f"{self.directory}: its segments have different columns")
        names = parts[0] if parts else ()
        try:
            return {name: torch.cat([part[name] for part in parts]) for name in names}
        except RuntimeError as error:
            raise CheckpointError(f"{self.directory}: its segments differ in shape") from error


def _owned(column: Tensor) -> Tensor:
    """Return a column that shares its memory with nothing beside it.

    A slice of a buffer has the whole buffer's memory, which torch.save would write in full.
    """
    column = column.detach()
    if column.is_contiguous() and column.untyped_storage().nbytes() == column.nbytes:
        return column
    return torch.clone(column, memory_format=torch.contiguous_format)


def _has_rows(column: object, rows: int) -> bool:
    """Return whether `column` is a tensor `(rows, ...)`."""
    return isinstance(column, Tensor) and column.dim() > 0 and len(column) == rows


def list_checkpoints(directory: Path) -> list[Path]:
    """Return a folder's `last.ckpt`, its `env_steps=<n>.ckpt` from the newest on, and `best.ckpt`.

    Dangling links count: they are a reason to tell. Only existing names are returned; no file is
    opened.
    """
    directory = Path(directory)
    try:
        names = os.listdir(directory)
    except (FileNotFoundError, NotADirectoryError):
        return []
    numbered = [name for name in names if _NUMBERED.fullmatch(name)]
    numbered.sort(key=_numbered_steps, reverse=True)
    order = [*(n for n in ("last.ckpt",) if n in names), *numbered]
    order.extend(name for name in ("best.ckpt",) if name in names)
    return [directory / name for name in order]


def checkpoint_env_steps(path: Path) -> int:
    """Verify a checkpoint with the segments it lists, and return the env steps it was taken at.

    Raises:
        CheckpointError: It or a segment is damaged, or it does not say its env steps.
    """
    checkpoint = load_sealed(path)
    entry, volatile = checkpoint.get("lightning_rl"), checkpoint.get("volatile")
    env_steps = entry.get("env_steps") if isinstance(entry, dict) else None
    if type(env_steps) is not int:
        raise CheckpointError(f"{path}: does not say its env steps")
    if isinstance(volatile, dict):
        for rank, refs in enumerate(listed_segments(volatile)):
            segment_store(Path(path).resolve().parent, rank).verify(refs)
    return env_steps


def segment_store(checkpoints: Path, rank: int = 0) -> SegmentStore:
    """Return the store of one process beside its checkpoints."""
    folder = checkpoints / REPLAY_FOLDER
    return SegmentStore(folder / RANK_FOLDER.format(rank=rank) if rank else folder)


def listed_segments(volatile: Mapping[str, Any]) -> list[list[dict[str, Any]]]:
    """Return the segments that a checkpoint lists, for each process in rank order."""
    return [volatile.get("segments", []), *volatile.get("rank_segments", [])]


def newest_good_checkpoint(
    directory: Path,
    named: Path | None = None,
    verify: Callable[[Path], int] = checkpoint_env_steps,
) -> tuple[Path, list[tuple[Path, str]]]:
    """Return the newest checkpoint that can be used, and the bad ones that were passed over.

    Tried are `named`, then `last.ckpt` and the numbered files from the newest on, then
    `best.ckpt`. A numbered file that is newer than a good `last.ckpt` is preferred to it: a kill
    may have come between the two.

    Args:
        directory: The run's `checkpoints` folder.
        named: A file to prefer over all others, such as `best.ckpt`.
        verify: Returns the env steps of a good checkpoint and raises `CheckpointError` for a bad
            one.

    Returns:
        The path, and (bad path, reason) for each that was tried in vain.

    Raises:
        CheckpointError: There is none, or all are bad; the message lists them. No file is touched.
    """
    bad: list[tuple[Path, str]] = []

    def env_steps(path: Path) -> int:
        try:
            return verify(path)
        except CheckpointError as error:
            bad.append((path, str(error).removeprefix(f"{path}: ")))
            return -1

    if named is not None and env_steps(Path(named)) >= 0:
        return Path(named), bad
    candidates = [path for path in list_checkpoints(directory) if path != named]
    last: Path | None = None
    newest = -1
    for path in candidates:
        if path.name == "last.ckpt":
            newest = env_steps(path)
            last = path if newest >= 0 else None
        elif last is not None and _numbered_steps(path.name) <= newest:
            return last, bad
        elif env_steps(path) >= 0:
            return path, bad
    if last is not None:
        return last, bad
    raise CheckpointError(_no_good_checkpoint(Path(directory), bad))


def _numbered_steps(name: str) -> int:
    """Return `<n>` of `env_steps=<n>.ckpt`, or -1 for another name."""
    match = _NUMBERED.fullmatch(name)
    return int(match[1]) if match else -1


def _no_good_checkpoint(directory: Path, bad: list[tuple[Path, str]]) -> str:
    """Return one screen that says why nothing can be resumed."""
    if not bad:
        others = ", ".join(sorted(path.name for path in directory.glob("*.ckpt")))
        hint = f" but {others}, which is taken only when it is named" if others else ""
        return f"{directory}: holds no checkpoint{hint}"
    lines = [f"{directory}: none of {len(bad)} checkpoints can be used; nothing was changed"]
    lines.extend(f"  {path.name}: {reason}" for path, reason in bad[:_MAX_LISTED])
    if len(bad) > _MAX_LISTED:
        lines.append(f"  and {len(bad) - _MAX_LISTED} more")
    return "\n".join(lines)
