"""Write the lock files: every distribution that the gate installs, with its sha256 hashes.

`make lock` runs it. uv resolves `pyproject.toml` within `constraints.txt` for
every supported Python and platform at once, and four files come of it, since pip treats them
differently:

- `wheels.txt`: installed from wheels alone, so that no code runs while it is installed;
- `sources.txt`: what is published as source only, built with the build tools of the first;
- `cpu.txt`: torch's smaller build for CPUs, which is taken where pip finds it;
- `cuda.txt`: libraries that its builds for GPUs need and that one does without.

uv does not look where pip finds the build for CPUs. Its hash is that of the file that pip picks
here; those it picked for other versions of Python before are kept.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10; pytest brings it there
    import tomli as tomllib

HERE = Path(__file__).resolve().parent
CUDA = re.compile(r"nvidia-|cuda-|triton$")
HEADER = "# Written by `make lock` from pyproject.toml and constraints.txt.\n"

Package = dict[str, Any]  # an entry of `packages` in a pylock.toml (PEP 751)


def main(uv: str, *pip_options: str) -> None:
    """Resolve, sort and write; `pip_options` say where pip looks for torch besides its index."""
    files: dict[str, list[str]] = {"wheels": [], "sources": [], "cpu": [], "cuda": []}
    for package in resolve(uv):
        files[kind(package)].append(entry(package, published(package)))
        if package["name"] == "torch":
            build = {"name": "torch", "version": f"{package['version']}+cpu"}
            files["cpu"].append(entry(build, cpu_builds(requirement(build), pip_options)))
    for name, entries in files.items():
        (HERE / f"{name}.txt").write_text(HEADER + "".join(entries), encoding="utf-8")


def resolve(uv: str) -> list[Package]:
    """What every extra needs, for Python 3.10 and newer on any platform."""
    inputs = ["pyproject.toml", "--extra", "all", "--constraints", "constraints.txt"]
    options = ["--universal", "--python-version", "3.10", "--no-python-downloads", "--quiet"]
    with tempfile.TemporaryDirectory() as folder:
        lock = Path(folder, "pylock.toml")
        command = [uv, "pip", "compile", *inputs, *options, "--output-file", str(lock)]
        subprocess.run(command, cwd=HERE.parent, check=True, stdout=subprocess.DEVNULL)
        return tomllib.loads(lock.read_text(encoding="utf-8"))["packages"]


def kind(package: Package) -> str:
    """The file that `package` belongs to."""
    if CUDA.match(package["name"]):
        return "cuda"
    return "wheels" if package.get("wheels") else "sources"


def published(package: Package) -> set[str]:
    """The hashes of a package's wheels, or of its source where there is no wheel."""
    files = package.get("wheels") or [package["sdist"]]
    return {file["hashes"]["sha256"] for file in files}


def cpu_builds(wanted: str, pip_options: tuple[str, ...]) -> set[str]:
    """The hashes of the file that pip picks here, and of those that the present lock names."""
    present = HERE / "cpu.txt"
    text = present.read_text(encoding="utf-8") if present.exists() else ""
    before = set(re.findall(r"sha256:([0-9a-f]{64})", text)) if f"{wanted} " in text else set()
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet"]
    command += ["--no-deps", "--report", "-", wanted, *pip_options]
    report = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    file = json.loads(report)["install"][0]["download_info"]["archive_info"]
    return before | {file["hashes"]["sha256"]}


def requirement(package: Package) -> str:
    """`name==version`."""
    return f"{package['name']}=={package['version']}"


def entry(package: Package, hashes: set[str]) -> str:
    """A requirement in the form that `pip install --require-hashes -r` reads."""
    marker = f" ; {package['marker']}" if "marker" in package else ""
    lines = [requirement(package) + marker, *(f"    --hash=sha256:{h}" for h in sorted(hashes))]
    return " \\\n".join(lines) + "\n"


if __name__ == "__main__":
    main(*sys.argv[1:])
