"""Sealed files: torch archives with a sha256 of all their other bytes, replaced atomically.

The seal is the archive's comment, so `torch.load` and Lightning read a sealed file like any other.
It finds accidents, not attackers: whoever writes a file can seal it. Safety against attackers
rests on `archive.py` and weights-only loading.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch

from lightning_rl.errors import CheckpointError
from lightning_rl.storage.archive import ForbiddenContent, check_archive
from lightning_rl.storage.kill_points import kill_point
from lightning_rl.storage.plain import Content, inspect, why_not_plain

SEAL_PREFIX = b"sha256:"
SEAL_BYTES = len(SEAL_PREFIX) + hashlib.sha256().digest_size
TEMPORARY_PREFIX = ".tmp-"
_END_RECORD = b"PK\x05\x06"
_END_RECORD_BYTES = 22
_BLOCK_BYTES = 1 << 20
# With less besides tensors' data the bounds of `check_archive` cannot be reached.
_SMALL = 500_000
_kinds_read_back: set[frozenset[Any]] = set()


def save_sealed(obj: dict[str, Any], path: Path) -> str:
    """Write `obj` sealed and durable; a reader finds the old file or the new one, never a part.

    Args:
        obj: Tensors and primitives only (`plain.why_not_plain`).
        path: Replaced if it exists; a symbolic link is replaced, not followed. Its folder must
            exist.

    Returns:
        The sha256 of the file as 64 hexadecimal digits, without its last 32 bytes, which hold it.

    Raises:
        CheckpointError: `obj` holds something that could not be loaded again; nothing was written.
        OSError: The disk is full, the folder read-only, ...; the old file is intact and nothing is
            left behind.
    """
    path = Path(path)
    sealed = begin_sealed(obj, path.parent, lambda _: path.name)
    sealed.publish()
    return sealed.sha256


class Unpublished(NamedTuple):
    """A sealed file that is written and that nobody sees yet.

    Attributes:
        path: What it will be called; a file of that name is replaced then.
        sha256: As `save_sealed` returns it.
        publish: Makes the file durable and visible; to be called once, by whatever thread. It waits
            for the disk, which is most of the time that saving takes.
        discard: Removes a file that was not published; does nothing for one that was.
    """

    path: Path
    sha256: str
    publish: Callable[[], None]
    discard: Callable[[], None]


def begin_sealed(obj: dict[str, Any], folder: Path, name: Callable[[str], str]) -> Unpublished:
    """Write a sealed file like `save_sealed`, but for making it durable and visible.

    Args:
        obj: Tensors and primitives only; may change as soon as this returns.
        folder: Where to write.
        name: Function from the file's sha256 to its name.
    """
    content = inspect(obj)
    problem = content.problem if type(obj) is dict else f"expected a dict, got {type(obj)}"
    if problem:
        raise _not_saved(folder, problem)
    with contextlib.ExitStack() as stack:
        file, temporary = stack.enter_context(_temporary(folder))
        written = _write_archive(obj, file)
        _read_back_once(content, file, folder)
        sha256 = _append_seal(file, written)
        held = stack.pop_all()
    path = folder / name(sha256)

    def publish() -> None:
        with held:
            _publish(file, temporary, path)

    return Unpublished(path, sha256, publish, held.close)


def atomic_write_bytes(path: Path, data: bytes, durable: bool = True) -> None:
    """Replace `path` by `data` in one step.

    Args:
        path: The file; its folder must exist.
        data: All of its new bytes.
        durable: Whether to wait until the disk has it (it then survives a power cut, not just a
            kill).
    """
    path = Path(path)
    with _temporary(path.parent) as (file, temporary):
        _write_all(file.fileno(), data)
        if durable:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    if durable:
        _sync_folder(path.parent)


def atomic_write_text(path: Path, text: str, durable: bool = True) -> None:
    """Replace `path` by `text` in UTF-8, as `atomic_write_bytes` does."""
    atomic_write_bytes(path, text.encode(), durable)


def remove_temporaries(folder: Path) -> None:
    """Remove what killed writers left in `folder`; call it only where no other writer is."""
    for path in Path(folder).glob(f"{TEMPORARY_PREFIX}*"):
        with contextlib.suppress(OSError):
            path.unlink()


@contextlib.contextmanager
def _temporary(folder: Path) -> Iterator[tuple[BinaryIO, Path]]:
    """Open a new file that no reader matches; it is removed unless it was renamed."""
    # `tempfile` would make it readable by its owner only, and `random` would disturb the run's
    # random streams.
    path = folder / f"{TEMPORARY_PREFIX}{os.urandom(8).hex()}"
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0)
    descriptor = os.open(path, flags, 0o666)
    try:
        with open(descriptor, "rb+", buffering=0, closefd=True) as file:
            yield file, path  # type: ignore[misc]  # a raw file has all that is used here
    finally:
        with contextlib.suppress(OSError):
            path.unlink()


def _not_saved(folder: Path, problem: object) -> CheckpointError:
    """Return the error for content that could be written and not loaded."""
    return CheckpointError(f"{folder}: not saved, since it could not be loaded: {problem}")


class _Recorder:
    """What `torch.save` writes to: passes bytes on, hashes them and keeps the first error.

    An exception inside `write` would unwind through torch's C++ writer, which tries to write again
    and hides the cause.

    Attributes:
        sha256: Of what was written but for the last two bytes, where an archive's comment begins.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.error: OSError | None = None
        self.sha256 = hashlib.sha256()
        self._held = b""

    def write(self, data: memoryview) -> int:
        """Write all of `data`, or nothing any more after the first error."""
        if self.error is None:
            try:
                _write_all(self.descriptor, data)
                self._hash(memoryview(data).cast("B"))
            except OSError as error:
                self.error = error
            kill_point("save:mid_write")
        return len(data)

    def _hash(self, data: memoryview) -> None:
        if len(data) < 2:
            data, self._held = memoryview(self._held + data), b""
        self.sha256.update(self._held)
        self.sha256.update(data[:-2])
        self._held = bytes(data[-2:])

    def flush(self) -> None:
        """Do nothing: the file has no buffer."""


