"""Checkpoints made by an attacker, at every door of the command line: nothing in them runs.

The reader's own tests have the whole corpus; here a part of it, and sealed files whose
hyperparameters name code.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lightning_rl import PPO
from lightning_rl.cli.main import main
from lightning_rl.errors import CheckpointError, ConfigError
from lightning_rl.storage.sealed import load_sealed, save_sealed
from tests.storage.crafted import REFUSED, seal

Run = Callable[..., Any]
SHOWN = ["os.system", "eval", "torch.load", "legacy torch", "legacy tar", "zip slip", "zip bomb"]
SPIED: list[str] = []
WATCHING = False
EVENTS = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "socket.connect")
SMALL = ["--model.total_env_steps=256", "--model.hidden_sizes=[8]", "--trainer.eval_episodes=1"]


def _spy(event: str, arguments: tuple[Any, ...]) -> None:
    if WATCHING and (event in EVENTS or (event == "import" and arguments[0] == "evil")):
        SPIED.append(f"{event} {arguments!r:.200}")


@pytest.fixture(scope="module", autouse=True)
def _audit_hook() -> None:
    sys.addaudithook(_spy)  # cannot be removed, only switched off


@pytest.fixture
def canary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What was run or imported; a module `evil` lies ready on the path."""
    global WATCHING
    folder = tmp_path.parent / f"{tmp_path.name}_evil"
    folder.mkdir()
    (folder / "evil.py").write_text("raise RuntimeError('imported')\n")
    monkeypatch.syspath_prepend(folder)
    SPIED.clear()
    WATCHING = True
    yield SPIED
    WATCHING = False


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    root = tmp_path_factory.mktemp("trained")
    quiet = ["--trainer.logger=false", "--trainer.enable_progress_bar=false"]
    words = [f"--run.root={root}", "--run.experiment=e", "--run.name=r"]
    assert main(["fit", *words, *SMALL, *quiet]) == 0
    return root / "e" / "r"


def check_refused(payload: str, run: Run, trained: Path, spied: list[str]) -> None:
    """Put the file in the place of a run's last checkpoint, and give it to every command."""
    directory = Path("run").absolute()
    shutil.copytree(trained, directory, symlinks=True)
    file = directory / "checkpoints" / "last.ckpt"
    file.unlink()
    file.write_bytes(seal(REFUSED[payload]))
    small = [*SMALL, "--trainer.logger=false", "--run.name=other"]
    for command in (
        ["test", "--ckpt_path", str(file), "--episodes=1"],
        ["predict", "--ckpt_path", str(file), "--episodes=1"],
        ["fit", "--ckpt_path", str(file), *small],
        ["fit", "--init_from", str(file), *small],
        ["resume", str(file), "--model.total_env_steps=512"],
    ):
        outcome = run(*command)
        assert outcome.code == 1, command
        assert "last.ckpt: " in outcome.message
    assert spied == []
    assert not Path("/tmp/evil").exists()


@pytest.mark.parametrize("payload", SHOWN)
def test_a_crafted_file_runs_nothing_at_any_door(
    payload: str, run: Run, trained: Path, canary: list[str]
) -> None:
    check_refused(payload, run, trained, canary)


@pytest.mark.slow
@pytest.mark.parametrize("payload", sorted(set(REFUSED) - set(SHOWN)))
def test_every_crafted_file_runs_nothing_at_any_door(
    payload: str, run: Run, trained: Path, canary: list[str]
) -> None:
    check_refused(payload, run, trained, canary)


HYPERPARAMETERS: dict[str, dict[str, Any]] = {
    "a class path that is a function": {"class_path": "os.system"},
    "a class path of a foreign module": {"class_path": "evil.Agent"},
    "a foreign network": {"actor": {"class_path": "evil.Net", "init_args": {}}},
    "a function as network": {"actor": {"class_path": "os.system", "init_args": {"command": "x"}}},
    "an environment of a foreign module": {"env": {"id": "evil:Id-v0"}},
    "an import for the environment": {"env": {"id": "CartPole-v1", "imports": ["evil"]}},
    "a foreign wrapper": {"env": {"id": "CartPole-v1", "wrappers": ["evil.Wrap"]}},
}


@pytest.mark.parametrize("name", HYPERPARAMETERS)
def test_hyperparameters_that_name_code_are_refused(
    name: str, run: Run, trained: Path, canary: list[str]
) -> None:
    checkpoint = load_sealed(trained / "checkpoints" / "last.ckpt")
    changes = dict(HYPERPARAMETERS[name])
    if "class_path" in changes:
        checkpoint["lightning_rl"]["class_path"] = changes["class_path"]
    else:
        checkpoint["hyper_parameters"].update(changes)
    file = Path("hostile.ckpt").absolute()
    save_sealed(checkpoint, file)
    for command in ("test", "predict"):
        outcome = run(command, "--ckpt_path", str(file), "--episodes=1")
        assert outcome.code in (1, 2)
        assert "allow-list" in outcome.message
    with pytest.raises((CheckpointError, ConfigError), match="allow-list"):
        PPO.load_from_checkpoint(file).env_config.make()
    assert canary == []
