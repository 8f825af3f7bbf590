"""The runners import without their libraries, and give them the described settings."""

from __future__ import annotations

import importlib
import itertools
import sys

import pytest

from benchmarks.speed.cases import CASES
from benchmarks.speed.run_cleanrl import FILES, as_script, command_line
from benchmarks.speed.run_sb3 import dqn_arguments, ppo_arguments

RUNNERS = ("run_cleanrl", "run_lightning_rl", "run_sb3", "run_tianshou")


@pytest.mark.parametrize("runner", RUNNERS)
def test_a_runner_imports_no_peer(runner: str) -> None:
    assert callable(importlib.import_module(f"benchmarks.speed.{runner}").main)
    assert not {"stable_baselines3", "sbx", "tianshou"} & set(sys.modules)


def test_sb3_gets_two_separate_networks() -> None:
    arguments = ppo_arguments(CASES["ppo_cartpole"].settings)
    assert arguments["policy_kwargs"] == {"net_arch": {"pi": [64, 64], "vf": [64, 64]}}
    assert (arguments["n_steps"], arguments["batch_size"], arguments["n_epochs"]) == (128, 256, 4)


def test_sbx_gets_layers_of_nearly_the_described_size() -> None:
    settings = CASES["dqn_cartpole"].settings
    assert dqn_arguments(settings, "sb3")["policy_kwargs"] == {"net_arch": [120, 84]}
    assert dqn_arguments(settings, "sbx")["policy_kwargs"] == {"net_arch": [100, 100]}


@pytest.mark.parametrize("case", [case for case in CASES.values() if not case.library_defaults])
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