def _write_archive(obj: dict[str, Any], file: BinaryIO) -> Any:
    """Write the unsealed archive; returns the running sha256 of all but its last two bytes."""
    kill_point("save:before_write")
    recorder = _Recorder(file.fileno())
    torch.save(obj, recorder)  # type: ignore[arg-type]  # it needs `write` and `flush` only
    if recorder.error is not None:
        raise recorder.error
    return recorder.sha256


def _read_back_once(content: Content, file: BinaryIO, folder: Path) -> None:
    """Check that what torch wrote can be read, once in a process for what holds the same kinds.

    A torch that writes something new is noticed now, not when the file is needed. Its form depends
    on the kinds of values, which `inspect` has found allowed, not on the values; reading it back
    takes as long as all the rest of saving a small checkpoint.
    """
    kinds = frozenset(content.kinds)
    if kinds in _kinds_read_back and content.size <= _SMALL:
        return
    try:
        check_archive(file, file.seek(0, os.SEEK_END))
    except ForbiddenContent as error:
        raise _not_saved(folder, error) from error
    _kinds_read_back.add(kinds)


def _append_seal(file: BinaryIO, sha256: Any) -> str:
    """Turn the archive's empty comment into the seal; returns the sha256 in hexadecimal digits."""
    comment = struct.pack("<H", SEAL_BYTES) + SEAL_PREFIX
    file.seek(-2, os.SEEK_END)
    sha256.update(comment)
    _write_all(file.fileno(), comment + sha256.digest())
    kill_point("save:after_write")
    return sha256.hexdigest()


def _publish(file: BinaryIO, temporary: Path, path: Path) -> None:
    """Make the finished temporary file durable and give it its name."""
    os.fsync(file.fileno())
    kill_point("save:after_fsync")
    os.replace(temporary, path)
    kill_point("save:after_rename")
    _sync_folder(path.parent)


def _write_all(descriptor: int, data: bytes | memoryview) -> None:
    """Write every byte; a single call may write less."""
    view = memoryview(data)
    while view:
        written = os.write(descriptor, view)
        if written == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        view = view[written:]


