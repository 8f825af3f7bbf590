"""`fit --run.seeds N`: which runs it makes, and what it refuses."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lightning_rl.cli.arguments import fit_documents, read_request, several_seeds
from lightning_rl.cli.seeds import plan_seeds
from lightning_rl.cli.study_file import Plan
from lightning_rl.errors import ConfigError
from lightning_rl.runs.trainer import Trainer

Run = Callable[..., Any]


def plan(*words: str) -> Plan:
    request = read_request("fit", words)
    fit_documents(request)
    assert several_seeds(request)
    return plan_seeds(request)


def test_one_run_per_seed_from_the_files_seed_on(tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("seed_everything: 4\nmodel: {class_path: DQN}\nrun: {seeds: 3}\n")
    found = plan(
        *("--config", str(config), "--model.env", "Acrobot-v1", "--model.gamma", "0.5"),
        *("--run.root", "r", "--run.name", "n", "--trainer.test_episodes", "7", "--workers", "2"),
    )
    assert found.folder == Path("r/dqn-acrobot-v1/n")
    assert [cell.seed for cell in found.cells] == [4, 5, 6]
    assert [cell.directory.name for cell in found.cells] == ["seed4", "seed5", "seed6"]
    assert found.workers == 2
    cell = found.cells[1]
    assert (cell.environment, cell.algorithm) == ("Acrobot-v1", "DQN")
    assert cell.options == [
        "--model.env.id=Acrobot-v1", "--model.gamma=0.5", "--trainer.test_episodes=7",
    ]  # fmt: skip
    assert cell.documents[-1] == {
        "seed_everything": 5,
        "run": {"root": "r/dqn-acrobot-v1", "experiment": "n", "name": "seed5", "seeds": 1},
    }
    assert cell.execution is not None
    assert cell.execution.num_episodes == 7
    assert found.again == "the same command"


def test_without_a_name_or_a_seed() -> None:
    found = plan("--run.seeds", "2")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d_seeds2", found.folder.name)
    assert found.again == f"the same with --run.name {found.folder.name}"
    assert [cell.seed for cell in found.cells] == [1, 2], "the shipped configuration's seed is 1"
    drawn = plan("--model", "ppo", "--run.seeds", "2")
    assert [cell.seed for cell in drawn.cells] == [1, 2]
    given = plan("--run.seeds", "2", "--seed_everything", "9")
    assert [cell.seed for cell in given.cells] == [9, 10]


def test_a_single_run_is_a_plain_fit() -> None:
    for words in ((), ("--run.seeds", "1")):
        request = read_request("fit", words)
        fit_documents(request)
        assert not several_seeds(request)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--run.seeds", "0"), "run.seeds: expected a whole number of at least 1, got 0"),
        (("--run.seeds", "many"), "--run.seeds: expected int, got 'many'"),
        (("--run.seeds", "2", "--new-version"), "--new_version is for a single run"),
        (("--run.seeds", "2", "--workers", "0"), "--workers: expected a whole number of at least"),
        (("--workers", "2"), "--workers: expected --run.seeds N beside it"),
        (("--run.seeds", "2", "--trainer.max_epoch", "3"), "did you mean '--trainer.max_epochs'"),
    ],
)
def test_mistakes(run: Run, words: tuple[str, ...], message: str) -> None:
    outcome = run("fit", *words)
    assert outcome.code == 2
    assert message in outcome.message
    assert not Path("logs").exists()


def test_a_trainer_makes_one_run() -> None:
    with pytest.raises(ConfigError, match=r"run\.seeds: a trainer makes one run, got 3"):
        Trainer(run={"seeds": 3})
