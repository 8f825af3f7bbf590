"""What every exported algorithm keeps to, whatever it learns: one list over all of them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from torch import nn

from lightning_rl import algorithms
from lightning_rl.algorithms.base import Algorithm
from lightning_rl.callbacks.base import EventCallback
from lightning_rl.errors import TrainingFailed
from lightning_rl.functional.compilation import AUTO_GRADIENT_STEPS
from lightning_rl.runs.export_check import trial_observations
from tests.algorithms.cases import CASES, NAMES

Fit = Callable[..., pl.Trainer]


def weights(agent: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in agent.parameters()])


def saved(fit: Fit, agent: Algorithm, path: Path) -> Path:
    fit(agent).save_checkpoint(path)
    return path


def test_every_exported_algorithm_has_a_case():
    assert list(NAMES) == sorted(CASES)


# Seeds.


def test_the_same_seed_gives_the_same_run_bit_for_bit(make: Any, fit: Fit):
    agents = []
    for global_seed, seed in ((0, 1), (5, 1), (0, 2)):
        torch.manual_seed(global_seed)
        np.random.seed(global_seed)
        agents.append(make(seed=seed))
        fit(agents[-1])
    first, again, other = (weights(agent) for agent in agents)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_networks_begin_alike_with_the_same_seed(make: Any):
    assert torch.equal(weights(make(seed=3)), weights(make(seed=3)))
    # A table begins with one number everywhere.
    assert torch.equal(weights(make(seed=3)), weights(make(seed=4))) is make.case.is_table


def test_a_missing_seed_is_that_of_seed_everything_or_drawn(make: Any, monkeypatch: Any):
    monkeypatch.setenv("PL_GLOBAL_SEED", "77")
    assert make(seed=None).seed == 77
    monkeypatch.delenv("PL_GLOBAL_SEED")
    drawn = {make(seed=None).seed for _ in range(3)}
    assert len(drawn) == 3
    agent = make(seed=None)
    assert agent.hyperparameters["seed"] == agent.seed


# Acting.


def test_the_policy_module_acts_as_the_agent_does(make: Any):
    """It is what `lightning-rl export` writes."""
    agent = make.case.varied(make()).eval()
    observation = trial_observations(agent.observation_space, 500)
    policy = agent.policy_module()
    # A policy with memory: at the beginning of an episode.
    memory = [] if policy.state_shape is None else [torch.zeros(500, *policy.state_shape)]
    with torch.no_grad():
        result = policy(observation, *memory)
    action = (result[0] if memory else result).numpy()
    assert np.array_equal(action, agent.act(observation))
    assert len(np.unique(action)) > 1


# The clock and the budget.


def test_the_budget_in_env_steps_is_met_to_the_unit(make: Any, fit: Fit):
    agent = make(total_env_steps=96)
    trainer = fit(agent)
    assert agent.unit_env_steps == 32
    assert agent.env_steps == 96
    assert agent.iteration == trainer.global_step == 3
    assert agent.progress == 1.0
    assert agent.elapsed_s >= agent.collect_s > 0.0


def test_a_budget_in_episodes(make: Any, fit: Fit, count_env: Any):
    agent = make(count_env, total_env_steps=None, total_episodes=10)
    ended = []
    watch = EventCallback(on_episode_end=lambda trainer, agent, episode: ended.append(episode))
    fit(agent, callbacks=[watch])
    assert agent.episodes == len(ended) >= 10
    # A unit is not cut: at most 32 steps, six episodes of five steps, over.
    assert agent.episodes <= 16
    assert [episode.index for episode in ended] == list(range(len(ended)))
    assert agent.total_episodes == 10
    assert agent.total_env_steps is None


def test_neither_budget_means_a_hundred_thousand_env_steps(make: Any):
    assert make(total_env_steps=None).total_env_steps == 100_000


def test_a_larger_budget_continues_where_the_first_ended(make: Any, fit: Fit, tmp_path: Path):
    path = saved(fit, make(total_env_steps=64), tmp_path / "a.ckpt")
    resumed = make(total_env_steps=128, schedule_env_steps=64)
    fit(resumed, ckpt_path=str(path))
    straight = make(total_env_steps=128, schedule_env_steps=64)
    fit(straight)
    assert resumed.env_steps == straight.env_steps == 128
    assert torch.equal(weights(resumed), weights(straight))


def test_a_larger_budget_in_episodes_keeps_the_schedules(make: Any, fit: Fit, tmp_path: Path):
    path = saved(fit, make(total_env_steps=None, total_episodes=2), tmp_path / "a.ckpt")
    resumed, begun = make(total_env_steps=None, total_episodes=4), []
    note = EventCallback(on_training_begins=lambda trainer, agent: begun.append(agent.progress))
    fit(resumed, ckpt_path=str(path), callbacks=[note])
    assert begun == [1.0]
    assert resumed.episodes >= 4


@pytest.mark.parametrize(("updates", "compiled"), [(0.5, False), (2.0, True)])
def test_auto_compiles_from_a_number_of_gradient_steps_on(
    make: Any, monkeypatch: Any, updates: float, compiled: bool
):
    monkeypatch.setattr("lightning_rl.functional.compilation._has_compiler", lambda: True)
    per_unit = make.case.gradient_steps
    if per_unit is None:
        assert "compile" not in make().hyperparameters
        return
    budget = int(AUTO_GRADIENT_STEPS * updates / per_unit) * 32
    agent = make(total_env_steps=budget, compile="auto")
    assert agent.compiled is compiled
    assert agent.hyperparameters["compile"] is compiled
    assert make(total_env_steps=budget, compile=not compiled).compiled is not compiled
    assert make(total_env_steps=None, total_episodes=10**9, compile="auto").compiled is False


# Events and metrics.


def test_events_come_in_the_documented_order(make: Any, fit: Fit):
    order: list[str] = []
    names = [
        "on_training_begins",
        "on_unit_boundary",
        "on_iteration_start",
        "on_rollout_start",
        "on_rollout_end",
        "on_update_start",
        "on_update_end",
        "on_iteration_end",
        "metrics",
        "on_metrics",
    ]

    def noting(name: str) -> Callable[..., dict[str, float]]:
        def note(*arguments: Any) -> dict[str, float]:
            assert isinstance(arguments[0], pl.Trainer)
            assert isinstance(arguments[1], Algorithm)
            order.append(name)
            return {"mine/number": 4.0}

        return note

    agent = make(total_env_steps=64)
    fit(agent, callbacks=[EventCallback(**{name: noting(name) for name in names})])
    head, unit = order[0], order[1 : 1 + (len(order) - 1) // 2]
    assert head == "on_training_begins"
    assert order[1:] == unit * 2
    assert sorted(unit) == sorted(names[1:])
    before = {name: unit.index(name) for name in unit}
    assert before["on_unit_boundary"] == 0
    in_order = [names[1], names[2], names[3], names[5], names[6], names[7], names[8], names[9]]
    assert [before[name] for name in in_order] == sorted(before[name] for name in in_order)
    # Off-policy, collecting and updating take turns inside the unit.
    assert before["on_rollout_start"] < before["on_rollout_end"] < before["on_update_end"]


def test_metrics_of_callbacks_and_users_go_everywhere(make: Any, fit: Fit, tmp_path: Path):
    rows: list[tuple[int, dict[str, float]]] = []
    logger = CSVLogger(tmp_path, name="", version="")

    def add(trainer: Any, agent: Any, statistics: Any) -> None:
        agent.log_metrics({"nested/mine": float(agent.iteration)})

    events = EventCallback(
        on_iteration_end=add,
        metrics=lambda trainer, agent: {"callback/number": 4.0},
        on_metrics=lambda trainer, agent, metrics, at: rows.append((at, dict(metrics))),
    )
    trainer = fit(make(total_env_steps=64), callbacks=[events], logger=logger)
    assert [at for at, _ in rows] == [32, 32, 64, 64]
    assert rows[0][1] == {"nested/mine": 1.0}
    assert rows[1][1]["callback/number"] == 4.0
    assert set(make.case.metrics) <= rows[1][1].keys()
    assert trainer.callback_metrics["nested/mine"].item() == 2.0
    assert trainer.callback_metrics["callback/number"].item() == 4.0
    table = np.genfromtxt(tmp_path / "metrics.csv", delimiter=",", names=True, deletechars="")
    assert set(table["step"]) == {32, 64}
    assert {"nested/mine", "callback/number"} <= set(table.dtype.names)


def test_a_row_every_few_units_holds_their_mean(make: Any, fit: Fit):
    rows: dict[int, list[float]] = {}
    for every in (1, 3):
        rows[every] = []
        note = lambda trainer, agent, metrics, at, to=rows[every]: to.append(metrics)  # noqa: E731
        fit(make(), callbacks=[EventCallback(on_metrics=note)], log_every_n_steps=every)
    assert len(rows[1]) == 3
    assert len(rows[3]) == 1
    for tag in {"rollout/mean_reward", "train/learning_rate"} & set(make.case.metrics):
        mean = sum(row[tag] for row in rows[1]) / 3
        assert rows[3][0][tag] == pytest.approx(mean)


def test_callbacks_see_every_statistic_of_an_update(make: Any, fit: Fit):
    seen: list[dict[str, float]] = []
    rows: list[dict[str, float]] = []
    events = EventCallback(
        on_update_end=lambda trainer, agent, statistics: seen.append(statistics),
        on_metrics=lambda trainer, agent, metrics, at: rows.append(metrics),
    )
    fit(make(), callbacks=[events])
    learned = {tag for row in rows for tag in row if tag.startswith(("train/", "rollout/"))}
    assert {tag for statistics in seen for tag in statistics} == learned
    assert seen[-1].items() <= rows[-1].items()


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
def test_an_agent_that_is_no_longer_finite_fails(make: Any, fit: Fit):
    agent = make()
    with torch.no_grad():
        for tensor in (*agent.parameters(), *agent.buffers()):
            if tensor.is_floating_point():
                tensor.fill_(torch.nan)
    with pytest.raises(TrainingFailed, match=r"is nan.*likely"):
        fit(agent)


def test_every_logged_tag_stands_in_a_docstring(make: Any, fit: Fit):
    """`lightning-rl list tags` reads the docstrings of classes."""
    continuous = isinstance(make(), algorithms.PPO)  # which logs more with Box actions
    agent, rows = make("Pendulum-v1") if continuous else make(), []
    note = lambda trainer, agent, metrics, at: rows.append(metrics)  # noqa: E731
    fit(agent, callbacks=[EventCallback(on_metrics=note)])
    own = {tag for row in rows for tag in row if tag.split("/")[0] in ("train", "rollout")}
    assert own
    missing = {tag for tag in own if f"`{tag}`" not in (type(agent).__doc__ or "")}
    assert not missing


# Evaluation.


def test_evaluation_does_not_change_training(make: Any, fit: Fit):
    plain, evaluated = make(), make()
    fit(plain)
    trainer = fit(
        evaluated,
        limit_val_batches=3,
        val_check_interval=1,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=2,
    )
    assert "eval/mean_reward" in trainer.callback_metrics
    assert torch.equal(weights(plain), weights(evaluated))
    assert plain.state_dict().keys() == evaluated.state_dict().keys()
    for key, value in plain.state_dict().items():
        assert torch.equal(value, evaluated.state_dict()[key]), key


def test_validate_and_test_play_episodes_of_their_own(make: Any, fit: Fit, count_env: Any):
    agent = make({**count_env, "num_envs": 2})
    fit(agent)
    trainer = pl.Trainer(logger=False, accelerator="cpu", enable_progress_bar=False)
    trainer.validate(agent, verbose=False)
    rewards, lengths = agent.evaluation["rewards"], agent.evaluation["lengths"]
    validated = trainer.callback_metrics["eval/mean_reward"].item()
    assert len(rewards) == 20
    assert rewards == [n * (n + 1) / 2 for n in lengths]
    assert validated == pytest.approx(np.mean(rewards))
    trainer.validate(agent, verbose=False)
    assert agent.evaluation["rewards"] == rewards
    trainer.test(agent, verbose=False)
    assert len(agent.evaluation["rewards"]) == 100
    assert agent.evaluation["lengths"][:20] != lengths
    assert trainer.callback_metrics["eval/min_reward"].item() == 15.0


def test_a_stock_trainer_gets_what_it_lacks(make: Any, fit: Fit, count_env: Any, caplog: Any):
    tags: set[str] = set()
    note = lambda trainer, agent, metrics, at: tags.update(metrics)  # noqa: E731
    with caplog.at_level(logging.WARNING):
        fit(make(count_env), callbacks=[EventCallback(on_metrics=note)])
    assert {"episode/mean_reward", "time/env_steps_per_second"} <= tags
    assert not [record for record in caplog.records if record.name.startswith("lightning_rl")]
