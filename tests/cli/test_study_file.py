"""Study files: what the cells are, and mistakes with file, line and key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from lightning_rl import trust
from lightning_rl.cli.study_file import Plan, plan_study
from lightning_rl.cli.yaml_check import parse_document
from lightning_rl.errors import ConfigError
from lightning_rl.runs.results import ExecutionConfig

BASE: dict[str, Any] = {
    "name": "demo",
    "environments": ["CartPole-v1"],
    "models": ["PPO"],
    "total_env_steps": 1_000,
}


def plan(text: str | None = None, options: dict[str, Any] | None = None, **changes: Any) -> Plan:
    content = yaml.safe_dump({**BASE, **changes}) if text is None else text
    return plan_study(parse_document(content, "s.yaml"), options or {})


def arguments(cell: Any) -> dict[str, Any]:
    found: dict[str, Any] = cell.documents[-1]["model"]["init_args"]
    return found


def test_cells_are_environments_times_models_times_seeds() -> None:
    found = plan(environments=["CartPole-v1", "Acrobot-v1"], models=["ppo", "DQN"], seeds=[3, 8])
    assert [(c.environment, c.algorithm, c.seed) for c in found.cells] == [
        ("CartPole-v1", "PPO", 3),
        ("CartPole-v1", "PPO", 8),
        ("CartPole-v1", "DQN", 3),
        ("CartPole-v1", "DQN", 8),
        ("Acrobot-v1", "PPO", 3),
        ("Acrobot-v1", "PPO", 8),
        ("Acrobot-v1", "DQN", 3),
        ("Acrobot-v1", "DQN", 8),
    ]
    assert found.folder == Path("logs/demo")
    assert found.cells[0].directory == Path("logs/demo/ppo-cartpole-v1-seed3")
    document = found.cells[-1].documents[-1]
    assert document["model"]["class_path"] == "lightning_rl.algorithms.dqn.DQN"
    assert document["seed_everything"] == 8
    assert document["run"]["name"] == "dqn-acrobot-v1-seed8"
    assert document["run"]["experiment"] == "demo"
    assert found.cells[0].documents[0]["trainer"]["max_epochs"] == -1, "the defaults lie below"


@pytest.mark.parametrize(("given", "expected"), [(1, [1]), (3, [1, 2, 3]), ([5, 2], [5, 2])])
def test_seeds(given: Any, expected: list[int]) -> None:
    assert [cell.seed for cell in plan(seeds=given).cells] == expected


def test_what_is_more_special_wins() -> None:
    found = plan("""
name: demo
total_env_steps: 1_000
environments:
  - id: FrozenLake-v1
    name: lake
    kwargs: {is_slippery: false}
    max_episode_steps: 50
    overrides:
      total_env_steps: 3_000
      init_args: {gamma: 0.5}
      models: {DQN: {gamma: 0.25, env: {frame_stack: 2}}}
      trainer: {eval_episodes: 3}
      execution: {num_episodes: 7}
  - CartPole-v1
models:
  - class_path: DQN
    init_args: {gamma: 0.75, env: {num_envs: 4}}
  - name: long
    class_path: DQN
    init_args: {total_episodes: 20}
