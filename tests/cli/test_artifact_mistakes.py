"""Users' mistakes with `record`, `export` and `runs`: one line and exit code 2; 1 for bad files."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lightning_rl.cli.main import main

pytest.importorskip("imageio_ffmpeg")
Run = Callable[..., Any]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two short runs, one of PPO and one of DQN."""
    folder = tmp_path_factory.mktemp("trained")
    before = Path.cwd()
    os.chdir(folder)
    try:
        quiet = ["--trainer.logger=false", "--trainer.enable_progress_bar=false"]
        small = ["--model.env=FrozenLake-v1", "--model.total_env_steps=64", *quiet]
        small += ["--model.hidden_sizes=[8]", "--trainer.limit_val_batches=0"]
        size = ["--model.num_steps=32", "--run.name=one", "--run.experiment=e"]
        assert main(["fit", "--model=ppo", *size, *small]) == 0
        assert main(["fit", "--model=dqn", "--run.name=two", "--run.experiment=e", *small]) == 0
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def runs(trained: Path, run: Run) -> Path:
    """A copy of these runs in the present directory, beside things that are no runs."""
    shutil.copytree(trained / "logs", "logs", symlinks=True)
    Path("empty").mkdir()
    Path("file").write_text("text")
    return Path("logs/e")


ONE = "--ckpt_path=logs/e/one"
MISTAKES = {
    # No checkpoint there.
    "record --ckpt_path=logs/e/three": "logs/e/three: no such checkpoint",
    "export --ckpt_path=logs/e/three": "logs/e/three: no such checkpoint",
    "record --ckpt_path=empty": "empty",
    "export --ckpt_path=empty": "empty",
    "export --ckpt_path=best": "best",
    "record --replay=logs/e/one": "logs/e/one",
    "record --replay=file": "file",
    # Where nothing can be written.
    f"record {ONE} --output=file/film.mp4": "file",
    f"export {ONE} --format=torch --output=file/policy.pt2": "file",
    f"record {ONE} --output=/proc/film.mp4": "/proc",
    f"export {ONE} --format=torch --output=/proc/policy.pt2": "/proc",
    # Of another algorithm than the checkpoint's.
    f"record {ONE} --model.target_update_interval=3": "target_update_interval",
    # Options and values.
    f"record {ONE} --outptu=x": "did you mean '--output'?",
    f"record {ONE} --episodes=many": "--episodes: expected a whole number",
    f"export {ONE} --outptu=x": "did you mean 'output'?",
    f"export {ONE} --format=": "--format",
    f"export {ONE} --model.env=Acrobot-v1": "--model.env",
    "export logs/e/one": "logs/e/one",
    # Runs.
    "runs show logs/e/three": "logs/e/three",
    "runs show empty": "empty",
    "runs show e/onr": "no run 'e/onr' in logs; did you mean 'one'?",
    "runs compare e/one e/twoo": "did you mean 'two'?",
    "runs compare e/one e/two --metrc=x": "did you mean",
    "runs query e/one --metric=episode/rewrd": "did you mean 'episode/reward'?",
    "runs query e/three": "e/three",
    "runs tail e/three": "e/three",
    "runs prune elsewhere": "elsewhere",
    "runs prune --older_than=x --yes": "--older_than",
    "runs list --sort=rewards": "--sort",
    "runs list file": "file",
    "runs compre e/one e/two": "did you mean 'compare'?",
}


def files() -> list[Path]:
    """Return all files, without SQLite's index of its log, which readers make too."""
    return sorted(path for path in Path().rglob("*") if not path.name.endswith(("-shm", "-wal")))


def damage(file: Path, how: str) -> None:
    """Spoil a checkpoint."""
    content = file.read_bytes()
    if how == "cut":
        file.write_bytes(content[: len(content) // 2])
    elif how == "empty":
        file.write_bytes(b"")
    elif how == "flipped":
        file.write_bytes(content[:500] + bytes([content[500] ^ 4]) + content[501:])
    else:
        file.write_text("not a checkpoint at all")


@pytest.mark.parametrize("how", ["cut", "empty", "flipped", "text"])
@pytest.mark.parametrize("command", ["record", "export --format=torch"])
def test_a_damaged_checkpoint_is_one_line(command: str, how: str, runs: Path, run: Run) -> None:
    file = min((runs / "one" / "checkpoints").glob("env_steps=*.ckpt"))
    damage(file, how)
    before = files()
    outcome = run(*command.split(), f"--ckpt_path={file}")
    assert outcome.code == 1
    assert file.name in outcome.message
    assert files() == before


@pytest.mark.parametrize("command", ["record", "test --episodes=1", "predict"])
def test_another_algorithm_is_one_line(command: str, runs: Path, run: Run) -> None:
    before = files()
    outcome = run(*f"{command} {ONE} --model=dqn".split())
    assert outcome.code == 2
    assert outcome.message.startswith("--model DQN: ")
    assert outcome.message.endswith(" is one of PPO; leave --model out")
    assert files() == before


@pytest.mark.parametrize("words", MISTAKES)
def test_a_users_mistake_is_one_line_and_changes_nothing(words: str, runs: Path, run: Run) -> None:
    before = files()
    outcome = run(*words.split())
    assert outcome.code == 2, outcome
    assert MISTAKES[words] in outcome.message
    assert files() == before
