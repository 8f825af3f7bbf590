"""The runners import without their libraries, and give them the described settings."""

from __future__ import annotations

import argparse
import importlib
import itertools
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.speed import run_bare_env as bare_env
from benchmarks.speed import run_lightning_rl as ours
from benchmarks.speed.cases import CASES
from benchmarks.speed.libraries import LIBRARIES
from benchmarks.speed.run_cleanrl import FILES, as_script, command_line
from benchmarks.speed.run_sb3 import arguments_of, dqn_arguments, package, ppo_arguments
from lightning_rl.functional.optimizers import FlatAdam, FlatRMSprop

ROOT = Path(__file__).parents[2]
RUNNERS = ("run_bare_env", "run_cleanrl", "run_lightning_rl", "run_sb3", "run_tianshou")


@pytest.mark.parametrize("runner", RUNNERS)
def test_a_runner_can_be_called(runner: str) -> None:
    assert callable(importlib.import_module(f"benchmarks.speed.{runner}").main)


def test_no_runner_imports_a_peer() -> None:
    """In a process of its own: another test of this one may have imported them."""
    script = (
        "import importlib, sys\n"
        "for runner in sys.argv[1:]:\n"
        "    importlib.import_module(f'benchmarks.speed.{runner}')\n"
        "print({'stable_baselines3', 'sb3_contrib', 'sbx', 'tianshou'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", script, *RUNNERS]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stdout == "set()\n"


def test_sb3_gets_two_separate_networks() -> None:
    arguments = ppo_arguments(CASES["ppo_cartpole"].settings)
    assert arguments["policy_kwargs"] == {"net_arch": {"pi": [64, 64], "vf": [64, 64]}}
    assert (arguments["n_steps"], arguments["batch_size"], arguments["n_epochs"]) == (128, 256, 4)


def test_sbx_gets_layers_of_nearly_the_described_size() -> None:
    settings = CASES["dqn_cartpole"].settings
    assert dqn_arguments(settings, "sb3")["policy_kwargs"] == {"net_arch": [120, 84]}
    assert dqn_arguments(settings, "sbx")["policy_kwargs"] == {"net_arch": [100, 100]}


def test_sb3_gets_what_td3_needs_and_sac_has_not() -> None:
    sac, td3 = (arguments_of(CASES[f"{name}_pendulum"], "sb3") for name in ("sac", "td3"))
    assert sac["policy_kwargs"] == td3["policy_kwargs"] == {"net_arch": [256, 256]}
    assert (sac["batch_size"], sac["train_freq"], sac["gradient_steps"]) == (256, 1, 1)
    assert td3["policy_delay"] == 2
    assert set(td3) - set(sac) == {"policy_delay", "target_policy_noise", "target_noise_clip"}


def test_sb3_finds_quantile_regression_in_its_contrib_package() -> None:
    case = CASES["qrdqn_cartpole"]
    assert package(case, "sb3") == "sb3_contrib"
    kwargs = arguments_of(case, "sb3")["policy_kwargs"]
    assert kwargs == {"net_arch": [120, 84], "n_quantiles": 25}


def test_what_a_library_has_not_is_refused() -> None:
    with pytest.raises(TypeError, match="no qlearning in sb3"):
        arguments_of(CASES["tabular_taxi"], "sb3")


def test_bare_environments_are_stepped_and_nothing_is_learned() -> None:
    case = replace(CASES["tabular_taxi"], total_env_steps=800, warmup_env_steps=80)
    outcome, clock = bare_env.train(case, argparse.Namespace(seed=1))
    assert (outcome.gradient_steps, outcome.parameters) == (0, 0)
    assert clock.timings()["timed_steps"] == 720
    assert max(outcome.returns, default=-200) < 0


@pytest.mark.parametrize(
    ("name", "env_steps", "steps", "parameters"),
    [
        ("a2c_cartpole", 400, 10, 9_155),
        ("sac_pendulum", 510, 33, 201_989),  # an update after the first 500 and one at each step
        ("td3_pendulum", 510, 16, 201_731),
        ("tabular_taxi", 1_000, 1_000, 3_000),
    ],
)
def test_our_own_optimizer_steps_are_counted(
    name: str, env_steps: int, steps: int, parameters: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.chdir", lambda folder: None)
    for optimizer, method in ((FlatAdam, "count_step"), (FlatRMSprop, "step")):
        monkeypatch.setattr(optimizer, method, getattr(optimizer, method))  # put back afterwards
    case = replace(CASES[name], total_env_steps=env_steps, warmup_env_steps=0)
    options = argparse.Namespace(compile="false", trainer="plain", precision="32-true", seed=1)
    outcome, _ = ours.train(case, options)
    assert (outcome.gradient_steps, outcome.parameters) == (steps, parameters)


CLEANRL = [CASES[name] for name in LIBRARIES["cleanrl"].cases]


@pytest.mark.parametrize("case", CLEANRL, ids=lambda case: case.name)
def test_cleanrl_has_a_file_and_options_for_every_equal_case(case) -> None:
    assert (case.algorithm, case.env_id) in FILES
    words = command_line(case, seed=3)
    options = dict(itertools.pairwise(words))
    assert options["--seed"] == "3"
    assert options["--total-timesteps"] == str(case.total_env_steps)
    if case.name == "ppo_cheetah":
        assert options["--num-minibatches"] == "32"


def test_a_script_sees_its_checkout_and_leaves_nothing_behind(tmp_path) -> None:
    before = (list(sys.argv), list(sys.path))
    with as_script(tmp_path, ["--seed", "1"]):
        assert sys.argv == ["cleanrl", "--seed", "1"]
        assert sys.path[0] == str(tmp_path)
    assert (sys.argv, sys.path) == before
