"""Tabular algorithms: exploration, schedules, stops inside a chunk, files, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch

from lightning_rl.algorithms import SARSA, Algorithm, ExpectedSARSA, QLearning
from lightning_rl.callbacks.base import EventCallback
from lightning_rl.errors import ConfigError, Interrupted, TrainingFailed
from lightning_rl.experience import tabular
from lightning_rl.experience.budget import Budget
from lightning_rl.experience.tabular import Decay
from lightning_rl.experience.tabular_chunk import Chunk, SoloChunk
from lightning_rl.runs.front_door import make, run
from tests.algorithms.walk import BITS, COUNT, collected, table_of, walk

Fit = Callable[..., pl.Trainer]
EVERY = pytest.mark.parametrize("cls", [QLearning, SARSA, ExpectedSARSA])


# The exploring policy.


def test_equals_are_broken_by_chance_while_exploring_and_by_order_when_greedy(fit: Fit):
    agent = QLearning(
        {**BITS, "num_envs": 4}, 2_000, seed=1, learning_rate=0.0,
        epsilon_start=0.0, epsilon_schedule="constant",
    )  # fmt: skip
    actions = [step["action"] for step in collected(fit, agent)]
    assert 0.45 < np.mean(actions) < 0.55
    assert agent.predict(np.array([0, 1] * 50)).tolist() == [0] * 100
    drawn = agent.predict(np.zeros(400, dtype=np.int64), deterministic=False)
    assert 0.4 < drawn.mean() < 0.6


def logged(fit: Fit, agent: Algorithm, tag: str) -> list[float]:
    rows: list[float] = []
    note = lambda trainer, agent, metrics, at: rows.append(metrics[tag])  # noqa: E731
    fit(agent, callbacks=[EventCallback(on_metrics=note)])
    return rows


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [0.7, 0.4, 0.4, 0.4]),  # over half of the schedule
        ({"epsilon_decay_env_steps": 400}, [0.85, 0.7, 0.55, 0.4]),
        ({"schedule_env_steps": 800}, [0.85, 0.7, 0.55, 0.4]),
        ({"epsilon_schedule": "constant"}, [1.0] * 4),
        (
            {
                "epsilon_schedule": "exponential",
                "epsilon_end": 0.25,
                "epsilon_decay_env_steps": 200,
            },
            [0.5, 0.25, 0.25, 0.25],
        ),
    ],
)
@EVERY
def test_epsilon_schedules(fit: Fit, cls: Any, options: dict[str, Any], expected: list[float]):
    arguments = {"epsilon_end": 0.4, "env_steps_per_iteration": 100, "seed": 1, **options}
    assert logged(fit, cls(COUNT, 400, **arguments), "train/epsilon") == pytest.approx(expected)


@pytest.mark.parametrize("schedule", ["constant", "linear", "exponential"])
@pytest.mark.parametrize("env_steps", [None, 300])
def test_a_schedule_known_ahead_is_that_of_each_step(schedule: Any, env_steps: int | None):
    decay = Decay(0.9, 0.07, schedule, env_steps, part=0.6)
    run: Any = SimpleNamespace(episodes=0, budget=Budget.create(700, None, None))
    run.total_env_steps = 700
    for begin in (0, 203, 408):
        steps, now = range(begin, begin + 90, 3), []
        for run.env_steps in steps:
            now.append(decay.now(run))
        assert decay.ahead(run, steps) == now  # to the last bit


def test_epsilon_follows_finished_episodes(fit: Fit):
    """An episode of the counting probe takes at least five steps, so chance has little say."""
    agent = QLearning(
        COUNT, total_episodes=40, seed=1, epsilon_end=0.0, epsilon_decay_episodes=20,
        env_steps_per_iteration=20,
    )  # fmt: skip
    rows: list[tuple[int, float]] = []
    note = EventCallback(
        on_metrics=lambda trainer, agent, metrics, at: rows.append(
            (agent.episodes, metrics["train/epsilon"])
        )
    )
    fit(agent, callbacks=[note])
    assert [epsilon for _, epsilon in rows] == pytest.approx(
        [max(0.0, 1.0 - episodes / 20) for episodes, _ in rows]
    )
    assert agent.epsilon == 0.0


@EVERY
def test_learning_rate_schedules(fit: Fit, cls: Any):
    arguments = {"learning_rate": 0.8, "env_steps_per_iteration": 100, "seed": 1}
    shapes = {
        "constant": [0.8] * 4,
        "linear": [0.65, 0.5, 0.35, 0.2],
        "exponential": [0.8 / 4**0.25, 0.4, 0.8 / 4**0.75, 0.2],
    }
    for schedule, expected in shapes.items():
        agent = cls(COUNT, 400, learning_rate_schedule=schedule, learning_rate_end=0.2, **arguments)
        assert logged(fit, agent, "train/learning_rate") == pytest.approx(expected)


def test_the_learning_rate_falls_within_a_chunk(fit: Fit):
    """The number of steps in a chunk is a matter of speed and changes nothing that is learned."""
    tables = []
    for chunk in (10, 100, 400):
        agent = ExpectedSARSA(
            walk(1), 400, seed=2, learning_rate_schedule="linear", learning_rate_end=0.0,
            epsilon_start=0.5, env_steps_per_iteration=chunk,
        )  # fmt: skip
        rates: list[float] = []
        learn = agent.learn

        def watch(tables: Any, transitions: Any, epsilon: float, rate: float, coins: Any,
                  to: Any = rates, learn: Any = learn) -> Any:  # fmt: skip
            to.append(rate)
            return learn(tables, transitions, epsilon, rate, coins)

        agent.learn = watch  # type: ignore[method-assign]
        fit(agent)
        tables.append(rates)
    assert tables[0] == pytest.approx(tables[1])
    assert tables[0] == pytest.approx(tables[2])
    assert tables[0] == pytest.approx(np.linspace(0.1, 0.0, 401)[1:].tolist())


@pytest.mark.parametrize("decay", ["linear", "episodes"])
@pytest.mark.parametrize(
    ("cls", "options"), [(QLearning, {}), (QLearning, {"double": True}), (SARSA, {})]
)
def test_a_single_environment_is_learned_from_as_several_are(
    fit: Fit, monkeypatch: pytest.MonkeyPatch, cls: Any, options: Any, decay: str
):
    """Its chunk is another class, for speed alone: every bit is the general one's."""
    if decay == "episodes":
        options = {**options, "epsilon_decay_episodes": 50}
    runs = []
    for make_chunk in (tabular.make_chunk, Chunk):
        monkeypatch.setattr(tabular, "make_chunk", make_chunk)
        agent = cls(walk(1), 600, seed=3, initial_value=0.5, env_steps_per_iteration=70, **options)
        runs.append((collected(fit, agent), table_of(agent).tolist()))
    assert runs[0] == runs[1]
    assert isinstance(agent._chunk, Chunk)
    assert not isinstance(agent._chunk, SoloChunk)


