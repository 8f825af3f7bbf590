"""Every shipped configuration is valid, complete and found by its name."""

from __future__ import annotations

from pathlib import Path

import pytest

from lightning_rl.cli.checks import SECTIONS, algorithms, check_document
from lightning_rl.cli.configs import configs_folder, find_config, shipped_configs
from lightning_rl.cli.study_file import plan_study
from lightning_rl.cli.yaml_check import read_document
from lightning_rl.envs.config import EnvConfig
from lightning_rl.errors import ConfigError

FOLDERS_OF_OTHERS = ("studies/", "sweeps/")
NAMES = [name for name in shipped_configs() if not name.startswith(FOLDERS_OF_OTHERS)]
STUDIES = [name for name in shipped_configs() if name.startswith("studies/")]


def test_the_configurations_of_both_algorithms_ship() -> None:
    assert {"ppo/cartpole", "dqn/cartpole"} <= set(NAMES)
    assert configs_folder() == Path(__file__).parents[1] / "configs"


@pytest.mark.parametrize("name", NAMES)
def test_a_configuration_is_valid(name: str) -> None:
    file, origin = find_config(name)
    document = read_document(file, origin)
    check_document(document)
    model = document.data["model"]
    algorithm = name.split("/")[0].replace("_", "")
    assert model["class_path"].rsplit(".", 1)[-1].lower() == algorithm.replace("_", "")
    assert model["init_args"]["env"]["id"]
    assert model["init_args"].keys() & {"total_env_steps", "total_episodes"}
    assert "seed_everything" in document.data


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_is_valid(name: str, tmp_path: Path) -> None:
    document = read_document(*find_config(name))
    plan = plan_study(document, {"output_dir": str(tmp_path)})
    assert plan.name == name.split("/")[1]
    assert len({cell.seed for cell in plan.cells}) == 5
    assert len({cell.environment for cell in plan.cells}) == 3
    assert len({cell.algorithm for cell in plan.cells}) == 2
    for cell in plan.cells:
        env = cell.documents[-1]["model"]["init_args"]["env"]
        EnvConfig(**env).make().close()
    assert list(tmp_path.iterdir()) == []


def test_the_defaults_name_no_algorithm() -> None:
    document = read_document(configs_folder() / "defaults.yaml")
    check_document(document)
    assert "model" not in document.data
    assert set(document.data) <= set(SECTIONS)


@pytest.mark.parametrize(
    "name", ["ppo/cartpole", "PPO/CartPole", "ppo/cartpole.yaml", "configs/ppo/cartpole.yaml"]
)
def test_names_of_a_shipped_configuration(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_config(name)[0] == configs_folder() / "ppo" / "cartpole.yaml"


def test_a_file_wins_over_a_shipped_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("ppo").mkdir()
    Path("ppo/cartpole").write_text("seed_everything: 1\n")
    assert find_config("ppo/cartpole") == (Path("ppo/cartpole"), "ppo/cartpole")


def test_unknown_names_are_answered_by_the_nearest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text("seed_everything: 1\n")
    with pytest.raises(ConfigError, match="did you mean 'dqn/cartpole'"):
        find_config("dqn/cartpol")
    with pytest.raises(ConfigError, match=r"did you mean 'mine\.yaml'"):
        find_config("mime.yaml")
    with pytest.raises(ConfigError, match="list configs"):
        find_config("zzzzzzzz")


def test_there_are_algorithms() -> None:
    assert set(algorithms()) >= {"PPO", "DQN"}
