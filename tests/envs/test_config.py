"""The description of an environment: every field, every mistake, and its form as primitives."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit, TransformReward

from lightning_rl.envs.config import EnvConfig
from lightning_rl.envs.probes import CountEnv
from lightning_rl.envs.registry import todays_id
from lightning_rl.envs.wrappers import FreshWorld
from lightning_rl.errors import ConfigError


def wrappers_of(env: gymnasium.Env) -> list[str]:
    names = []
    while isinstance(env, gymnasium.Wrapper):
        names.append(type(env).__name__)
        env = env.env
    return names


def steps_until_the_end(env: gymnasium.Env, seed: int = 0) -> int:
    env.reset(seed=seed)
    for step in range(1, 1000):
        _, _, terminated, truncated, _ = env.step(env.action_space.sample())
        if terminated or truncated:
            return step
    return 1000


def test_an_id_is_made_without_costly_wrappers() -> None:
    assert wrappers_of(EnvConfig("CartPole-v1").make()) == ["TimeLimit"]


def test_kwargs_reach_the_environment_and_evaluation_has_its_own() -> None:
    config = EnvConfig(
        "LightningRL/Count-v0",
        kwargs={"min_length": 3, "max_length": 4},
        eval_kwargs={"max_length": 9},
        imports=["lightning_rl.envs.probes"],
    )
    assert (config.make().unwrapped.min_length, config.make().unwrapped.max_length) == (3, 4)  # type: ignore[attr-defined]
    evaluation = config.make(evaluation=True).unwrapped
    assert (evaluation.min_length, evaluation.max_length) == (3, 9)  # type: ignore[attr-defined]
    assert config.make(evaluation=True, max_length=5).unwrapped.max_length == 5  # type: ignore[attr-defined]


def test_render_mode_is_an_override() -> None:
    env = EnvConfig("CartPole-v1").make(render_mode="rgb_array")
    env.reset(seed=0)
    assert np.shape(env.render()) == (400, 600, 3)
    env.close()


@pytest.mark.parametrize("env", [{"id": "MountainCar-v0"}, {"factory": CountEnv}])
def test_max_episode_steps_overrides_the_registered_limit(env: dict[str, Any]) -> None:
    config = EnvConfig(**env, max_episode_steps=4)
    assert steps_until_the_end(config.make()) == 4
    assert wrappers_of(config.make()).count("TimeLimit") == 1


def test_frame_stack_stacks() -> None:
    config = EnvConfig(factory=CountEnv, frame_stack=3)
    env = config.make()
    env.reset(seed=0)
    observation = env.step(0)[0]
    assert observation.tolist() == [[0.0], [0.0], [1.0]]
    assert config.spaces()[0].shape == (3, 1)


def double(reward: Any) -> float:
    return 2.0 * float(reward)


def test_wrappers_are_laid_first_innermost() -> None:
    config = EnvConfig(
        "CartPole-v1",
        wrappers=[
            "gymnasium.wrappers.RecordEpisodeStatistics",
            {"class_path": "gymnasium.wrappers.TimeLimit", "init_args": {"max_episode_steps": 3}},
            lambda env: TransformReward(env, double),
        ],
    )
    env = config.make()
    assert wrappers_of(env)[:3] == ["TransformReward", "TimeLimit", "RecordEpisodeStatistics"]
    env.reset(seed=0)
    assert env.step(0)[1] == 2.0
    assert steps_until_the_end(env) == 3


def test_an_untrusted_wrapper_is_not_imported() -> None:
    with pytest.raises(ConfigError, match="not on the allow-list"):
        EnvConfig("CartPole-v1", wrappers=["this.Wrapper"]).make()
    assert "this" not in sys.modules


@pytest.mark.parametrize("spec", [{"init_args": {}}, {"class_path": "a.B", "args": {}}, 3])
def test_a_malformed_wrapper_is_a_mistake(spec: Any) -> None:
    with pytest.raises(ConfigError, match="expected a wrapper as"):
        EnvConfig("CartPole-v1", wrappers=[spec]).make()


def test_a_wrapper_that_is_no_wrapper_is_a_mistake() -> None:
    with pytest.raises(ConfigError, match=r"could not be laid over .*missing 1 required"):
        EnvConfig("CartPole-v1", wrappers=["gymnasium.wrappers.TimeLimit"]).make()


class Mine(CountEnv):
    """An environment of the user's."""


def make_mine(max_length: int = 8) -> gymnasium.Env:
    return TimeLimit(Mine(max_length=max_length), 3)


