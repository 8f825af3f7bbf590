"""Whole commands on tiny budgets, in this process: what they leave behind and what they answer."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from lightning_rl.cli.main import main
from lightning_rl.cli.weights import stored_configuration
from lightning_rl.errors import CheckpointError
from lightning_rl.storage.sealed import load_sealed

Run = Callable[..., Any]
QUIET = ["--trainer.logger=false", "--trainer.enable_progress_bar=false"]
SMALL = ["--model.hidden_sizes=[8]", "--model.update_epochs=2", "--trainer.eval_episodes=2"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the finished run `logs/ppo-cartpole-v1/one` of 1,024 env steps."""
    folder = tmp_path_factory.mktemp("finished")
    before = Path.cwd()
    os.chdir(folder)
    try:
        code = main(["fit", "--run.name=one", "--model.total_env_steps=1024", *SMALL, *QUIET])
    finally:
        os.chdir(before)
    assert code == 0
    return folder


@pytest.fixture
def one(finished: Path, run: Run) -> Path:
    """A copy of that run in the present directory."""
    shutil.copytree(finished / "logs", "logs", symlinks=True)
    return Path("logs/ppo-cartpole-v1/one")


def env_steps(folder: Path) -> list[int]:
    return [a["start_env_steps"] for a in json.loads((folder / "run.json").read_text())["attempts"]]


def weights(file: Path) -> dict[str, Any]:
    return load_sealed(file)["state_dict"]


def same(first: dict[str, Any], second: dict[str, Any]) -> bool:
    return first.keys() == second.keys() and all(first[k].equal(second[k]) for k in first)


def test_fit_leaves_a_run_and_says_where(finished: Path, run: Run) -> None:
    outcome = run("fit", "--run.name=x", "--model.total_env_steps=512", *SMALL, *QUIET)
    assert outcome.code == 0
    best = "logs/ppo-cartpole-v1/x/checkpoints/best.ckpt"
    assert f"lightning-rl test --ckpt_path {best}" in outcome.out
    assert "logs/ppo-cartpole-v1/x/training_curves.png" in outcome.out
    assert Path(best).exists()


def test_a_budget_takes_the_place_of_one_of_the_other_kind(run: Run) -> None:
    episodes = ["--model.total_episodes=3", "--run.name=x", *SMALL, *QUIET]
    outcome = run("fit", *episodes)
    assert outcome.code == 0
    assert "last checkpoint: logs/ppo-cartpole-v1/x/checkpoints/last.ckpt" in outcome.out
    assert "best checkpoint" not in outcome.out  # there was no evaluation
    Path("a.yaml").write_text("model: {init_args: {total_episodes: 3}}")
    arguments = yaml.safe_load(run("fit", "--config=a.yaml", "--print_config").out)["model"]
    assert arguments["init_args"]["total_env_steps"] is None
    back = run("fit", "--config=a.yaml", "--model.total_env_steps=9", "--print_config").out
    assert yaml.safe_load(back)["model"]["init_args"]["total_episodes"] is None


def test_the_commands_that_are_named_can_be_copied(run: Run) -> None:
    outcome = run("fit", "--run.name=a b", "--model.total_env_steps=9", *SMALL, *QUIET)
    assert "test --ckpt_path 'logs/ppo-cartpole-v1/a b/checkpoints/best.ckpt'" in outcome.out


def test_the_saved_configuration_is_complete(one: Path) -> None:
    saved = yaml.safe_load((one / "config.yaml").read_text())
    assert list(saved) == ["run", "seed_everything", "model", "trainer"]
    init_args = saved["model"]["init_args"]
    assert saved["model"]["class_path"] == "lightning_rl.algorithms.ppo.PPO"
    assert (init_args["env"]["id"], init_args["env"]["num_envs"]) == ("CartPole-v1", 8)
    assert (init_args["compile"], init_args["total_env_steps"]) == (False, 1024)
    assert (saved["seed_everything"], saved["run"]["name"]) == (1, "one")


def test_the_saved_configuration_starts_an_identical_run(one: Path, run: Run) -> None:
    config = str(one / "config.yaml")
    assert run("fit", "--config", config, "--run.name=two", *QUIET).code == 0
    two = one.with_name("two")
    assert same(weights(one / "checkpoints/last.ckpt"), weights(two / "checkpoints/last.ckpt"))
    first, second = (yaml.safe_load((d / "config.yaml").read_text()) for d in (one, two))
    first["run"].pop("name"), second["run"].pop("name")
    assert first == second


