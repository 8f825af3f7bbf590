"""Checkpoints in a folder of the user's own, and runs that start from another one's checkpoint."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from lightning_rl import PPO, Trainer
from lightning_rl.callbacks import Checkpoint
from lightning_rl.cli.main import main
from lightning_rl.errors import ConfigError
from lightning_rl.loggers import query_metrics, read_metrics
from lightning_rl.runs.directory import RunDirectory
from lightning_rl.runs.places import link_checkpoints


def fit(root: Path, name: str, ckpt_path: Path | str | None = None, **settings: Any) -> Path:
    budget = settings.pop("budget", 128)
    agent = PPO("CartPole-v1", total_env_steps=budget, seed=1, num_steps=32, minibatch_size=32)
    trainer = Trainer(
        run={"root": str(root), "experiment": "e", "name": name},
        **{"accelerator": "cpu", "enable_progress_bar": False, "eval_episodes": 1},
        **{"log_every_n_steps": 1, "logger": False, **settings},
    )
    trainer.fit(agent, ckpt_path=ckpt_path)
    return Path(str(trainer.run_dir))


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    return tmp_path / "elsewhere"


def test_checkpoints_elsewhere_are_found_from_the_run_directory(
    tmp_path: Path, elsewhere: Path
) -> None:
    run = fit(tmp_path, "r", callbacks=[Checkpoint(dirpath=str(elsewhere))])
    assert (elsewhere / "env_steps=128.ckpt").is_file()
    assert (run / "checkpoints" / "last.ckpt").resolve() == elsewhere / "env_steps=128.ckpt"
    again = fit(tmp_path, "r", "last", budget=256, callbacks=[Checkpoint(dirpath=str(elsewhere))])
    assert again == run
    assert (elsewhere / "env_steps=256.ckpt").is_file()
    record = json.loads((run / "run.json").read_text())
    assert [attempt["start_env_steps"] for attempt in record["attempts"]] == [0, 128]


def test_the_command_line_resumes_and_tests_them(
    tmp_path: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = tmp_path / "c.yaml"
    config.write_text(
        "model: {class_path: PPO, init_args: {env: CartPole-v1, total_env_steps: 128, "
        "num_steps: 32, minibatch_size: 32, compile: false}}\n"
        f"trainer: {{callbacks: [{{class_path: Checkpoint, init_args: {{dirpath: {elsewhere}}}}}],"
        " enable_progress_bar: false, eval_episodes: 1, logger: false}\n"
        "run: {experiment: e, name: r}\n"
    )
    assert main(["fit", "--config", str(config)]) == 0
    assert main(["resume", "logs/e/r", "--model.total_env_steps", "192"]) == 0
    assert (elsewhere / "env_steps=192.ckpt").is_file()
    best = "logs/e/r/checkpoints/best.ckpt"
    assert main(["test", "--ckpt_path", best, "--episodes", "2"]) == 0
    assert Path("logs/e/r/results.json").is_file()


def test_a_folder_of_another_run_is_refused(tmp_path: Path, elsewhere: Path) -> None:
    fit(tmp_path, "r", callbacks=[Checkpoint(dirpath=str(elsewhere))])
    before = sorted(path.name for path in elsewhere.iterdir())
    with pytest.raises(ConfigError, match="checkpoints of another run"):
        fit(tmp_path, "other", callbacks=[Checkpoint(dirpath=str(elsewhere))])
    assert sorted(path.name for path in elsewhere.iterdir()) == before
    # But one may go on from a checkpoint in it.
    last = elsewhere / "env_steps=128.ckpt"
    fit(tmp_path, "third", last, budget=192, callbacks=[Checkpoint(dirpath=str(elsewhere))])
    assert (elsewhere / "env_steps=192.ckpt").is_file()


def test_a_run_keeps_the_folder_that_it_began_with(tmp_path: Path, elsewhere: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    run.path.mkdir()
    (run.checkpoints / "replay").mkdir(parents=True)  # cut before the first checkpoint
    link_checkpoints(run, [elsewhere], None)
    assert run.checkpoints.resolve() == elsewhere
    (elsewhere / "last.ckpt").touch()
    link_checkpoints(run, [tmp_path / "another", elsewhere], None)
    assert run.checkpoints.resolve() == elsewhere
    with pytest.raises(ConfigError, match=r"lie in .*elsewhere, got .*another"):
        link_checkpoints(run, [tmp_path / "another"], None)


def test_a_run_from_a_checkpoint_of_another_has_its_rows(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = fit(tmp_path, "first", callbacks=[Checkpoint(every_env_steps=64)])
    with caplog.at_level(logging.WARNING):
        fork = fit(tmp_path, "fork", first / "checkpoints" / "env_steps=64.ckpt", budget=192)
    assert "are lost" not in caplog.text
    rows, old = read_metrics(fork / "metrics.csv"), read_metrics(first / "metrics.csv")
    known = [row for row in old if row["step"] <= 64]
    steps = {row["step"] for row in rows}
    assert steps == {32, 64, 96, 128, 160, 192}
    names = {tag for row in known for tag in row if not tag.startswith(("time/", "system/"))}
    for mine, theirs in zip(rows, known, strict=False):
        assert {t: mine[t] for t in mine if t in names} == {
            t: theirs[t] for t in theirs if t in names
        }
    values = query_metrics(fork / "metrics.db", metric_name="eval/mean_reward")
    assert {value["env_steps"] for value in values} >= {64, 192}
    episodes = query_metrics(fork / "metrics.db", metric_name="episode/reward", source="episode")
    indices = [value["episode"] for value in episodes]
    assert indices == list(range(len(indices)))
    assert read_metrics(first / "metrics.csv") == old


def test_a_checkpoint_without_a_run_gives_no_rows(tmp_path: Path) -> None:
    first = fit(tmp_path, "first")
    lone = tmp_path / "lone.ckpt"
    lone.write_bytes((first / "checkpoints" / "last.ckpt").read_bytes())
    fork = fit(tmp_path, "fork", lone, budget=160)
    assert {row["step"] for row in read_metrics(fork / "metrics.csv")} == {160}
