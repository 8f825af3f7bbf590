"""Distributions over configuration values: what is drawn, listed, refused and put where."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lightning_rl.errors import ConfigError
from lightning_rl.runs.search_space import (
    Distribution,
    choice,
    draw,
    grid,
    loguniform,
    parse_distribution,
    place,
    randint,
    uniform,
)

DRAWS = 4_000


def drawn(distribution: Distribution) -> list:
    generator = np.random.default_rng(0)
    return [distribution.sample(generator) for _ in range(DRAWS)]


def test_uniform_draws_fill_the_interval():
    values = drawn(uniform(-1.0, 3.0))
    assert all(-1.0 <= value <= 3.0 for value in values)
    assert np.mean(values) == pytest.approx(1.0, abs=0.1)


def test_half_of_log_uniform_draws_lie_below_the_geometric_mean():
    values = drawn(loguniform(1e-5, 1e-1))
    assert all(1e-5 <= value <= 1e-1 for value in values)
    assert np.mean([value < 1e-3 for value in values]) == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("kind", ["int_uniform", "int_log_uniform"])
def test_whole_numbers_include_both_bounds(kind: str):
    values = drawn(Distribution(kind, (2, 5)))
    assert {type(value) for value in values} == {int}
    assert set(values) == {2, 3, 4, 5}
    if kind == "int_uniform":
        assert min(values.count(number) for number in range(2, 6)) > DRAWS / 5


def test_choices_keep_their_type():
    values = drawn(choice([64, 64], "relu", None, True))
    assert len({str(value) for value in values}) == 4
    assert [64, 64] in values
    assert choice([1, 2]) == choice(1, 2)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ([1, 2], choice(1, 2)),
        (3, choice(3)),
        ({"choice": [[64, 64], [32]]}, choice([64, 64], [32])),
        ({"log_uniform": [1e-5, 1e-2]}, loguniform(1e-5, 1e-2)),
        ({"uniform": [0, 1]}, uniform(0, 1)),
        ({"int_uniform": [1, 9]}, randint(1, 9)),
    ],
)
def test_what_a_file_may_say(value: object, expected: Distribution):
    assert parse_distribution(value) == expected


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"loguniform": [1, 2]}, "did you mean 'log_uniform'"),
        ({"log_uniform": [0, 1]}, "above 0"),
        ({"log_uniform": [1e-5]}, r"expected \[lowest, highest\]"),
        ({"uniform": [2, 1]}, "lowest < highest"),
        ({"uniform": ["a", 1]}, r"expected \[lowest, highest\]"),
        ({"int_uniform": [1.5, 3]}, "whole numbers"),
        ({"uniform": 3}, "expected a list"),
        ({"uniform": [0, 1], "choice": [1]}, "one distribution"),
        ({"choice": []}, "at least one value"),
        ([], "at least one value"),
    ],
)
def test_what_it_may_not_say(value: object, message: str):
    with pytest.raises(ConfigError, match=message):
        parse_distribution(value)


def test_drawing_takes_distributions_lists_and_functions():
    generator = np.random.default_rng(0)
    values = draw({"a": uniform(0, 1), "b": [7], "c": lambda: "drawn"}, generator)
    assert 0 <= values["a"] <= 1
    assert (values["b"], values["c"]) == (7, "drawn")


def test_a_grid_is_every_combination():
    assert list(grid({"a": [1, 2], "b": choice("x", "y")})) == [
        {"a": 1, "b": "x"},
        {"a": 1, "b": "y"},
        {"a": 2, "b": "x"},
        {"a": 2, "b": "y"},
    ]
    with pytest.raises(ConfigError, match="a: a grid needs a list of values, got uniform"):
        list(grid({"a": uniform(0, 1)}))


def test_values_are_put_where_the_command_line_would_put_them():
    base = {"model": {"class_path": "PPO", "init_args": {"gamma": 0.9, "env": "CartPole-v1"}}}
    values = {
        "model.learning_rate": 0.1,
        "model.init_args.gamma": 0.5,
        "model.env.num_envs": 3,
        "trainer.max_time": "00:01:00:00",
    }
    placed = place(base, values)
    assert placed["model"]["init_args"] == {
        "gamma": 0.5,
        "env": {"id": "CartPole-v1", "num_envs": 3},
        "learning_rate": 0.1,
    }
    assert placed["trainer"] == {"max_time": "00:01:00:00"}
    assert base["model"]["init_args"]["gamma"] == 0.9
    assert place({"model": "ppo"}, {"model.gamma": 1.0}) == {
        "model": {"class_path": "ppo", "init_args": {"gamma": 1.0}}
    }


def test_bounds_must_be_finite():
    with pytest.raises(ConfigError):
        uniform(0.0, math.inf)
