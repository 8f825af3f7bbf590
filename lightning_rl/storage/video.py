"""MP4 files, written frame by frame and visible to readers only when they are whole."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import subprocess
import tempfile
from pathlib import Path
from typing import IO, Any

import numpy as np

from lightning_rl.errors import ConfigError
from lightning_rl.storage.sealed import TEMPORARY_PREFIX
from lightning_rl.types import Array


def check_video_packages() -> None:
    """Refuse at once what would fail at the first frame.

    Raises:
        ConfigError: The extra `video` is not installed.
    """
    if importlib.util.find_spec("imageio_ffmpeg") is None:
        raise ConfigError("a video needs imageio-ffmpeg: pip install 'lightning-rl[video]'")


class VideoFile:
    """An MP4 file (H.264), for use as a context manager.

    Frames go to a hidden file beside `path`, which takes its name when the block ends well and is
    removed when it does not. H.264 knows even sizes only: an odd one gets its last row or column
    twice.

    Attributes:
        frames: Frames written.

    Args:
        path: The file, replaced when it exists; its folder is made.
        fps: Frames per second, above 0.

    Raises:
        ConfigError: The extra `video` is not installed.
    """

    def __init__(self, path: str | Path, fps: float) -> None:
        check_video_packages()
        self.path, self.fps = Path(path), float(fps)
        self.frames = 0
        self._shape: tuple[int, ...] | None = None
        self._encoder: subprocess.Popen[bytes] | None = None
        self._messages: IO[bytes] | None = None
        name = f"{TEMPORARY_PREFIX}{os.getpid()}-{self.path.stem}.mp4"
        self._temporary = self.path.with_name(name)

    def add(self, frame: Array) -> None:
        """Append a frame.

        Args:
            frame: `(H, W, 3)` uint8, all of one size.

        Raises:
            ConfigError: It is something else, or the file cannot be written.
        """
        frame = np.asarray(frame)
        expected = self._shape or ("H", "W", 3)
        if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8 or not frame.size:
            raise ConfigError(
                f"expected frames {expected} of uint8, received {frame.shape} of {frame.dtype}"
            )
        if self._shape is None:
            self._encoder = self._start(frame)
            self._shape = frame.shape
        elif frame.shape != self._shape:
            raise ConfigError(f"expected frames {expected} as before, received {frame.shape}")
        pipe: Any = self._encoder.stdin if self._encoder else None
        try:
            pipe.write(_even(frame).data)
        except OSError as error:
            raise self._failed(self._end() or str(error)) from error
        self.frames += 1

    def close(self) -> None:
        """Finish the file and give it its name; without a frame there is none.

        Raises:
            ConfigError: It could not be written.
        """
        if self._encoder is None:
            return
        reason = self._end()
        if reason is not None:
            raise self._failed(reason)
        try:
            os.replace(self._temporary, self.path)
        except OSError as error:
            raise self._failed(error.strerror or str(error)) from error

    def discard(self) -> None:
        """Remove what was written so far."""
        self._end()
        with contextlib.suppress(OSError):  # the error that led here is the one to tell
            self._temporary.unlink(missing_ok=True)

    def __enter__(self) -> VideoFile:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()

    def _start(self, frame: Array) -> subprocess.Popen[bytes]:
        import imageio_ffmpeg

        height, width = _even(frame).shape[:2]
        raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}"]
        coded = ["-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", "20", "-preset", "veryfast"]
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._messages = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `_end`
            return subprocess.Popen(
                [
                    imageio_ffmpeg.get_ffmpeg_exe(),
                    *("-y", "-loglevel", "error"),
                    *(*raw, "-r", f"{self.fps:g}", "-i", "-"),
                    *(*coded, "-movflags", "+faststart"),
                    f"file:{self._temporary}",
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=self._messages,
                start_new_session=True,  # Ctrl-C is ours to handle; it ends when the pipe does
            )
        except (OSError, RuntimeError) as error:
            self._end()
            raise self._failed(" ".join(str(error).split())) from error

    def _end(self) -> str | None:
        """Wait for the encoder to end; return what it complained about, None when all is well."""
        encoder, self._encoder = self._encoder, None
        messages, self._messages = self._messages, None
        reason = None
        if encoder is not None:
            with contextlib.suppress(OSError):
                encoder.stdin.close()  # type: ignore[union-attr]
            if encoder.wait():
                reason = f"ffmpeg ended with code {encoder.returncode}"
        if messages is not None:
            messages.seek(0)
            lines = messages.read(10_000).decode(errors="replace").split("\n")
            messages.close()
            if reason is not None and lines[0]:
                reason = lines[0].strip()
        return reason

    def _failed(self, reason: str) -> ConfigError:
        self.discard()
        return ConfigError(f"cannot write {self.path}: {reason}")


def _even(frame: Array) -> Array:
    """Return the frame with even height and width."""
    height, width = frame.shape[:2]
    if height % 2 or width % 2:
        frame = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    return np.ascontiguousarray(frame)