@pytest.mark.parametrize("factory", [Mine, make_mine, lambda: Mine()])
def test_classes_functions_and_lambdas_are_environments(factory: Any) -> None:
    config = EnvConfig.coerce(factory)
    assert isinstance(config.make().unwrapped, Mine)
    assert config.make() is not config.make()


def test_kwargs_reach_a_factory() -> None:
    config = EnvConfig(factory=make_mine, kwargs={"max_length": 6})
    assert config.make().unwrapped.max_length == 6  # type: ignore[attr-defined]
    assert config.name == "make_mine"


def test_a_factory_of_something_else_is_a_mistake() -> None:
    with pytest.raises(ConfigError, match=r"to return a gymnasium.Env, received dict"):
        EnvConfig(factory=dict).make()


def test_box2d_walkers_get_a_fresh_world() -> None:
    pytest.importorskip("Box2D")
    env = EnvConfig("BipedalWalker-v3").make()
    assert isinstance(env, FreshWorld)
    env.close()


# Names.


def test_an_unknown_id_names_the_three_nearest() -> None:
    with pytest.raises(ConfigError) as caught:
        EnvConfig("CartPol-v1").make()
    message = str(caught.value)
    assert message.startswith("unknown environment 'CartPol-v1'; nearest: CartPole-v1")
    assert message.count(",") == 2


def test_an_id_like_no_other_points_to_the_list() -> None:
    with pytest.raises(ConfigError, match="`lightning-rl list environments` shows them"):
        EnvConfig("QQQQQQ").make()


@pytest.mark.parametrize(
    ("old", "new"), [("Taxi-v3", "Taxi-v4"), ("CliffWalking-v0", "CliffWalking-v1")]
)
def test_a_retired_id_is_replaced_and_said_once(
    old: str, new: str, caplog: pytest.LogCaptureFixture
) -> None:
    todays_id.cache_clear()
    config = EnvConfig(old)
    for _ in range(3):
        assert config.make().spec.id == new  # type: ignore[union-attr]
    assert [record.getMessage() for record in caplog.records] == [
        f"{old} is called {new} in today's Gymnasium; using that"
    ]


