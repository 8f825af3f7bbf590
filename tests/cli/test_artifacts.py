"""`record` and `export` as commands: where the files go, what is said, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lightning_rl.cli.main import main
from lightning_rl.storage.sealed import load_sealed, save_sealed
from tests.storage.crafted import REFUSED, seal

pytest.importorskip("imageio_ffmpeg")
Run = Callable[..., Any]
QUIET = ["--trainer.logger=false", "--trainer.enable_progress_bar=false"]
SMALL = ["--model.hidden_sizes=[8]", "--model.num_steps=64", "--trainer.eval_episodes=2"]
REPLAYS = {"class_path": "lightning_rl.callbacks.EpisodeReplays", "init_args": {"sample_rate": 1.0}}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of 256 env steps on FrozenLake that kept all its replays."""
    folder = tmp_path_factory.mktemp("finished")
    before = Path.cwd()
    os.chdir(folder)
    try:
        env = ["--model.env=FrozenLake-v1", "--model.total_env_steps=256"]
        callbacks = f"--trainer.callbacks={json.dumps([REPLAYS])}"
        code = main(["fit", "--model=ppo", *env, "--run.name=one", callbacks, *SMALL, *QUIET])
    finally:
        os.chdir(before)
    assert code == 0
    return folder


@pytest.fixture
def one(finished: Path, run: Run) -> Path:
    """A copy of that run in the present directory."""
    shutil.copytree(finished / "logs", "logs", symlinks=True)
    return Path("logs/ppo-frozenlake-v1/one")


def test_record_films_a_run_into_its_videos(one: Path, run: Run) -> None:
    outcome = run("record", f"--ckpt_path={one}")
    assert outcome.code == 0, outcome.err
    assert outcome.out.startswith("1 episode, reward ")
    (video,) = (one / "videos").iterdir()
    assert str(video.resolve()) in outcome.out
    assert video.name.startswith("env_steps=")
    film = Path("film.mp4")
    outcome = run("record", f"--ckpt_path={one}", "--episodes=2", f"--output={film}")
    assert (outcome.code, outcome.out.splitlines()[0][:18]) == (0, "2 episodes, reward")
    assert film.stat().st_size > 1_000


def test_record_plays_a_replay_again_and_says_when_it_differs(one: Path, run: Run) -> None:
    file = sorted((one / "replays").iterdir())[0]
    outcome = run("record", f"--replay={file}")
    assert outcome.code == 0, outcome.err
    assert outcome.out.splitlines()[-1] == "played exactly as stored"
    assert (one / "videos" / f"{file.stem}.mp4").exists()
    content = json.loads(file.read_text())
    content["rewards"][0] = 0.125
    file.write_text(json.dumps(content))
    outcome = run("record", f"--replay={file}")
    assert outcome.code == 1
    assert "NOT as stored: the reward of step 1 is 0, in the file 0.125" in outcome.out


def test_export_writes_beside_the_checkpoints(one: Path, run: Run) -> None:
    outcome = run("export", f"--ckpt_path={one}", "--format=torch")
    assert outcome.code == 0, outcome.err
    assert f"policy: {one / 'policy.pt2'}" in outcome.out
    assert "acts as the agent does on 2,000 observations" in outcome.out


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (["record"], "record: expected --ckpt_path CKPT or --replay FILE"),
        (["record", "--replay=none.json"], "none.json: no such replay file"),
        (["record", "--replay=a", "--ckpt_path=b"], "--ckpt_path belongs to a checkpoint"),
        (["record", "--replay=a", "--model.env=X"], "unknown option --model.env"),
        (["record", "--ckpt_path=none.ckpt"], "--ckpt_path none.ckpt: no such checkpoint"),
        (["record", "--ckpt_path=x", "--episodes=0"], "--episodes: expected a whole number"),
        (["export"], "export: expected --ckpt_path CKPT"),
        (["export", "--format=onxx"], "among onnx, torch, received 'onxx'; did you mean 'onnx'?"),
        (["export", "--formt=onnx"], "unknown option --formt; did you mean 'format'?"),
        (["export", "--episodes=3"], "--episodes is an option of"),
    ],
)
def test_mistakes_are_one_line(tokens: list[str], message: str, run: Run) -> None:
    outcome = run(*tokens)
    assert outcome.code == 2
    assert message in outcome.message


@pytest.mark.parametrize("command", ["record", "export"])
def test_no_hostile_checkpoint_runs_anything(command: str, run: Run, tmp_path: Path) -> None:
    """The corpus itself, with memory and audit hook, is in `tests/storage/test_archive.py`."""
    for name, data in REFUSED.items():
        file = tmp_path / "hostile.ckpt"
        file.write_bytes(seal(data))
        before = set(tmp_path.iterdir())
        outcome = run(command, f"--ckpt_path={file}")
        assert outcome.code == 1, name
        assert len(outcome.err.splitlines()) == 1, name
        assert set(tmp_path.iterdir()) == before, name


def hostile(checkpoint: dict[str, Any], where: str) -> None:
    """Let one entry of a good checkpoint name code."""
    arguments = checkpoint["hyper_parameters"]
    if where == "class path":
        checkpoint["lightning_rl"]["class_path"] = "evil.Agent"
    elif where == "system":
        checkpoint["lightning_rl"]["class_path"] = "os.system"
    elif where == "network":
        arguments["actor"] = {"class_path": "evil.Net", "init_args": {}}
    elif where == "wrapper":
        arguments["env"]["wrappers"] = ["evil.Wrapper"]
    elif where == "imports":
        arguments["env"]["imports"] = ["evil"]
    elif where == "id":
        arguments["env"]["id"] = "evil:Env-v0"


@pytest.mark.parametrize("where", ["class path", "system", "network", "wrapper", "imports", "id"])
def test_a_checkpoint_that_names_code_imports_nothing(where: str, one: Path, run: Run) -> None:
    Path("evil.py").write_text("open('imported', 'w').close()")
    checkpoint = load_sealed(next((one / "checkpoints").glob("env_steps*.ckpt")))
    hostile(checkpoint, where)
    save_sealed(checkpoint, Path("hostile.ckpt"))
    outcome = run("record", "--ckpt_path=hostile.ckpt", "--output=film.mp4")
    assert outcome.code in (1, 2)
    assert "evil" in outcome.message or "os.system" in outcome.message
    outcome = run("export", "--ckpt_path=hostile.ckpt", "--format=torch")
    if where in ("wrapper", "imports", "id"):  # an export makes no environment
        assert outcome.code == 0
    else:
        assert outcome.code in (1, 2)
        assert "evil" in outcome.message or "os.system" in outcome.message
    assert not Path("imported").exists()
    assert not Path("film.mp4").exists()
