"""Sweep files and options: what is planned, refused, and exported for W&B."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args
from wandb.sdk.sweeps.scheduler.optuna import search_space_from_sweep_config

from lightning_rl.cli.arguments import fit_documents, read_request
from lightning_rl.cli.main import main
from lightning_rl.cli.sweep import OPTIONS, wandb_sweep, write_best
from lightning_rl.cli.sweep_file import plan_sweep
from lightning_rl.errors import ConfigError
from lightning_rl.runs.search_space import choice, loguniform
from lightning_rl.runs.sweep import Sweep
from lightning_rl.runs.trial_queue import distributions

FILE: dict[str, Any] = {
    "name": "mine",
    "config": "ppo/cartpole",
    "space": {
        "model.learning_rate": {"log_uniform": [1e-5, 1e-2]},
        "model.num_steps": {"int_log_uniform": [8, 256]},
        "model.minibatch_size": {"int_uniform": [32, 64]},
        "model.gamma": {"uniform": [0.9, 0.99]},
        "model.hidden_sizes": {"choice": [[32], [64, 64]]},
        "model.learning_rate_schedule": ["constant", "linear"],
    },
}


def plan(tmp_path: Path, options: dict[str, Any] | None = None, **changes: Any) -> Sweep:
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump({**FILE, **changes}, sort_keys=False))
    return plan_sweep([str(path)], [], options or {})[0]


def test_a_file_is_laid_over_the_configuration_that_it_names(tmp_path: Path) -> None:
    sweep = plan(tmp_path, model={"init_args": {"total_env_steps": 1e4}}, seeds=[3, 5])
    assert sweep.space["model.learning_rate"] == loguniform(1e-5, 1e-2)
    assert sweep.space["model.hidden_sizes"] == choice([32], [64, 64])
    assert (sweep.seeds, sweep.num_trials, sweep.sampler) == ((3, 5), 20, "tpe")
    assert sweep.documents[-1]["model"]["init_args"]["total_env_steps"] == 10_000
    assert sweep.folder == Path("logs/mine")


def test_options_win_over_the_file(tmp_path: Path) -> None:
    options = {"trials": 3, "pruner": "asha", "storage": "s.journal", "output_dir": str(tmp_path)}
    sweep = plan(tmp_path, options, trials=9)
    assert (sweep.num_trials, sweep.pruner, sweep.storage) == (3, "asha", "s.journal")
    assert sweep.folder == tmp_path / "mine"
    assert set(options) <= set(OPTIONS)


@pytest.mark.parametrize("pruner", ["none", None])
def test_no_pruner_can_be_said(pruner: str | None, tmp_path: Path) -> None:
    assert plan(tmp_path, pruner=pruner).pruner == "none"
    assert plan(tmp_path, {"pruner": None}, pruner="asha").pruner == "none"


def test_without_a_file_lists_make_a_grid() -> None:
    spaces = ["model.learning_rate=1e-4,3e-4,1e-3", "model.hidden_sizes=[[32], [64, 64]]"]
    sweep, base = plan_sweep(["ppo/cartpole"], spaces, {})
    assert (sweep.sampler, sweep.num_trials, base) == ("grid", 6, ["ppo/cartpole"])
    assert sweep.space["model.learning_rate"] == choice(1e-4, 3e-4, 1e-3)
    assert sweep.space["model.hidden_sizes"] == choice([32], [64, 64])
    assert sweep.name == "sweep-ppo-cartpole-v1"
    drawn, _ = plan_sweep(["ppo/cartpole"], ["model.gamma={uniform: [0.9, 0.99]}"], {})
    assert drawn.sampler == "tpe"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"space": {"model.learning_rat": [1]}}, r"space.*did you mean '--model.learning_rate'"),
        ({"space": {"model.gamma": ["a"]}}, r"yaml:4: space.model.gamma: .*expected float"),
        ({"space": {"model.gamma": {"unifrom": [0, 1]}}}, "did you mean 'uniform'"),
        (
            {"space": {"model.num_steps": {"uniform": [8, 64]}}},
            r"yaml:4: space.model.num_steps: .*expected int.*; whole numbers are drawn by int_unif",
        ),
        (
            {"space": {"model": {"gamma": {"uniform": [0, 1]}}}},
            r"yaml:4: space.model: expected the path of one setting, as in 'model.gamma'",
        ),
        ({"space": {"run.name": ["a", "b"]}}, "expected a path of model or trainer, got 'run.na"),
        ({"space": [1]}, "expected paths with their values"),
        ({"sampler": "tpee"}, r"yaml:\d+: sampler: .*did you mean 'tpe'"),
        ({"pruner": "medain"}, "did you mean 'median'"),
        ({"objective": "mean"}, "expected objective among best, last"),
        ({"trials": 0}, "whole number of at least 1"),
        ({"seeds": [1, 1]}, "different whole numbers"),
        ({"trails": 5}, "did you mean 'trials'"),
        ({"config": 3}, "expected a name or a list of names"),
        ({"config": "ppo/cartpol"}, "did you mean 'ppo/cartpole'"),
        ({"name": "a/b"}, "name"),
        ({"sampler": "grid"}, "model.learning_rate: a grid needs a list of values"),
        ({"model": {"init_args": {"gama": 1}}}, "did you mean 'gamma'"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        plan(tmp_path, **changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "words",
    [
        ["sweep"],
        ["sweep", "extra"],
        ["sweep", "--space", "nothing"],
        ["sweep", "--config", "sweeps/ppo_cartpole", "--trials", "none"],
        ["sweep", "--config", "sweeps/nothing_here"],
    ],
)
def test_mistakes_on_the_command_line_exit_with_2(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_dry_run_says_what_would_be_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["sweep", "--config", "sweeps/ppo_cartpole", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "20 trials by tpe" in shown
    assert "model.learning_rate: log_uniform" in shown
    assert not list(tmp_path.iterdir())


def test_the_best_trial_may_have_run_on_another_machine(tmp_path: Path) -> None:
    sweep = plan(tmp_path, {"output_dir": str(tmp_path)}, seeds=[7])
    sweep.folder.mkdir()
    parameters = {"model.learning_rate": 0.125, "model.hidden_sizes": [64, 64]}
    row = {"number": 3, "folder": "trial-0003", "parameters": parameters, "score": 1.0}
    best = yaml.safe_load(write_best(sweep, row).read_text())
    arguments = best["model"]["init_args"]
    assert (arguments["learning_rate"], arguments["hidden_sizes"]) == (0.125, [64, 64])
    assert best["seed_everything"] == 7


@pytest.mark.parametrize(("place", "code"), [("new/wandb.yaml", 0), ("/proc/x/wandb.yaml", 2)])
def test_a_folder_for_the_wandb_file_is_made(
    place: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["sweep", "--config", "sweeps/ppo_cartpole", "--export_wandb", place]
    assert main(words) == code
    assert Path(place).is_file() == (code == 0)


@pytest.mark.filterwarnings("ignore:Choices for a categorical distribution")
def test_wandb_reads_the_exported_space_as_the_same_one(tmp_path: Path) -> None:
    """By W&B's own translation of a sweep into Optuna's distributions."""
    sweep = plan(tmp_path)
    exported = search_space_from_sweep_config(wandb_sweep(sweep, ["ppo/cartpole"])["parameters"])
    expected = distributions(sweep)
    assert exported.keys() == expected.keys()
    for key, distribution in expected.items():
        if key != "model.hidden_sizes":  # Optuna's choices cannot be lists; W&B's can
            assert exported[key] == distribution


def test_the_command_of_an_exported_sweep_is_one_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agent's command, put together by W&B's own functions, configures the run as meant."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump({**FILE, "model": {"init_args": {"total_env_steps": 512}}}))
    assert main(["sweep", "--config", str(path), "--export_wandb", "exported.yaml"]) == 0
    exported = yaml.safe_load(Path("exported.yaml").read_text())
    assert exported["metric"] == {"name": "eval/mean_reward", "goal": "maximize"}
    assert exported["method"] == "bayes"
    chosen = {"model.learning_rate": 0.002, "model.hidden_sizes": [64, 64], "model.gamma": 0.95}
    arguments = create_sweep_command_args({"args": {k: {"value": v} for k, v in chosen.items()}})
    command = create_sweep_command(exported["command"])
    at = command.index("${args}")
    words = [*command[:at], *arguments["args"], *command[at + 1 :]]
    assert words[:3] == ["${env}", "lightning-rl", "fit"]
    request = read_request("fit", words[3:])
    fit_documents(request)
    values = {option.key: option.value for option in request.options}
    assert values["model.learning_rate"] == 0.002
    assert values["model.hidden_sizes"] == [64, 64]
    assert values["model.total_env_steps"] == 512
    loggers = request.documents[-1].data["trainer"]["logger"]
    assert any(item["class_path"].endswith("WandbLogger") for item in loggers)