trainer: {eval_episodes: 2, eval_every_env_steps: 500}
execution: {num_episodes: 5, max_steps_per_episode: 99, checkpoint: last}
""")
    lake, lake_long, pole, pole_long = found.cells
    assert [c.environment for c in found.cells] == ["lake", "lake", "CartPole-v1", "CartPole-v1"]
    assert [c.algorithm for c in found.cells] == ["DQN", "long", "DQN", "long"]
    assert arguments(lake)["env"] == {
        **{"id": "FrozenLake-v1", "kwargs": {"is_slippery": False}, "max_episode_steps": 50},
        **{"num_envs": 4, "frame_stack": 2},
    }
    assert [arguments(c).get("gamma") for c in found.cells] == [0.25, 0.5, 0.75, None]
    budgets = [
        {k: v for k, v in arguments(c).items() if k.startswith("total")} for c in found.cells
    ]
    assert budgets == [
        {"total_env_steps": 3_000},
        {"total_env_steps": 3_000},
        {"total_env_steps": 1_000},
        {"total_episodes": 20},
    ]
    trainer = lake.documents[-1]["trainer"]
    assert (trainer["eval_episodes"], trainer["eval_every_env_steps"]) == (3, 500)
    assert trainer["num_threads"] == 1
    assert pole.documents[-1]["trainer"]["eval_episodes"] == 2
    assert lake.execution == ExecutionConfig(7, max_steps_per_episode=99)
    assert pole_long.execution == ExecutionConfig(5, max_steps_per_episode=99)
    assert {cell.checkpoint for cell in (lake, lake_long, pole, pole_long)} == {"last"}


def test_execution_is_a_test_unless_said_otherwise() -> None:
    assert plan().cells[0].execution == ExecutionConfig(100)
    assert plan().cells[0].checkpoint == "best"
    assert plan(execution=None).cells[0].execution is None


def test_options_win() -> None:
    found = plan(
        environments=[{"id": "CartPole-v1", "overrides": {"total_episodes": 9}}],
        models=[{"class_path": "PPO", "init_args": {"total_env_steps": 5_000}}],
        options={"seeds": [4], "total_env_steps": 64, "output_dir": "elsewhere", "name": "other"},
    )
    (cell,) = found.cells
    assert cell.directory == Path("elsewhere/other/ppo-cartpole-v1-seed4")
    assert arguments(cell)["total_env_steps"] == 64
    assert "total_episodes" not in arguments(cell)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("environments: [A]", "s.yaml: expected a 'name', got none"),
        ("name: a/b", "s.yaml:1: name: expected the name of one folder"),
        ("name: x\nmodel: [PPO]", "s.yaml:2: model: unknown key .*did you mean 'models'"),
        ("name: x\nmodels: [PPO]", "s.yaml: environments: expected a list"),
        ("name: x\nenvironments: []\nmodels: [PPO]", "s.yaml:2: environments: expected a list"),
        ("name: x\nenvironments: [3]\nmodels: [PPO]", r"s.yaml:2: environments\.0: expected a na"),
        (
            "name: x\nenvironments: [A, A]\nmodels: [PPO]",
            r"s.yaml:2: environments\.1: 'A' is there already; give this entry a 'name'",
        ),
        (
            "name: x\ntotal_env_steps: 9\nenvironments: [A]\nmodels:\n- PPOO",
            r"s.yaml:5: models\.0\.class_path: unknown algorithm 'PPOO'; did you mean 'PPO'",
        ),
        (
            "name: x\ntotal_env_steps: 9\nenvironments: [A]\nmodels:\n- class_path: PPO\n"
            "  init_args:\n    gama: 1",
            r"s.yaml:7: models\.0\.init_args\.gama: unknown key 'gama' of PPO; did you mean 'gamm",
        ),
        (
            "name: x\ntotal_env_steps: 9\nmodels: [PPO]\nenvironments:\n- id: A\n  kwarg: {}",
            r"s.yaml:6: environments\.0\.kwarg: unknown key .*did you mean 'kwargs'",
        ),
        (
            "name: x\ntotal_env_steps: 9\nmodels: [PPO]\nenvironments:\n- id: A\n  overrides:\n"
            "    init_args: {gamma: high}",
            r"s.yaml:7: environments\.0\.overrides\.init_args\.gamma: expected float, got 'high'",
        ),
        (
            "name: x\ntotal_env_steps: 9\nmodels: [PPO]\nenvironments:\n- id: A\n  overrides:\n"
            "    models: {DQN: {gamma: 1}}",
            r"s.yaml:7: environments\.0\.overrides\.models\.DQN: unknown key 'DQN' of models",
        ),
        (
            "name: x\ntotal_env_steps: 9\nmodels: [PPO]\nenvironments: [A]\ntrainer:\n"
            "  max_epoch: 3",
            r"s.yaml:6: trainer\.max_epoch: unknown key .*did you mean 'max_epochs'",
        ),
        ("name: x\nmodels: [PPO]\nenvironments: [A]", "expected total_env_steps or total_episodes"),
        (
            "name: x\nmodels: [PPO]\nenvironments: [A]\ntotal_env_steps: 1\ntotal_episodes: 1",
            "s.yaml:5: total_episodes: expected only one of total_env_steps and total_episodes",
        ),
        ("name: x\nmodels: [PPO]\nenvironments: [A]\ntotal_env_steps: many", "got 'many'"),
        ("name: x\nseeds: [1, 1]", "s.yaml:2: seeds: expected different whole numbers"),
        ("name: x\nseeds: 0", "s.yaml:2: seeds: expected a whole number of at least 1, got 0"),
        ("name: x\nworkers: 1.5", "s.yaml:2: workers: expected a whole number"),
        ("name: x\nlog_level: LOUD", "s.yaml:2: log_level: expected one of DEBUG, INFO"),
        ("name: x\nexecution: {episodes: 3}", "execution.episodes: unknown key .*num_episodes"),
        ("name: x\nexecution:\n  num_episodes: 0", r"s.yaml:3: execution\.num_episodes: expected"),
        ("name: x\nexecution: {render: loud}", r"s.yaml:2: execution\.render: expected False"),
        ("name: x\nexecution: {checkpoint: first}", "expected best or last, got 'first'"),
        (f"name: {'n' * 256}", "name: expected the name of one folder .* at most 255 bytes"),
        ("name: x\nseeds: [4294967296]", "different whole numbers from 0 to 4294967295"),
        (
            "name: x\nmodels: [PPO]\nenvironments: [A]\ntotal_env_steps: 0",
            "s.yaml:4: total_env_steps: expected a whole number of at least 1, got 0",
        ),
        (
            "name: x\ntotal_env_steps: 9\nmodels: [PPO]\nenvironments:\n- id: A\n  overrides:\n"
            "    total_episodes: -1",
            r"s.yaml:7: environments\.0\.overrides\.total_episodes: expected a whole .* got -1",
        ),
        (
            "name: x\ntotal_env_steps: 9\nenvironments: [A]\nmodels:\n- class_path: PPO\n"
            "  init_args: {env: B}",
            r"s.yaml:6: models\.0\.init_args\.env: .* the study's 'environments'; got 'B'",
        ),
        (
            "name: x\ntotal_env_steps: 9\nmodels: [PPO]\nenvironments:\n- id: A\n  overrides:\n"
            "    models: {PPO: {env: {id: B}}}",
            r"s.yaml:7: environments\.0\.overrides\.models\.PPO\.env: .* 'environments'",
        ),
        (
            "name: x\ntotal_env_steps: 9\nenvironments: [A]\nmodels:\n- class_path: PPO\n"
            "  init_args: [gamma]",
            r"s.yaml:6: models\.0\.init_args: expected a mapping",
        ),
        ("name: x\nreference: [a]", "s.yaml:2: reference: expected a results.json"),
    ],
)
def test_mistakes_are_one_line_with_file_and_line(text: str, message: str) -> None:
    if "model" not in text and "environments" not in text:  # what it is not about is right
        text += "\nenvironments: [A]\nmodels: [PPO]\ntotal_env_steps: 9"
    with pytest.raises(ConfigError, match=message) as caught:
        plan(text)
    assert len(str(caught.value).splitlines()) == 1


def test_two_cells_never_share_a_folder() -> None:
    with pytest.raises(ConfigError, match="would share the folder ppo-a-b-seed1"):
        plan(environments=["a b", "a?b"])


def test_a_foreign_package_needs_consent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trust, "_trusted", [])
    with pytest.raises(ConfigError, match=r"s\.yaml:\d+: environments\.0\.id.*--trust evil"):
        plan(environments=[{"id": "evil.envs:Bad-v0"}])


def test_an_unknown_environment_is_no_mistake_of_the_file() -> None:
    assert plan(environments=["NoSuch-v0"]).cells[0].environment == "NoSuch-v0"