def _sync_folder(folder: Path) -> None:
    """Wait until the disk knows the new name."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def load_sealed(
    path: Path,
    map_location: Any = "cpu",
    sha256: str | None = None,
) -> dict[str, Any]:
    """Verify and read a sealed file; nothing is loaded from one that is damaged or foreign.

    Args:
        path: The file; a symbolic link to a regular file is followed.
        map_location: Where the tensors go, as in `torch.load`.
        sha256: The digest that it must have, for a file that another one refers to.

    Raises:
        CheckpointError: One line with the file and the reason.
    """
    with _open_regular(path) as (file, size):
        found = _verified_digest(path, file, size)
        if sha256 is not None and found != sha256:
            raise CheckpointError(f"{path}: is not the file referred to (its sha256 differs)")
        try:
            check_archive(file, size)
            file.seek(0)
            loaded = torch.load(file, map_location=map_location, weights_only=True)
        except ForbiddenContent as error:
            raise CheckpointError(f"{path}: refused: {_one_line(error)}") from error
        except Exception as error:  # whatever torch raises, the user gets one line
            raise CheckpointError(f"{path}: cannot be loaded: {_one_line(error)}") from error
    problem = why_not_plain(loaded) if type(loaded) is dict else "it holds no dictionary"
    if problem:
        raise CheckpointError(f"{path}: refused: {problem}")
    return loaded


def verify_seal(path: Path) -> str:
    """Return the sha256 of a sealed file after comparing it with the file's bytes.

    Raises:
        CheckpointError: The file is missing, not regular, unsealed or damaged.
    """
    with _open_regular(path) as (file, size):
        return _verified_digest(path, file, size)


def is_sealed(path: Path) -> bool:
    """Return whether `path` is a regular file that ends in a seal; does not verify it."""
    try:
        with _open_regular(path) as (file, size):
            return _read_seal(file, size) is not None
    except CheckpointError:
        return False


@contextlib.contextmanager
def _open_regular(path: Path) -> Iterator[tuple[BinaryIO, int]]:
    """Open a regular file and yield it with its size.

    It is opened once for all checks, so that what is loaded is what was verified.
    """
    try:
        # Opening a FIFO would wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: {_why_not_opened(Path(path), error)}") from error
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise CheckpointError(f"{path}: is not a regular file")
    with open(descriptor, "rb") as file:
        yield file, status.st_size


def _why_not_opened(path: Path, error: Exception) -> str:
    """Return the reason for a failed `open` in a few words."""
    if isinstance(error, FileNotFoundError):
        if path.is_symlink():
            return f"is a link to {os.readlink(path)!r}, which does not exist"
        return "no such file"
    return _one_line(getattr(error, "strerror", None) or error)


def _verified_digest(path: Path, file: BinaryIO, size: int) -> str:
    """Return the hexadecimal digest of an open file whose seal holds."""
    if size == 0:
        raise CheckpointError(f"{path}: is empty")
    try:
        sealed = _read_seal(file, size)
        if sealed is None:
            raise CheckpointError(f"{path}: {_why_unsealed(file, size)}")
        digest = _digest(file, size - len(sealed))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {_one_line(error)}") from error
    if digest != sealed:
        raise CheckpointError(f"{path}: is damaged (its sha256 differs from its seal)")
    return digest.hex()


def _read_seal(file: BinaryIO, size: int) -> bytes | None:
    """Return the digest in the archive's comment, or None where there is no such comment."""
    length = _END_RECORD_BYTES + SEAL_BYTES
    if size < length:
        return None
    file.seek(size - length)
    tail = file.read(length)
    comment = struct.pack("<H", SEAL_BYTES) + SEAL_PREFIX
    if not tail.startswith(_END_RECORD) or tail[20 : 20 + len(comment)] != comment:
        return None
    return tail[20 + len(comment) :]


def _why_unsealed(file: BinaryIO, size: int) -> str:
    """Tell a checkpoint of somebody else from a damaged one of ours."""
    file.seek(max(0, size - _END_RECORD_BYTES))
    if file.read(4) == _END_RECORD:
        return "was not written by lightning_rl (it has no seal)"
    return "is damaged or no checkpoint (it does not end in a seal)"


def _digest(file: BinaryIO, length: int) -> bytes:
    """Return the sha256 of the first `length` bytes and leave the position behind them."""
    file.seek(0)
    sha256 = hashlib.sha256()
    while length > 0:
        block = file.read(min(_BLOCK_BYTES, length))
        if not block:
            break
        sha256.update(block)
        length -= len(block)
    return sha256.digest()


def _one_line(error: object) -> str:
    """Return the first line of a message, cut to a readable length."""
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