def test_print_config_is_a_configuration(run: Run) -> None:
    words = ["--model", "dqn", "--model.env", "Acrobot-v1", "--model.env.num_envs", "2"]
    outcome = run("fit", *words, "--seed_everything", "7", "--print_config")
    assert outcome.code == 0
    assert list(Path().iterdir()) == []
    Path("again.yaml").write_text(outcome.out)
    assert run("fit", "--config", "again.yaml", "--print_config").out == outcome.out
    env = yaml.safe_load(outcome.out)["model"]["init_args"]["env"]
    assert (env["id"], env["num_envs"]) == ("Acrobot-v1", 2)


def test_a_drawn_seed_is_recorded(run: Run) -> None:
    words = ["fit", "--model", "ppo", "--print_config"]
    seeds = {yaml.safe_load(run(*words).out)["seed_everything"] for _ in range(2)}
    assert len(seeds) == 2
    assert all(type(seed) is int for seed in seeds)


def test_changing_the_algorithm_keeps_the_environment(run: Run) -> None:
    outcome = run("fit", "--config", "ppo/cartpole", "--model", "dqn", "--print_config")
    model = yaml.safe_load(outcome.out)["model"]
    assert model["class_path"].endswith(".DQN")
    assert model["init_args"]["env"]["num_envs"] == 8
    assert "gae_lambda" not in model["init_args"]


