"""The described work: budgets, warm-ups and the counts that the tables are checked against."""

from __future__ import annotations

import pytest

from benchmarks.speed.cases import CASES, PPOSettings
from benchmarks.speed.libraries import ENVIRONMENTS, LIBRARIES, REPOSITORY


@pytest.mark.parametrize(
    ("case", "updates"), [("ppo_cartpole", 1568), ("ppo_cheetah", 3840), ("dqn_cartpole", 2900)]
)
def test_updates_of_a_whole_run(case: str, updates: int) -> None:
    assert CASES[case].updates() == updates


@pytest.mark.parametrize(
    ("case", "layers"),
    [
        ("ppo_cartpole", [(4, 64), (64, 64), (64, 2), (4, 64), (64, 64), (64, 1)]),
        ("dqn_cartpole", [(4, 120), (120, 84), (84, 2)]),
    ],
)
def test_parameters_are_those_of_the_described_layers(
    case: str, layers: list[tuple[int, int]]
) -> None:
    assert CASES[case].parameters == sum(rows * columns + columns for rows, columns in layers)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_clock_starts_between_two_units_within_the_budget(case) -> None:
    settings = case.settings
    assert 0 < case.warmup_env_steps < case.total_env_steps / 2
    if isinstance(settings, PPOSettings):
        rollout = settings.num_steps * case.num_envs
        assert case.warmup_env_steps % rollout == 0
        assert rollout % settings.minibatch_size == 0
        assert case.library_defaults or case.total_env_steps % rollout == 0
    else:
        assert case.warmup_env_steps > settings.learning_starts


@pytest.mark.parametrize("library", LIBRARIES.values(), ids=LIBRARIES)
def test_every_library_has_a_runner_an_environment_and_known_cases(library) -> None:
    assert (REPOSITORY / "benchmarks" / "speed" / f"{library.runner}.py").is_file()
    assert library.environment is None or library.environment in ENVIRONMENTS
    assert set(library.cases) <= set(CASES)


def test_the_command_names_interpreter_module_and_case() -> None:
    python, dash_m, *rest = LIBRARIES["sbx"].command("ppo_cartpole")
    assert python.endswith("/.venvs/sbx/bin/python")
    assert dash_m == "-m"
    assert rest == ["benchmarks.speed.run_sb3", "--case", "ppo_cartpole", "--flavour", "sbx"]