@pytest.fixture
def untrusted_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "canary_package.py").write_text("raise RuntimeError('imported')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    return "canary_package"


@pytest.mark.parametrize(
    "fields",
    [{"id": "canary_package:Some-v0"}, {"id": "CartPole-v1", "imports": ["canary_package"]}],
)
def test_packages_are_imported_only_with_trust(
    fields: dict[str, Any], untrusted_package: str
) -> None:
    with pytest.raises(ConfigError, match="--trust canary_package"):
        EnvConfig(**fields).make()
    assert untrusted_package not in sys.modules


def test_an_id_may_name_its_package() -> None:
    assert isinstance(
        EnvConfig("lightning_rl.envs.probes:LightningRL/Count-v0").make().unwrapped, CountEnv
    )


def test_refused_keywords_are_named() -> None:
    with pytest.raises(
        ConfigError, match=r"'CartPole-v1' could not be made with \{'mass': 2\}: .*mass"
    ):
        EnvConfig("CartPole-v1", kwargs={"mass": 2}).make()


def refuse() -> gymnasium.Env:
    raise TypeError


def test_an_error_without_words_is_still_reported() -> None:
    gymnasium.register("Wordless-v0", entry_point=refuse)
    try:
        with pytest.raises(ConfigError, match=r"could not be made with \{\}: "):
            EnvConfig("Wordless-v0").make()
    finally:
        gymnasium.registry.pop("Wordless-v0")


# Values.


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "exactly one of env.id and env.factory"),
        ({"id": "CartPole-v1", "factory": CountEnv}, "exactly one of env.id and env.factory"),
        ({"id": CountEnv}, "a registered id, received .*CountEnv.*goes into env.factory"),
        ({"id": "CartPole-v1", "num_envs": 0}, "env.num_envs to be at least 1, received 0"),
        ({"id": "CartPole-v1", "max_episode_steps": 0}, "env.max_episode_steps to be at least 1"),
        ({"id": "CartPole-v1", "frame_stack": -1}, "env.frame_stack to be at least 1"),
        ({"id": "CartPole-v1", "vectorization": "syn"}, "env.vectorization among sync, async"),
        ({"id": "CartPole-v1", "action": "clamp"}, "env.action among clip, rescale"),
    ],
)
def test_values_out_of_range_are_mistakes(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        EnvConfig(**fields)


FULL: dict[str, Any] = {
    "id": "CartPole-v1",
    "num_envs": 4,
    "vectorization": "async",
    "kwargs": {"sutton_barto_reward": True},
    "wrappers": ["gymnasium.wrappers.RecordEpisodeStatistics"],
    "max_episode_steps": 50,
    "normalize_observation": True,
    "normalize_reward": True,
    "frame_stack": 2,
    "imports": ["lightning_rl.envs.probes"],
    "eval_kwargs": {"sutton_barto_reward": False},
    "action": "rescale",
}


def test_every_field_survives_as_primitives() -> None:
    config = EnvConfig(**FULL)
    assert config.to_dict() == FULL
    assert EnvConfig.coerce(config.to_dict()) == config


def test_defaults_are_left_out() -> None:
    assert EnvConfig("CartPole-v1").to_dict() == {"id": "CartPole-v1"}


def test_the_primitives_are_a_copy() -> None:
    config = EnvConfig(**FULL)
    config.to_dict()["kwargs"]["sutton_barto_reward"] = None
    assert config.kwargs == {"sutton_barto_reward": True}


def test_an_environment_description_is_recognised() -> None:
    config = EnvConfig("CartPole-v1")
    assert EnvConfig.coerce(config) is config
    assert EnvConfig.coerce("CartPole-v1") == config
    assert EnvConfig.coerce({"id": "CartPole-v1"}) == config


@pytest.mark.parametrize(
    ("env", "message"),
    [
        (
            {"id": "CartPole-v1", "num_env": 2},
            "unknown key 'num_env' of env; did you mean 'num_envs'",
        ),
        (3, "expected env to be an id, an EnvConfig, a mapping or a factory, received 3"),
    ],
)
def test_another_description_is_a_mistake(env: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        EnvConfig.coerce(env)


def test_a_factory_is_noted_by_name_and_asked_for() -> None:
    stored = EnvConfig(factory=make_mine, num_envs=2).to_dict()
    assert stored == {"factory": "make_mine", "num_envs": 2}
    again = EnvConfig.coerce(stored)
    assert again.to_dict() == stored
    with pytest.raises(ConfigError, match="the environment factory make_mine; pass it as env="):
        again.make()


# Spaces.


def test_spaces_are_flat_and_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    nested = spaces.Dict({"a": spaces.Tuple((spaces.Discrete(2),))})

    class Nested(CountEnv):
        made = 0

        def __init__(self) -> None:
            super().__init__()
            Nested.made += 1
            self.observation_space = nested

    config = EnvConfig(factory=Nested)
    assert config.spaces() == (spaces.Dict({"a.0": spaces.Discrete(2)}), spaces.Discrete(2))
    config.spaces()
    assert Nested.made == 1


def test_remembered_spaces_need_no_environment() -> None:
    config = EnvConfig(factory="gone")  # type: ignore[arg-type]
    flat = spaces.Dict({"a.b": spaces.Discrete(3)})
    config.remember_spaces(flat, spaces.Discrete(2))
    assert config.spaces() == (flat, spaces.Discrete(2))


def test_an_unsupported_space_is_refused() -> None:
    class Talking(CountEnv):
        def __init__(self) -> None:
            super().__init__()
            self.observation_space = spaces.Text(3)

    with pytest.raises(ConfigError, match="expected an observation space among"):
        EnvConfig(factory=Talking).spaces()


class Told(gymnasium.Wrapper):
    """Remembers what it was told."""

    def __init__(self, env: gymnasium.Env, evaluation: bool = False) -> None:
        super().__init__(env)
        self.evaluation = evaluation


def test_a_wrapper_that_asks_is_told_whether_it_evaluates() -> None:
    config = EnvConfig("CartPole-v1", wrappers=[Told, TransformNothing])
    assert config.make(evaluation=True).get_wrapper_attr("evaluation") is True
    assert config.make().get_wrapper_attr("evaluation") is False
    own = EnvConfig("CartPole-v1", wrappers=[lambda env: Told(env, True)])
    assert own.make().get_wrapper_attr("evaluation") is True


class TransformNothing(gymnasium.Wrapper):
    """Changes nothing."""


def test_frames_are_stacked_outside_the_wrappers() -> None:
    config = EnvConfig("CartPole-v1", wrappers=[TransformNothing], frame_stack=2)
    assert wrappers_of(config.make())[:2] == ["FrameStackObservation", "TransformNothing"]