def test_secrets_are_not_shown(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_API_KEY", "canary-value-123")
    outcome = run("fit", "--run.description", "with canary-value-123", "--print_config")
    assert "canary-value-123" not in outcome.out


def test_fit_into_a_run_names_the_ways_out(one: Path, run: Run) -> None:
    outcome = run("fit", "--run.name=one", *QUIET)
    assert outcome.code == 2
    for remedy in ("lightning-rl resume", "--run.name", "--new-version"):
        assert remedy in outcome.err


def test_new_version_takes_a_free_name(one: Path, run: Run) -> None:
    words = ["--run.name=one", "--model.total_env_steps=256", *SMALL, *QUIET]
    assert run("fit", *words, "--new-version").code == 0
    assert sorted(p.name for p in one.parent.iterdir()) == ["one", "one-v2"]


def test_resume_of_a_finished_run_changes_nothing(one: Path, run: Run) -> None:
    before = {p: p.read_bytes() for p in one.rglob("*") if p.is_file()}
    outcome = run("resume", str(one))
    assert outcome.code == 0
    assert "finished at 1,024 env steps, nothing to do" in outcome.out
    assert {p: p.read_bytes() for p in one.rglob("*") if p.is_file()} == before


def test_resume_with_a_larger_budget_goes_on_in_place(one: Path, run: Run) -> None:
    outcome = run("resume", str(one), "--model.total_env_steps", "2e3", *QUIET)
    assert outcome.code == 0
    assert env_steps(one) == [0, 1024]
    saved = yaml.safe_load((one / "config.yaml").read_text())
    assert saved["model"]["init_args"]["total_env_steps"] == 2000
    assert saved["run"]["name"] == "one"
    assert saved["run"]["root"] == "logs"


def test_a_learning_rate_that_has_reached_0_is_said(one: Path, run: Run) -> None:
    more = ["--model.total_env_steps=2048", *QUIET]
    said = "nothing is learned from env step 1280 on: the linear schedule of the learning rate"
    assert run("resume", str(one), *more).code == 0
    assert (one / "training.log").read_text().count(said) == 1
    stretched = ["--model.schedule_env_steps=4096", "--allow-change=model.schedule_env_steps"]
    more = ["--model.total_env_steps=4096", *QUIET]
    assert run("resume", str(one), *more, *stretched).code == 0
    assert (one / "training.log").read_text().count("nothing is learned") == 1


def test_a_moved_run_is_resumed_where_it_is(one: Path, run: Run) -> None:
    Path("elsewhere").mkdir()
    moved = Path("elsewhere/moved")
    shutil.move(one, moved)
    assert run("resume", str(moved), "--model.total_env_steps=1280", *QUIET).code == 0
    assert env_steps(moved) == [0, 1024]
    assert not one.exists()


def test_resume_in_another_directory_forks(one: Path, run: Run) -> None:
    words = ["--run.name=fork", "--model.total_env_steps=1280", *QUIET]
    assert run("resume", str(one / "checkpoints/last.ckpt"), *words).code == 0
    assert env_steps(one.with_name("fork")) == [1024]
    assert env_steps(one) == [0]


def test_a_run_without_a_checkpoint_starts_from_the_beginning(one: Path, run: Run) -> None:
    shutil.rmtree(one / "checkpoints")
    record = json.loads((one / "run.json").read_text())
    (one / "run.json").write_text(json.dumps({**record, "status": "running"}))
    assert run("resume", str(one), *QUIET).code == 0
    assert env_steps(one)[-1] == 0
    assert (one / "checkpoints/last.ckpt").exists()


def test_what_may_not_change_is_listed(one: Path, run: Run) -> None:
    words = ["--model.gamma=0.9", "--model.env.num_envs=4", "--model.total_env_steps=2048"]
    outcome = run("resume", str(one), *words)
    assert outcome.code == 2
    assert "model.gamma: 0.98 -> 0.9; model.env.num_envs: 8 -> 4;" in outcome.message
    assert "if you mean it, add --allow-change model.gamma; model.env.num_envs cannot change" in (
        outcome.message
    )
    assert "total_env_steps" not in outcome.message
    assert env_steps(one) == [0]


def test_what_cannot_change_is_refused_at_once_even_if_it_was_allowed(one: Path, run: Run) -> None:
    before = (one / "run.json").read_bytes()
    words = ["--model.env.num_envs=4", "--allow-change=model.env.num_envs"]
    outcome = run("resume", str(one), *words, "--model.total_env_steps=2048")
    assert outcome.code == 2
    assert outcome.message.endswith(
        "model.env.num_envs: 8 -> 4; model.env.num_envs cannot change: begin another run with "
        "these weights by `fit --init_from CHECKPOINT`"
    )
    assert (one / "run.json").read_bytes() == before


def test_a_run_that_ends_before_its_budget_says_how_to_go_on(run: Run) -> None:
    words = ["--trainer.max_steps=1", "--run.name=cut", "--model.total_env_steps=2048"]
    outcome = run("fit", *words, *SMALL, *QUIET)
    assert outcome.code == 0
    (line,) = [text for text in outcome.out.splitlines() if text.startswith("continue with:")]
    assert line.endswith("lightning-rl resume logs/ppo-cartpole-v1/cut")
    assert "continue with" not in run("resume", line.split()[-1], "--trainer.max_steps=-1").out


def test_equal_values_are_no_change(one: Path, run: Run) -> None:
    words = ["--model.gamma=0.98", "--model=ppo", "--model.env=CartPole-v1", "--run.tags=[a]"]
    assert "nothing to do" in run("resume", str(one), *words).out


def test_changes_can_be_allowed(one: Path, run: Run) -> None:
    words = ["--model.ent_coef=0.01", "--allow-change", "model.ent_coef"]
    outcome = run("resume", str(one), *words, "--model.total_env_steps=1280", *QUIET)
    assert outcome.code == 0
    saved = yaml.safe_load((one / "config.yaml").read_text())
    assert saved["model"]["init_args"]["ent_coef"] == 0.01


@pytest.mark.parametrize("target", ["checkpoints/best.ckpt", "."])
def test_test_writes_results(one: Path, run: Run, target: str) -> None:
    outcome = run("test", "--ckpt_path", str(one / target), "--episodes", "3")
    assert outcome.code == 0
    results = json.loads((one / "results.json").read_text())
    assert len(results["episode_rewards"]) == len(results["episode_lengths"]) == 3
    assert results["mean_reward"] == pytest.approx(sum(results["episode_rewards"]) / 3)
    assert {"std_reward", "min_reward", "max_reward", "mean_length", "std_length"} <= set(results)
    assert f"{results['mean_reward']:.2f}" in outcome.out


def test_results_go_where_they_are_asked_to(one: Path, run: Run) -> None:
    words = ["--ckpt_path", str(one / "checkpoints/last.ckpt"), "--episodes=2"]
    assert run("test", *words, "--output", "here").code == 0
    assert run("test", *words, "--output", "there/mine.json").code == 0
    assert Path("here/results.json").read_text() == Path("there/mine.json").read_text()
    assert not (one / "results.json").exists()


def test_options_are_laid_over_the_checkpoint(one: Path, run: Run) -> None:
    words = ["--ckpt_path", str(one / "checkpoints/last.ckpt"), "--print_config"]
    init_args = yaml.safe_load(run("test", *words, "--model.env.max_episode_steps=9").out)["model"][
        "init_args"
    ]
    assert init_args["env"]["max_episode_steps"] == 9
    assert init_args["hidden_sizes"] == [8]


def test_validate_writes_nothing(one: Path, run: Run) -> None:
    before = sorted(one.rglob("*"))
    outcome = run("validate", "--ckpt_path", str(one), "--episodes=2")
    assert outcome.code == 0
    assert "2 episodes" in outcome.out
    assert sorted(one.rglob("*")) == before


def test_predict_writes_a_data_set(one: Path, run: Run) -> None:
    outcome = run("predict", "--ckpt_path", str(one), "--episodes=2", "--output=data/e.npz")
    assert outcome.code == 0
    with np.load("data/e.npz") as data:
        steps = len(data["rewards"])
        assert data["observations"].shape == data["next_observations"].shape == (steps, 4)
        assert set(data["actions"].tolist()) <= {0, 1}
        ends = data["terminated"] | data["truncated"]
        assert ends.sum() == 2
        assert ends[-1]
        assert data["episode"].tolist() == sorted(data["episode"].tolist())
        inside = ~ends[:-1]
        np.testing.assert_array_equal(
            data["next_observations"][:-1][inside], data["observations"][1:][inside]
        )


def test_init_from_takes_weights_only(one: Path, run: Run) -> None:
    best = str(one / "checkpoints/best.ckpt")
    words = ["--model.total_env_steps=256", "--model.learning_rate=1e-30", *SMALL, *QUIET]
    assert run("fit", "--init_from", best, "--run.name=new", *words).code == 0
    new = weights(one.with_name("new") / "checkpoints/last.ckpt")
    assert same(weights(Path(best)), new)
    assert env_steps(one.with_name("new")) == [0]


def test_weights_that_do_not_fit_are_named(one: Path, run: Run) -> None:
    words = ["--init_from", str(one / "checkpoints/best.ckpt"), "--model.hidden_sizes=[9]", *QUIET]
    outcome = run("fit", *words, "--run.name=new")
    assert outcome.code == 2
    assert "weights (of PPO) do not fit this PPO" in outcome.message
    assert "is (8, 4), expected (9, 4)" in outcome.message
    assert not one.with_name("new").exists()


def test_weights_of_another_algorithm_are_a_mistake(one: Path, run: Run) -> None:
    words = ["--init_from", str(one / "checkpoints/best.ckpt"), *QUIET, "--run.name=new"]
    outcome = run("fit", "--model=DQN", *words)
    assert outcome.code == 2
    assert "weights (of PPO) do not fit this DQN" in outcome.message
    assert not one.with_name("new").exists()


def test_a_damaged_checkpoint_is_one_line(one: Path, run: Run) -> None:
    file = one / "checkpoints/last.ckpt"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.unlink()
    file.write_bytes(content)
    for words in (["test", "--ckpt_path"], ["resume"]):
        outcome = run(*words, str(file))
        assert outcome.code == 1
        assert "last.ckpt" in outcome.message


def test_a_file_that_is_no_agent(run: Run) -> None:
    Path("a.ckpt").write_bytes(b"PK nonsense")
    outcome = run("test", "--ckpt_path", "a.ckpt")
    assert outcome.code == 1
    assert "a.ckpt" in outcome.message
    with pytest.raises(CheckpointError):
        stored_configuration(Path("a.ckpt"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model.gamma=1.5"], "gamma"),
        (["--model.total_env_steps=0"], "total_env_steps"),
        (["--model.total_env_steps=9", "--model.total_episodes=9"], "total_episodes"),
        (["--model.env.kwargs.nothing=1"], "could not be made"),
        (["--model=dqn", "--model.env=Pendulum-v1"], "Discrete"),
        (["--run.name=a/b"], "run.name"),
        (["--run.log_level=LOUD"], "run.log_level"),
        (["--trainer.eval_episodes=0"], "eval_episodes"),
        (["--trainer.accelerator=cpu", "--trainer.devices=-3"], "int > 0"),
    ],
)
def test_what_only_the_classes_know_is_one_line_too(
    words: list[str], message: str, run: Run
) -> None:
    outcome = run("fit", *words, *QUIET)
    assert outcome.code == 2
    assert message in outcome.message
    assert not Path("logs").exists()
