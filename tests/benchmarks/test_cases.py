"""The described work: budgets, warm-ups and the counts that the tables are checked against."""

from __future__ import annotations

import pytest

from benchmarks.speed.cases import CASES, A2CSettings, PPOSettings, TabularSettings
from benchmarks.speed.libraries import ENVIRONMENTS, LIBRARIES, REPOSITORY

CRITICS = [(4, 256), (256, 256), (256, 1)] * 2
TEMPERATURE = (0, 1)


@pytest.mark.parametrize(
    ("case", "updates"),
    [
        ("ppo_cartpole", 1568),
        ("ppo_cheetah", 3840),
        ("dqn_cartpole", 2900),
        ("qrdqn_cartpole", 2900),
        ("a2c_cartpole", 1500),
        ("sac_pendulum", 3 * 2000),  # critics, actor, temperature
        ("td3_pendulum", 2000 + 1000),  # critics, actor
        ("tabular_taxi", 400_000),
    ],
)
def test_updates_of_a_whole_run(case: str, updates: int) -> None:
    assert CASES[case].updates() == updates


@pytest.mark.parametrize(
    ("case", "layers"),
    [
        ("ppo_cartpole", [(4, 64), (64, 64), (64, 2), (4, 64), (64, 64), (64, 1)]),
        ("dqn_cartpole", [(4, 120), (120, 84), (84, 2)]),
        ("qrdqn_cartpole", [(4, 120), (120, 84), (84, 2 * 25)]),
        ("sac_pendulum", [*CRITICS, (3, 256), (256, 256), (256, 2), TEMPERATURE]),
        ("td3_pendulum", [*CRITICS, (3, 256), (256, 256), (256, 1)]),
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
    if isinstance(settings, PPOSettings | A2CSettings):
        rollout = settings.num_steps * case.num_envs
        assert case.warmup_env_steps % rollout == 0
        assert rollout % getattr(settings, "minibatch_size", rollout) == 0
        assert case.library_defaults or case.total_env_steps % rollout == 0
    elif not isinstance(settings, TabularSettings):
        assert case.warmup_env_steps > settings.learning_starts


def test_every_peer_s_case_has_a_peer_and_our_own_ones_have_none():
    peers = {name for library in LIBRARIES.values() if library.is_peer for name in library.cases}
    assert peers == {name for name, case in CASES.items() if not case.own_only}
    assert "sac_wide" in LIBRARIES["lightning_rl-bf16"].cases
    assert LIBRARIES["bare_env"].cases == ("tabular_taxi", "tabular_taxi_1")
    assert not set(LIBRARIES["bare_env"].cases) & set(LIBRARIES["lightning_rl-eager"].cases)


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
