"""Create `.venvs/<peer>` for every peer of the speed benchmark, or for those named.

    python -m benchmarks.speed.make_envs [sb3 sbx tianshou cleanrl] [--index URL]

A peer that cannot be installed is named at the end; the others are not affected.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import venv
from pathlib import Path

from benchmarks.speed.libraries import ENVIRONMENTS, VENVS, Environment


def install_commands(python: Path, environment: Environment, index: str | None) -> list[list[str]]:
    """Return the pip commands that fill an environment, then the one that tries it."""
    source = ["--extra-index-url", index] if index else []
    pip = [str(python), "-m", "pip", "install", "--quiet", *source]
    commands = [[*pip, *requirements] for requirements in environment.requirements]
    return [*commands, [str(python), "-c", f"import {environment.import_name}"]]


def make(name: str, environment: Environment, index: str | None = None) -> str | None:
    """Create and fill one environment; return None, or one line that says what failed."""
    folder = VENVS / name
    venv.create(folder, with_pip=True)
    for command in install_commands(folder / "bin" / "python", environment, index):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if line.strip()]
            return f"{' '.join(command[1:])}: {lines[-1] if lines else 'no message'}"
    return None


def main(arguments: list[str] | None = None) -> int:
    """Make the environments asked for; return 1 when one failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", help=f"any of: {' '.join(ENVIRONMENTS)} (default: all)")
    parser.add_argument(
        "--index",
        help="further package index; https://download.pytorch.org/whl/cpu has torch without CUDA",
    )
    options = parser.parse_args(arguments)
    unknown = set(options.names) - set(ENVIRONMENTS)
    if unknown:
        parser.error(f"unknown peer {sorted(unknown)[0]!r}; known: {', '.join(ENVIRONMENTS)}")
    failures = 0
    for name in options.names or ENVIRONMENTS:
        print(f"{name}: installing into {VENVS / name}", flush=True)
        problem = make(name, ENVIRONMENTS[name], options.index)
        print(f"{name}: ready" if problem is None else f"{name}: FAILED: {problem}", flush=True)
        failures += problem is not None
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
