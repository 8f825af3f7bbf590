"""From words to documents and options: what is laid over what, how short forms expand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lightning_rl import trust
from lightning_rl.cli.arguments import Request, fit_documents, read_request
from lightning_rl.cli.checks import check_document, resolve_algorithm
from lightning_rl.cli.options import check_option
from lightning_rl.cli.yaml_check import parse_document
from lightning_rl.errors import ConfigError

PPO, DQN = "lightning_rl.algorithms.ppo.PPO", "lightning_rl.algorithms.dqn.DQN"


def fit_request(*words: str) -> Request:
    request = read_request("fit", words)
    fit_documents(request)
    return request


def tokens(request: Request) -> list[str]:
    return [option.token for option in request.options]


def test_without_arguments_the_default_is_trained() -> None:
    request = fit_request()
    assert [d.origin for d in request.documents] == ["configs/defaults.yaml", "ppo/cartpole"]
    assert request.documents[1].data["model"]["class_path"] == PPO
    assert request.options == []


def test_options_alone_are_laid_over_the_default() -> None:
    request = fit_request("--model.gamma", "0.9", "--run.name=first")
    assert request.documents[1].origin == "ppo/cartpole"
    assert tokens(request) == ["--model.gamma=0.9", "--run.name=first"]


def test_a_named_algorithm_starts_from_its_own_defaults() -> None:
    request = fit_request("--model", "dqn", "--model.env.num_envs", "4")
    base = request.documents[1].data["model"]
    assert base == {"class_path": DQN, "init_args": {"env": {"id": "CartPole-v1"}}}
    assert tokens(request) == [f"--model={DQN}", "--model.env.num_envs=4"]


def test_files_are_laid_over_the_defaults_in_order(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("model: {class_path: dqn, init_args: {env: Acrobot-v1}}\n")
    (tmp_path / "b.yaml").write_text("seed_everything: 3\n")
    request = fit_request("-c", str(tmp_path / "a.yaml"), f"--config={tmp_path / 'b.yaml'}")
    assert [Path(d.origin).name for d in request.documents[2:]] == ["a.yaml", "b.yaml"]
    assert request.documents[2].data["model"] == {
        "class_path": DQN,
        "init_args": {"env": {"id": "Acrobot-v1"}},
    }


@pytest.mark.parametrize("name", ["PPO", "ppo", "Ppo", PPO, "lightning_rl.PPO"])
def test_names_of_an_algorithm(name: str) -> None:
    assert resolve_algorithm(name) == PPO


@pytest.mark.parametrize(
    ("key", "text", "token"),
    [
        ("model", "dqn", f"--model={DQN}"),
        ("model.env", "Acrobot-v1", "--model.env.id=Acrobot-v1"),
        ("model.init_args.env.id", "Acrobot-v1", "--model.env.id=Acrobot-v1"),
        ("model.init_args.gamma", "0.9", "--model.gamma=0.9"),
        ("model.total_env_steps", "1e6", "--model.total_env_steps=1000000"),
        ("model.learning_rate", "1e-3", "--model.learning_rate=1e-3"),
        ("model.env.kwargs.gravity", "1e1", "--model.env.kwargs.gravity=1e1"),
        ("model.env.kwargs", "{a: 1}", "--model.env.kwargs={a: 1}"),
        ("model.hidden_sizes", "[32, 32]", "--model.hidden_sizes=[32, 32]"),
        ("run.name", "2024", "--run.name=2024"),
        ("run.tags+", "x", "--run.tags+=x"),
        ("trainer.max_time", "00:01:00:00", "--trainer.max_time=00:01:00:00"),
        ("trainer.callbacks.patience", "3", "--trainer.callbacks.patience=3"),
        (
            "trainer.callbacks+",
            "LearningRateMonitor",
            '--trainer.callbacks+={"class_path": '
            '"lightning.pytorch.callbacks.lr_monitor.LearningRateMonitor"}',
        ),
    ],
)
def test_options_are_written_out(key: str, text: str, token: str) -> None:
    assert check_option(key, text, PPO).token == token


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("model.gamma", ("model", "init_args", "gamma")),
        ("model.env.num_envs", ("model", "init_args", "env", "num_envs")),
        ("trainer.max_epochs", ("trainer", "max_epochs")),
        ("seed_everything", ("seed_everything",)),
    ],
)
def test_where_an_option_stands_in_a_file(key: str, path: tuple[str, ...]) -> None:
    assert check_option(key, "1", PPO).path == path


def test_flags_and_switches() -> None:
    request = fit_request("--new-version", "--trainer.fast_dev_run", "--print_config")
    assert request.own == {"new_version": True, "print_config": True}
    assert tokens(request) == ["--trainer.fast_dev_run=true"]


def test_negative_numbers_are_values() -> None:
    assert tokens(fit_request("--model.env.kwargs.gravity", "-5")) == [
        "--model.env.kwargs.gravity=-5"
    ]


def test_trust_is_given_before_anything_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trust, "_trusted", [])
    with pytest.raises(ConfigError, match="allow-list"):
        fit_request("--model.actor", "mine.Net")
    request = fit_request("--model.actor", "mine.Net", "--trust", "mine", "--trust=other")
    assert tokens(request) == ["--model.actor=mine.Net"]
    assert trust.trusted_packages() == ["mine", "other"]


def test_environments_of_imported_packages_are_not_judged() -> None:
    fit_request("--model.env", "Nowhere-v0", "--model.env.imports=[gymnasium]")
    with pytest.raises(ConfigError, match="unknown environment 'Nowhere-v0'"):
        fit_request("--model.env", "Nowhere-v0")


def test_wandb_is_added_to_the_loggers_that_are_there(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("trainer: {logger: {class_path: CSVLogger, init_args: {save_dir: a}}}\n")
    request = fit_request("--wandb", "--config", str(file))
    names = [spec["class_path"] for spec in request.documents[-1].data["trainer"]["logger"]]
    assert names == [
        "lightning.pytorch.loggers.csv_logs.CSVLogger",
        "lightning.pytorch.loggers.WandbLogger",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("model: dqn", {"class_path": DQN}),
        (
            "model: {class_path: ppo, init_args: {total_env_steps: 1e5, gamma: 1}}",
            {"class_path": PPO, "init_args": {"total_env_steps": 100_000, "gamma": 1}},
        ),
        ("model: {init_args: {env: Acrobot-v1}}", {"init_args": {"env": {"id": "Acrobot-v1"}}}),
        ("model: {class_path: ppo, init_args: }", {"class_path": PPO}),
        (
            "model: {class_path: ppo, init_args: {actor: MLPActor}}",
            {"class_path": PPO, "init_args": {"actor": "lightning_rl.networks.policies.MLPActor"}},
        ),
        (
            "model: {init_args: {env: {id: A, imports: [gymnasium], kwargs: {n: 1e3}}}}",
            {"init_args": {"env": {"id": "A", "imports": ["gymnasium"], "kwargs": {"n": 1e3}}}},
        ),
    ],
)
def test_short_forms_in_a_file(text: str, expected: Any) -> None:
    document = parse_document(text, "f")
    check_document(document)
    assert document.data["model"] == expected


def test_a_class_named_in_kwargs_is_data() -> None:
    text = "model: {init_args: {env: {id: A, kwargs: {a: {class_path: evil.Net}}}}}"
    document = parse_document(text, "f")
    check_document(document)
    kwargs = document.data["model"]["init_args"]["env"]["kwargs"]
    assert kwargs == {"a": {"class_path": "evil.Net"}}


def test_options_of_the_configuration_belong_to_every_command() -> None:
    """`study` has `--run.root` as an option of its own; `fit` has it still."""
    request = fit_request("--run.root", "elsewhere")
    assert [option.token for option in request.options] == ["--run.root=elsewhere"]


@pytest.mark.parametrize("key", ["run.root", "run.name", "run.log_level"])
def test_a_studys_keys_do_not_hide_those_of_a_run(key: str) -> None:
    assert read_request("fit", [f"--{key}", "x"]).raw == [(key, "x")]


def test_a_studys_budget_does_not_hide_the_models() -> None:
    request = read_request("fit", ["--total_env_steps", "5"])
    with pytest.raises(ConfigError, match=r"did you mean '--model\.total_env_steps'"):
        fit_documents(request)
    with pytest.raises(ConfigError, match="--dry_run is an option of study, sweep, not of fit"):
        read_request("fit", ["--dry-run"])
