"""MP4 files: what is written is what was shown, whole or not at all."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightning_rl.errors import ConfigError
from lightning_rl.storage import video
from lightning_rl.storage.video import VideoFile

BLACK = np.zeros((16, 16, 3), np.uint8)

imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg")


def read(path: Path) -> tuple[tuple[int, int], float, np.ndarray]:
    """Return the file's size, its frames per second and its frames `(n, H, W, 3)`."""
    ffmpeg = imageio_ffmpeg.get_ffmpeg_exe()
    said = subprocess.run([ffmpeg, "-i", str(path)], capture_output=True, text=True).stderr
    width, height = (int(part) for part in re.search(r" (\d+)x(\d+)[, ]", said).groups())
    fps = float(re.search(r"([\d.]+) fps", said).group(1))
    raw = ["-v", "error", "-i", str(path), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    data = subprocess.run([ffmpeg, *raw], capture_output=True, check=True).stdout
    return (width, height), fps, np.frombuffer(data, np.uint8).reshape(-1, height, width, 3)


def squares(count: int, height: int, width: int) -> np.ndarray:
    """A white square that moves 8 pixels a frame over a red ground."""
    frames = np.zeros((count, height, width, 3), np.uint8)
    frames[..., 0] = 200
    for index in range(count):
        frames[index, 8:24, 8 * index : 8 * index + 16] = 255
    return frames


@pytest.mark.parametrize(("height", "width"), [(48, 96), (47, 95), (210, 160)])
def test_frames_come_back_in_their_size_order_and_colour(
    height: int, width: int, tmp_path: Path
) -> None:
    frames = squares(7, height, width)
    with VideoFile(tmp_path / "new" / "film.mp4", fps=25) as file:
        for frame in frames:
            file.add(frame)
    assert file.frames == 7
    size, fps, found = read(file.path)
    assert size == (width + width % 2, height + height % 2)
    assert fps == 25
    assert len(found) == 7
    difference = np.abs(found[:, :height, :width].astype(int) - frames)
    assert difference.mean() < 8.0  # H.264 is lossy at edges
    assert [path.name for path in file.path.parent.iterdir()] == ["film.mp4"]


def film(path: Path, frames: Iterable[np.ndarray], error: Exception | None = None) -> None:
    with VideoFile(path, 30) as file:
        for frame in frames:
            file.add(frame)
        if error is not None:
            raise error


def test_a_broken_film_leaves_nothing_and_the_old_one_stays(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    path.write_text("the film before")
    with pytest.raises(RuntimeError, match="mid-film"):
        film(path, [BLACK], error=RuntimeError("mid-film"))
    assert path.read_text() == "the film before"
    assert len(list(tmp_path.iterdir())) == 1


def test_without_a_frame_there_is_no_file(tmp_path: Path) -> None:
    with VideoFile(tmp_path / "film.mp4", 30):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "frame",
    [
        np.zeros((16, 16), np.uint8),
        np.zeros((16, 16, 4), np.uint8),
        np.zeros((16, 16, 3), np.float32),
        np.zeros((0, 16, 3), np.uint8),
        np.zeros((18, 16, 3), np.uint8),
    ],
)
def test_what_is_no_frame_is_refused(frame: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected frames"):
        film(tmp_path / "film.mp4", [BLACK, frame])
    assert not list(tmp_path.iterdir())


def test_mistakes_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"cannot write .*Not a directory|cannot write .*exists"):
        film(tmp_path / "file" / "film.mp4", [BLACK])
    monkeypatch.setattr(video.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"imageio-ffmpeg: pip install 'lightning-rl\[video\]'"):
        VideoFile(tmp_path / "film.mp4", 30)


def test_a_writer_that_dies_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = []
    popen = subprocess.Popen

    def remember(*args: Any, **kwargs: Any) -> Any:
        started.append(popen(*args, **kwargs))
        return started[-1]

    def frames() -> Any:
        for index in range(100):
            yield np.zeros((480, 640, 3), np.uint8)
            if index == 0:
                started[-1].kill()
                started[-1].wait()

    monkeypatch.setattr(subprocess, "Popen", remember)
    with pytest.raises(ConfigError, match=r"cannot write .*film\.mp4"):
        film(tmp_path / "film.mp4", frames())
