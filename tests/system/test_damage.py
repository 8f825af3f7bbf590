"""Damaged checkpoints are found before anything is loaded; what is good is used, and said."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import pytest

from lightning_rl.storage.sealed import load_sealed
from tests.system.fork_server import Run, finish, metric_rows, record, start_command

pytestmark = pytest.mark.system

OPTIONS = {
    "ppo": ["--model", "PPO", "--model.num_steps=32", "--model.minibatch_size=32"],
    "dqn": [
        *("--model", "DQN", "--model.capacity=200", "--model.learning_starts=50"),
        *("--model.env_steps_per_iteration=50", "--model.train_frequency=10"),
    ],
}


def command(folder: Path, *words: object) -> tuple[int, str]:
    """Run `lightning-rl` and return its exit code and what it printed."""
    out = folder / f"{len(list(folder.glob('*.out')))}.out"
    code = finish(start_command([str(word) for word in words], out))
    return code, out.read_text()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The roots of a PPO and a DQN run of 600 env steps."""
    roots = {}
    for name, options in OPTIONS.items():
        root = roots[name] = tmp_path_factory.mktemp(name)
        words = ["fit", *options, "--model.env=CartPole-v1", "--model.total_env_steps=600"]
        words += ["--run.root", root, "--run.experiment=e", "--run.name=r", "--model.seed=3"]
        words += ["--trainer.logger=false", "--trainer.eval_episodes=2"]
        code, text = command(root, *words)
        assert code == 0, text
    return roots


@pytest.fixture(params=OPTIONS)
def run(request: pytest.FixtureRequest, finished: dict[str, Path], tmp_path: Path) -> Run:
    """A copy of a finished run to be damaged."""
    root = tmp_path / "root"
    shutil.copytree(finished[request.param], root, symlinks=True)
    return Run(str(root), request.param, {})


def numbered(run: Run) -> list[Path]:
    """The numbered checkpoints from the newest on."""
    files = (run.directory / "checkpoints").glob("env_steps=*.ckpt")
    return sorted(files, key=lambda path: -int(path.stem.partition("=")[2]))


def flip_a_bit(path: Path, seed: int = 0) -> None:
    data = bytearray(path.read_bytes())
    bit = random.Random(seed).randrange(len(data) * 8)
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def fingerprint(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def extend(run: Run, target: Path, tmp_path: Path) -> tuple[int, str]:
    return command(tmp_path, "resume", target, "--model.total_env_steps=900")


@pytest.mark.parametrize("damage", [flip_a_bit, truncate])
def test_resume_falls_back_and_says_from_what_to_what(run: Run, damage, tmp_path: Path) -> None:
    newest, second, *_ = numbered(run)
    damage(newest)
    code, text = extend(run, run.directory, tmp_path)
    assert code == 0, text
    assert f"{run.directory / 'checkpoints' / 'last.ckpt'} is passed over" in text
    assert "is damaged" in text
    assert f"using {second.name}" in text
    start = record(run)["attempts"][-1]["start_env_steps"]
    assert start == int(second.stem.partition("=")[2])
    steps = [int(row["step"]) for row in metric_rows(run)]
    assert steps == sorted(steps)
    assert load_sealed(run.directory / "checkpoints/last.ckpt")["lightning_rl"]["env_steps"] >= 900


@pytest.mark.parametrize("damage", [flip_a_bit, truncate, Path.unlink])
def test_a_damaged_replay_segment_spoils_the_checkpoints_that_list_it(
    finished: dict[str, Path], damage, tmp_path: Path
) -> None:
    shutil.copytree(finished["dqn"], tmp_path / "root", symlinks=True)
    run = Run(str(tmp_path / "root"), "dqn", {})
    newest, second, *_ = numbered(run)
    files = [
        {segment["file"] for segment in load_sealed(path)["volatile"]["segments"]}
        for path in (newest, second)
    ]
    (only_newest,) = files[0] - files[1]
    damage(run.directory / "checkpoints" / "replay" / only_newest)
    code, text = extend(run, newest, tmp_path)
    assert (code, only_newest in text) == (1, True)
    code, text = extend(run, run.directory, tmp_path)
    assert code == 0, text
    assert only_newest in text
    assert f"using {second.name}" in text


def test_a_dangling_link_is_passed_over(run: Run, tmp_path: Path) -> None:
    numbered(run)[0].unlink()
    code, text = extend(run, run.directory, tmp_path)
    assert code == 0, text
    assert "last.ckpt is passed over" in text


def test_a_damaged_file_that_was_named_is_refused(run: Run, tmp_path: Path) -> None:
    named = numbered(run)[1]
    flip_a_bit(named)
    before = fingerprint(run.directory)
    code, text = extend(run, named, tmp_path)
    assert code == 1
    assert text.count("\n") == 1
    assert f"{named}: is damaged" in text
    assert fingerprint(run.directory) == before


def test_when_all_are_bad_nothing_is_touched(run: Run, tmp_path: Path) -> None:
    for path in run.checkpoints:
        if not path.is_symlink():
            truncate(path)
    before = fingerprint(run.directory)
    code, text = extend(run, run.directory, tmp_path)
    assert code == 1
    assert "can be used; nothing was changed" in text
    assert all(path.name in text for path in numbered(run))
    assert "Traceback" not in text
    assert fingerprint(run.directory) == before


def test_every_random_flip_and_cut_is_found(run: Run) -> None:
    """100 of either kind for each of the two runs; replay segments among the files."""
    from lightning_rl.errors import CheckpointError
    from lightning_rl.storage.segments import checkpoint_env_steps

    newest = numbered(run)[0]
    files = [newest, *(run.directory / "checkpoints" / "replay").glob("*.segment")]
    listed = {s["file"] for s in load_sealed(newest)["volatile"].get("segments", [])}
    files = [path for path in files if path == newest or path.name in listed]
    draws = random.Random(0)
    for number in range(100):
        path = draws.choice(files)
        good = path.read_bytes()
        if number % 2:
            flip_a_bit(path, number)
        else:
            os.truncate(path, draws.randrange(len(good)))
        with pytest.raises(CheckpointError):
            checkpoint_env_steps(newest)
        path.write_bytes(good)
    assert checkpoint_env_steps(newest) > 0


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--model", "DQN"], ["is one of PPO, but DQN was asked for"]),
        (["--model", "PPO", "--model.env=Acrobot-v1"], ["observation space", "Acrobot-v1"]),
        (
            ["--model", "PPO", "--model.env=CartPole-v1", "--model.hidden_sizes=[32,32]"],
            ["do not fit", "network.", "(64, 4) in the checkpoint, (32, 4) here"],
        ),
        (
            ["--model", "PPO", "--model.env.id=CartPole-v1", "--model.env.num_envs=3"],
            [
                "expected 1 environments as in the checkpoint, received 3; a run",
                "`fit --init_from`",
            ],
        ),
    ],
)
def test_a_checkpoint_of_something_else_is_refused(
    options: list[str], expected: list[str], finished: dict[str, Path], tmp_path: Path
) -> None:
    last = finished["ppo"] / "e" / "r" / "checkpoints" / "last.ckpt"
    words = ["fit", *options, "--model.total_env_steps=900", "--run.root", tmp_path]
    code, text = command(tmp_path, *words, "--trainer.logger=false", "--ckpt_path", last)
    assert code == 1, text
    assert "Traceback" not in text
    for part in expected:
        assert part in text