# Stops, failures, files.


def stopped_and_resumed(fit: Fit, build: Any, at: list[int], folder: Path) -> Any:
    """Train with a request to stop before each of some env steps, and a resume behind each."""
    path = None
    for stop in at:
        agent, saved = build(), folder / f"{stop}.ckpt"
        poll = agent.poll

        def polling(agent: Any = agent, stop: int = stop, poll: Any = poll) -> None:
            if agent.env_steps >= stop:
                agent.stop_requested = 15
            poll()

        agent.poll = polling
        save = EventCallback(
            on_stop=lambda trainer, agent, saved=saved: trainer.save_checkpoint(saved)
        )
        with pytest.raises(Interrupted):
            fit(agent, ckpt_path=path, callbacks=[save])
        path = str(saved)
    agent = build()
    fit(agent, ckpt_path=path)
    return agent


@pytest.mark.parametrize("options", [{}, {"double": True}, {"cls": SARSA}, {"cls": ExpectedSARSA}])
def test_a_run_stopped_inside_chunks_equals_one_that_was_not(
    fit: Fit, options: dict[str, Any], tmp_path: Path
):
    options = dict(options)
    cls = options.pop("cls", QLearning)

    def build() -> Any:
        return cls(
            {"id": "Taxi-v4", "num_envs": 2, "max_episode_steps": 9}, 160, seed=3,
            env_steps_per_iteration=40, epsilon_start=0.5, learning_rate_schedule="linear",
            **options,
        )  # fmt: skip

    straight = build()
    fit(straight)
    resumed = stopped_and_resumed(fit, build, [2, 18, 38, 40, 42, 120], tmp_path)
    assert np.array_equal(table_of(resumed), table_of(straight))
    assert resumed.env_steps == straight.env_steps == 160
    for own, other in zip(
        resumed.streams.state_dict()["numpy"].values(),
        straight.streams.state_dict()["numpy"].values(),
        strict=True,
    ):
        assert own == other


