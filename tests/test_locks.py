"""What CI installs is locked by hash, and the lock says the same as the requirements."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
LOCKS = {path.stem: path.read_text(encoding="utf-8") for path in (ROOT / "locks").glob("*.txt")}
ENTRY = re.compile(
    r"^(?P<wanted>[a-z].*?)(?P<hashes>(?: \\\n    --hash=sha256:[0-9a-f]{64})+)\n", re.MULTILINE
)
LINUX = {"sys_platform": "linux", "platform_machine": "x86_64", "platform_system": "Linux"}
PYTHONS = ["3.10.16", "3.11.7", "3.12.9", "3.13.3"]


def load_writer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("locks_write", ROOT / "locks" / "write.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


WRITER = load_writer()
PROJECT = WRITER.tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def entries(*locks: str) -> list[Requirement]:
    return [Requirement(found["wanted"]) for lock in locks for found in ENTRY.finditer(LOCKS[lock])]


def versions(requirements: list[Requirement], python: str) -> dict[str, list[str]]:
    """What would be installed on Linux with this Python, by name."""
    environment = LINUX | {
        "python_full_version": python,
        "python_version": python.rsplit(".", 1)[0],
    }
    found: dict[str, list[str]] = {}
    for wanted in requirements:
        if wanted.marker is None or wanted.marker.evaluate(environment):
            pin = str(wanted.specifier).removeprefix("==")
            found.setdefault(canonicalize_name(wanted.name), []).append(pin)
    return found


def constraints() -> list[Requirement]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if not line.startswith("#")]


@pytest.mark.parametrize("lock", LOCKS)
def test_every_entry_is_a_version_with_hashes_and_names_no_host(lock: str) -> None:
    header, rest = LOCKS[lock].split("\n", 1)
    assert header.startswith("# Written by `make lock`")
    assert not ENTRY.sub("", rest), "something in it is no pinned requirement with hashes"
    assert all(re.fullmatch(r"==[\w.+]+", str(wanted.specifier)) for wanted in entries(lock))
    assert "://" not in rest


@pytest.mark.parametrize("python", PYTHONS)
def test_the_lock_has_every_pin_in_the_same_version_and_each_package_once(python: str) -> None:
    locked = versions(entries("wheels", "sources", "cuda"), python)
    pinned = versions(constraints(), python)
    assert len(pinned) > 150
    assert {name: locked.get(name) for name in pinned} == pinned
    assert not {name: several for name, several in locked.items() if len(several) > 1}


@pytest.mark.parametrize("python", PYTHONS)
def test_the_lock_answers_every_requirement_of_the_project(python: str) -> None:
    locked = versions(entries("wheels", "sources"), python)
    extras = PROJECT["optional-dependencies"]
    listed = re.findall(r"[a-z0-9]+", extras["all"][0].split("[", 1)[1])
    assert {"all", *listed} == set(extras)
    wanted = [*PROJECT["dependencies"], *(name for extra in listed for name in extras[extra])]
    wrong = [
        text
        for text in map(Requirement, wanted)
        if not text.specifier.contains(locked[canonicalize_name(text.name)][0])
    ]
    assert not wrong, "run `make lock`"


def test_torch_is_one_version_in_all_its_builds() -> None:
    (build,) = entries("cpu")
    (published,) = [wanted for wanted in entries("wheels") if wanted.name == "torch"]
    assert str(build.specifier) == f"{published.specifier}+cpu"


@pytest.mark.parametrize(
    ("name", "safe", "unsafe"),
    [
        ("torch", "2.10", "2.9.1"),
        ("lightning", "2.6.6", "2.6.3"),
        ("pytorch-lightning", "2.6.6", "2.6.2"),
        ("mlflow", "3.11", "3.10.1"),
        ("wandb", "0.29", "0.28.9"),
    ],
)
def test_versions_with_known_holes_are_excluded(name: str, safe: str, unsafe: str) -> None:
    extras = PROJECT["optional-dependencies"]
    direct = map(Requirement, [*PROJECT["dependencies"], *extras["mlflow"], *extras["wandb"]])
    (specifier,) = [wanted.specifier for wanted in direct if wanted.name == name]
    assert specifier.contains(safe)
    assert not specifier.contains(unsafe)


def test_ci_installs_by_hash_and_developers_by_version() -> None:
    make = shutil.which("make")
    assert make is not None

    def commands(ci: str) -> list[str]:
        shown = subprocess.run(
            [make, "--dry-run", "--always-make", "setup"],
            cwd=ROOT,
            env={name: value for name, value in os.environ.items() if name != "HASHED"}
            | {"CI": ci},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        return [line.strip() for line in shown.splitlines() if "pip install" in line]

    hashed, pinned = commands("true"), commands("")
    own = [line for line in hashed if line.endswith("-e .")]
    probes = [line for line in hashed if "--dry-run" in line]
    assert len(own) == len(probes) == 1
    assert "--no-deps --no-build-isolation" in own[0]
    others = [line for line in hashed if line not in own + probes]
    assert len(others) == 4
    assert all("--require-hashes --no-deps" in line for line in others)
    assert len(pinned) == 2
    assert all("-c constraints.txt" in line for line in pinned)


def test_the_writer_takes_wheels_and_leaves_their_sources() -> None:
    def file(letter: str) -> dict[str, dict[str, str]]:
        return {"hashes": {"sha256": letter * 64}}

    wheel = {"name": "a", "version": "1", "sdist": file("1"), "wheels": [file("3"), file("2")]}
    source = {"name": "b", "version": "2", "sdist": file("4"), "marker": "os_name == 'nt'"}
    library = {"name": "nvidia-nccl-cu13", "version": "3", "wheels": [file("5")]}
    assert [WRITER.kind(package) for package in (wheel, source, library)] == [
        "wheels",
        "sources",
        "cuda",
    ]
    assert WRITER.entry(wheel, WRITER.published(wheel)) == (
        f"a==1 \\\n    --hash=sha256:{'2' * 64} \\\n    --hash=sha256:{'3' * 64}\n"
    )
    assert WRITER.entry(source, WRITER.published(source)) == (
        f"b==2 ; os_name == 'nt' \\\n    --hash=sha256:{'4' * 64}\n"
    )
