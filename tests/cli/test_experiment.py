"""`run_experiment`: the command line's `fit --config`, from Python."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from omegaconf import OmegaConf

import lightning_rl
from lightning_rl import run_experiment
from lightning_rl.cli.main import main
from lightning_rl.errors import ConfigError

MODEL = {
    "class_path": "ppo",
    "init_args": {
        "env": {"id": "CartPole-v1", "num_envs": 2},
        "total_env_steps": 256,
        "num_steps": 64,
        "minibatch_size": 64,
        "update_epochs": 1,
        "compile": False,
    },
}
QUIET = {"enable_progress_bar": False, "logger": False, "eval_episodes": 2, "accelerator": "cpu"}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def config(name: str = "y", **sections: Any) -> dict[str, Any]:
    run = {"experiment": "x", "name": name}
    return {"run": run, "seed_everything": 9, "model": MODEL, "trainer": QUIET, **sections}


def weights(directory: str | Path) -> dict[str, torch.Tensor]:
    path = Path(directory) / "checkpoints" / "last.ckpt"
    return torch.load(path, weights_only=True)["state_dict"]


def test_mapping_file_omegaconf_and_command_line_give_the_same_run(here: Path) -> None:
    Path("c.yaml").write_text(yaml.safe_dump(config("file")))
    results = [
        run_experiment(config("dict")),
        run_experiment(MappingProxyType(config("mapping"))),
        run_experiment("c.yaml"),
        run_experiment(OmegaConf.create({**config("omega"), "seed_everything": 9})),
    ]
    for result in results:
        assert result.success, result.error_message
        assert (result.environment, result.algorithm, result.seed) == ("CartPole-v1", "PPO", 9)
        assert result.metrics["env_steps"] == 256
    assert main(["fit", "--config", "c.yaml", "--run.name", "command"]) == 0
    expected = weights("logs/x/command")
    for result in results:
        found = weights(result.directory or "")
        assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_the_defaults_lie_underneath_and_the_run_can_be_resumed(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    defaults = here / "configs"
    defaults.mkdir()
    (defaults / "defaults.yaml").write_text(
        "run: {root: elsewhere, description: from the defaults}\n"
        "trainer: {eval_episodes: 3, enable_progress_bar: false}\n"
    )
    monkeypatch.setattr("lightning_rl.cli.arguments.configs_folder", lambda: defaults)
    sections = config(trainer={**QUIET, "eval_episodes": 4})
    del sections["trainer"]["enable_progress_bar"]
    result = run_experiment(sections)
    assert result.success, result.error_message
    assert Path(result.directory or "") == Path("elsewhere/x/y")
    record = json.loads(Path("elsewhere/x/y/run.json").read_text())
    assert record["description"] == "from the defaults"
    saved = yaml.safe_load(Path("elsewhere/x/y/config.yaml").read_text())
    assert saved["trainer"]["eval_episodes"] == 4
    assert saved["trainer"]["enable_progress_bar"] is False
    assert main(["resume", "elsewhere/x/y", "--model.total_env_steps", "384"]) == 0
    record = json.loads(Path("elsewhere/x/y/run.json").read_text())
    assert [attempt["end_env_steps"] for attempt in record["attempts"]] == [256, 384]


def test_numbers_of_numpy_and_the_short_forms(here: Path) -> None:
    init_args = {**MODEL["init_args"], "env": "CartPole-v1", "learning_rate": np.float32(0.25)}
    model = {"class_path": "PPO", "init_args": {**init_args, "update_epochs": np.int64(2)}}
    result = run_experiment(config(model=model, seed_everything=np.int64(4)))
    assert result.success, result.error_message
    assert result.seed == 4
    assert result.hyperparameters["learning_rate"] == 0.25
    assert result.hyperparameters["update_epochs"] == 2


def test_the_callers_random_streams_stay_where_they_are(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)

    def draws() -> tuple[float, ...]:
        return random.random(), float(np.random.rand()), float(torch.rand(1))

    def restart() -> None:
        random.seed(1)
        np.random.seed(1)
        torch.manual_seed(1)

    restart()
    expected = draws()
    restart()
    assert run_experiment(config()).success
    assert draws() == expected
    assert "PL_GLOBAL_SEED" not in os.environ


def test_a_failure_during_training_is_data(here: Path) -> None:
    assert run_experiment(config()).success
    again = run_experiment(config())
    assert not again.success
    assert "holds a run already" in (again.error_message or "")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"mmodel": "ppo"}, r"run_experiment: mmodel: unknown key 'mmodel'.*did you mean 'model'"),
        ({"model": "ppoo"}, r"model.class_path: unknown algorithm 'ppoo'; did you mean 'PPO'"),
        ({"model": {"class_path": "ppo", "init_args": {"gama": 1}}}, "did you mean 'gamma'"),
        ({"run": {"nname": "x"}}, r"run\.nname: unknown key 'nname'.*did you mean 'name'"),
        ({"trainer": {"callbacks": [object()]}}, r"trainer\.callbacks\.0: expected what a YAML"),
        ({"model": {"class_path": "ppo", "init_args": {"env": "CartPool-v1"}}}, "CartPole-v1"),
        ([1, 2], "expected a mapping with run, seed_everything, model and trainer"),
        ({1: 2}, "a key must be a text, got 1"),
    ],
)
def test_mistakes_are_one_line(here: Path, content: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        run_experiment(content)
    assert len(str(caught.value).splitlines()) == 1
    assert list(here.iterdir()) == []


def test_mistakes_of_files_and_of_omegaconf(here: Path) -> None:
    with pytest.raises(ConfigError, match="no such file or shipped configuration"):
        run_experiment("nothing.yaml")
    Path("bad.yaml").write_text("model:\n  class_path: ppo\n  init_arg: {}\n")
    with pytest.raises(ConfigError, match=r"bad\.yaml:3: model\.init_arg: unknown key"):
        run_experiment(Path("bad.yaml"))
    with pytest.raises(ConfigError, match="nowhere"):
        run_experiment(OmegaConf.create({"run": {"name": "${nowhere}"}}))


def test_it_is_exported_at_the_top() -> None:
    assert lightning_rl.run_experiment is run_experiment