def test_a_reward_that_is_not_finite_is_not_learned_from(fit: Fit):
    agent = QLearning(walk(1, kwargs={"nan_at": 33}), 200, seed=1, env_steps_per_iteration=50)
    with pytest.raises(TrainingFailed, match=r"row 0\) returned a reward.*near env step 32"):
        fit(agent)
    assert np.isfinite(table_of(agent)).all()


def test_metrics_of_a_run(tmp_path: Path):
    agent = make("q_learning", env="Blackjack-v1", total_env_steps=300, seed=1, epsilon_end=0.25)
    result = run(agent, run={"root": str(tmp_path)}, trainer={"enable_progress_bar": False})
    assert result.success
    assert result.metrics["q_table_size"] == 32 * 11 * 2 * 2
    assert result.metrics["final_epsilon"] == 0.25


# What is refused.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"gamma": 1.5}, r"expected gamma to be in \[0.0, 1.0\], received 1.5"),
        ({"learning_rate": 1.5}, r"expected learning_rate to be in \[0.0, 1.0\]"),
        ({"epsilon_start": -0.1}, "expected epsilon_start"),
        ({"epsilon_end": 2.0}, "expected epsilon_end"),
        ({"epsilon_decay_env_steps": 0}, "expected epsilon_decay_env_steps to be at least 1"),
        (
            {"epsilon_decay_env_steps": 5, "epsilon_decay_episodes": 6},
            "one of epsilon_decay_env_steps and epsilon_decay_episodes, received 5 and 6",
        ),
        ({"epsilon_schedule": "linaer"}, "did you mean 'linear'"),
        (
            {"epsilon_schedule": "exponential", "epsilon_end": 0.0},
            "epsilon_schedule exponential to run between numbers above 0, received 1.0 and 0.0",
        ),
        ({"env_steps_per_iteration": 0}, "expected env_steps_per_iteration"),
        ({"env": "CartPole-v1"}, "expects an observation space of Discrete.*use DQN"),
        ({"env": {"id": "FrozenLake-v1", "normalize_reward": True}}, "leave env.normalize_reward"),
        ({"env": {**BITS, "kwargs": {"observation": "discrete", "action": "box"}}}, "Discrete act"),
    ],
)
@EVERY
def test_mistakes_are_refused_in_one_line(cls: Any, arguments: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message) as caught:
        cls(**{"env": "FrozenLake-v1", **arguments})
    assert "\n" not in str(caught.value)


def test_several_processes_are_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(QLearning, "num_ranks", 2)
    with pytest.raises(ConfigError, match="QLearning learns in one process, received 2"):
        QLearning("FrozenLake-v1").setup("fit")


def test_a_loaded_agent_knows_its_table(fit: Fit, tmp_path: Path):
    agent = QLearning("FrozenLake-v1", 200, seed=1, double=True, initial_value=1.0)
    fit(agent).save_checkpoint(tmp_path / "a.ckpt")
    loaded = Algorithm.load_from_checkpoint(tmp_path / "a.ckpt")
    assert np.array_equal(table_of(loaded), table_of(agent))
    assert loaded.predict(3) == agent.predict(3)
    assert loaded.table.arrays[0].base is not None
    assert torch.equal(loaded.table.values[1], torch.from_numpy(loaded.table.arrays[1]))
