"""An installed wheel works outside the checkout: its defaults and shipped configs travel in it."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "configs").rglob("*.yaml"))

pytestmark = pytest.mark.system


def python(*arguments: str | Path, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the source distribution and, from that, the wheel."""
    folder = tmp_path_factory.mktemp("dist")
    python("-m", "build", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("site")
    options = ("--quiet", "--no-deps", "--no-index", "--target", target)
    python("-m", "pip", "install", *options, wheel, cwd=target)
    return target


def test_the_wheel_holds_the_package_and_the_configs_only(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert CONFIGS
    assert {f"lightning_rl/{name}" for name in CONFIGS} <= set(names)
    assert "lightning_rl/py.typed" in names
    assert {name.split("/")[0].split("-")[0] for name in names} == {"lightning_rl"}
    assert not [name for name in names if "test" in name.lower()]


def test_it_trains_outside_the_checkout(installed: Path, tmp_path: Path) -> None:
    where = python(
        "-c",
        "import lightning_rl; print(lightning_rl.__file__)",
        cwd=tmp_path,
        PYTHONPATH=str(installed),
    )
    assert where.startswith(str(installed)), "the checkout was tested instead of the wheel"

    shown = python("-m", "lightning_rl", "list", "configs", cwd=tmp_path, PYTHONPATH=str(installed))
    assert "ppo/cartpole" in shown

    command = ("-m", "lightning_rl", "fit", "--config", "ppo/cartpole", "--run.name", "first")
    python(*command, "--model.total_env_steps", "2048", cwd=tmp_path, PYTHONPATH=str(installed))
    assert list(tmp_path.glob("logs/*/first/checkpoints/last.ckpt"))
