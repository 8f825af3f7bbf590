"""Processes for pieces of work: exit codes, limits, signals, and none that outlives its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from lightning_rl.runs.workers import Workers

SCRIPT = """
import os, signal, sys, time
from pathlib import Path
from lightning_rl.runs.workers import Workers

folder = Path(sys.argv[1])

def work(piece):
    (folder / f"{piece}.pid").write_text(str(os.getpid()))
    if piece == "saves":
        try:
            time.sleep(60)
        except KeyboardInterrupt:
            (folder / "saved").touch()
            raise SystemExit(130)
    time.sleep(60)

workers = Workers(work, 2, lambda piece: folder / f"{piece}.log")
for piece, code in workers.run(sys.argv[2:]):
    print(piece, code, flush=True)
print("stopped by", workers.stopped_by.name)
"""


def end(piece: int) -> None:
    """Exit with a code, or die by a signal."""
    sys.stdout.write(f"piece {piece}\n")
    if piece < 0:
        os.kill(os.getpid(), -piece)
    raise SystemExit(piece)


def test_every_piece_gives_its_exit_code_and_its_output(tmp_path: Path) -> None:
    workers = Workers(end, 2, lambda piece: tmp_path / "out" / f"{piece}.log")
    assert dict(workers.run([0, 3, -signal.SIGKILL, 1])) == {0: 0, 3: 3, -9: -9, 1: 1}
    assert workers.stopped_by is None
    assert (tmp_path / "out" / "3.log").read_text() == "piece 3\n"


def test_a_traceback_goes_to_the_output(tmp_path: Path) -> None:
    def fail(piece: int) -> None:
        raise ZeroDivisionError("out of numbers")

    workers = Workers(fail, 1, lambda _piece: tmp_path / "log")
    assert list(workers.run([1])) == [(1, 1)]
    assert "ZeroDivisionError: out of numbers" in (tmp_path / "log").read_text()


def test_never_more_at_a_time_than_allowed(tmp_path: Path) -> None:
    def note(piece: int) -> None:
        (tmp_path / f"{piece}.begin").touch()
        running = len(list(tmp_path.glob("*.begin"))) - len(list(tmp_path.glob("*.end")))
        time.sleep(0.05)
        (tmp_path / f"{piece}.end").touch()
        raise SystemExit(running)

    codes = dict(Workers(note, 2, lambda _piece: tmp_path / "log").run(range(6)))
    assert set(codes.values()) <= {1, 2}


def test_a_caller_that_stops_asking_takes_its_processes_with_it(tmp_path: Path) -> None:
    def work(piece: int) -> None:
        (tmp_path / str(piece)).write_text(str(os.getpid()))
        time.sleep(60 * piece)

    before = signal.getsignal(signal.SIGTERM)
    running = Workers(work, 2, lambda _piece: tmp_path / "log").run([1, 0])
    assert next(running) == (0, 0)
    pid = int(wait_for(tmp_path / "1"))
    running.close()
    assert not psutil.pid_exists(pid)
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.fixture
def parent(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process with two long pieces of work and one that waits."""
    (tmp_path / "script.py").write_text(SCRIPT)
    process = subprocess.Popen(
        [sys.executable, tmp_path / "script.py", tmp_path, "saves", "sleeps", "waits"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    yield process
    process.kill()
    process.communicate()


@pytest.mark.system
def test_processes_die_with_their_parent(parent: subprocess.Popen[str], tmp_path: Path) -> None:
    pids = [int(wait_for(tmp_path / f"{piece}.pid")) for piece in ("saves", "sleeps")]
    parent.kill()
    parent.wait()
    died = time.monotonic()
    while any(psutil.pid_exists(pid) for pid in pids):
        assert time.monotonic() - died < 2.0
        time.sleep(0.01)


@pytest.mark.system
def test_signals_are_passed_on_and_the_second_one_kills(
    parent: subprocess.Popen[str], tmp_path: Path
) -> None:
    for piece in ("saves", "sleeps"):
        wait_for(tmp_path / f"{piece}.pid")
    parent.send_signal(signal.SIGINT)
    wait_for(tmp_path / "saved", empty=True)
    # `sleeps` was ended by the interrupt as well; nothing new was started.
    output, _ = parent.communicate(timeout=20)
    assert sorted(output.splitlines()) == ["saves 130", "sleeps 1", "stopped by SIGINT"]
    assert not (tmp_path / "waits.pid").exists()


def wait_for(path: Path, empty: bool = False) -> str:
    """Wait for a file to have content and return it."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if path.exists() and (empty or path.read_text()):
            return path.read_text()
        time.sleep(0.01)
    raise TimeoutError(f"{path} never came")
