"""`run.json`, `metrics.json` and `training.log`, driven hook by hook."""

from __future__ import annotations

import json
import logging
import os
import shutil
import threading
import time
from types import SimpleNamespace

import pytest
import torch
import yaml

from lightning_rl.callbacks.episode_statistics import EpisodeStatistics
from lightning_rl.errors import Interrupted, TrainingFailed
from lightning_rl.experience.budget import Budget
from lightning_rl.runs.directory import RunConfig, RunDirectory
from lightning_rl.runs.record import RunRecord
from lightning_rl.types import Episode


def make_agent(**changes):
    values = {
        "env_steps": 0,
        "episodes": 0,
        "total_env_steps": 100,
        "total_episodes": None,
        "schedule_env_steps": 100,
        "seed": 7,
        "compiled": False,
        "snapshot_level": "exact",
        "elapsed_s": 1.5,
        "env_config": SimpleNamespace(name="CartPole-v1"),
    }
    agent = SimpleNamespace(**{**values, **changes})
    agent.budget = Budget.create(agent.total_env_steps, agent.total_episodes, None)
    return agent


def make_trainer(*callbacks):
    return SimpleNamespace(is_global_zero=True, sanity_checking=False, callbacks=list(callbacks))


def episode(index=0, reward=1.0, length=10):
    return Episode(index, 0, 5, reward, length, True, False, env_steps=length)


def start(path, agent, *callbacks, config=None, **kwargs):
    """Return a record whose training has begun."""
    path.mkdir(exist_ok=True)
    record = RunRecord(RunDirectory(path), config, **kwargs)
    trainer = make_trainer(*callbacks, record)
    record.setup(trainer, agent, "fit")
    record.on_training_begins(trainer, agent)
    return record, trainer


def read(path, name="run.json"):
    return json.loads((path / name).read_text())


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "run-record"]


@pytest.fixture(autouse=True)
def nothing_left_behind():
    package = logging.getLogger("lightning_rl")
    before = list(package.handlers), package.level
    yield
    assert (list(package.handlers), package.level) == before
    assert threads() == []


class TestRunJson:
    def test_content(self, tmp_path):
        agent = make_agent()
        config = RunConfig(description="first try", tags=["a", "b"])
        record, trainer = start(tmp_path, agent, config=config)
        found = read(tmp_path)
        assert found["status"] == "running"
        assert found["seed"] == 7
        assert found["description"] == "first try"
        assert found["tags"] == ["a", "b"]
        assert found["env_snapshot_level"] == "exact"
        assert found["compiled"] is False
        assert found["budget"]["total_env_steps"] == 100
        assert found["versions"]["torch"] == torch.__version__
        assert found["environment"] == "CartPole-v1"
        assert found["attempts"][0]["pid"] == os.getpid()
        agent.env_steps = 100
        record.on_fit_end(trainer, agent)
        found = read(tmp_path)
        assert found["status"] == "finished"
        assert found["env_steps"] == found["attempts"][0]["end_env_steps"] == 100
        assert found["attempts"][0]["ended"]

    def test_env_steps_are_less_than_a_second_old(self, tmp_path):
        agent = make_agent()
        record, trainer = start(tmp_path, agent)
        agent.env_steps = 42
        deadline = time.monotonic() + 1.0
        while read(tmp_path)["env_steps"] != 42:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        record.on_fit_end(trainer, agent)

    @pytest.mark.parametrize(
        ("error", "status", "signal_name"),
        [
            (Interrupted(15), "interrupted", "SIGTERM"),
            (Interrupted(10), "interrupted", "SIGUSR1"),
            (KeyboardInterrupt(), "interrupted", "SIGINT"),
            (TrainingFailed("reward is NaN\nmore"), "failed", None),
        ],
    )
    def test_other_ends(self, tmp_path, error, status, signal_name):
        agent = make_agent(env_steps=30)
        record, trainer = start(tmp_path, agent)
        record.on_exception(trainer, agent, error)
        record.teardown(trainer, agent, "fit")
        found = read(tmp_path)
        assert found["status"] == status
        assert found["attempts"][0]["signal"] == signal_name
        assert found["error"] == ("reward is NaN" if status == "failed" else None)

    def test_stopped_before_the_budget_is_spent(self, tmp_path):
        agent = make_agent(total_env_steps=None, total_episodes=10, episodes=9)
        record, trainer = start(tmp_path, agent)
        record.on_fit_end(trainer, agent)
        assert read(tmp_path)["status"] == "stopped"

    def test_second_attempt(self, tmp_path):
        first = make_agent(env_steps=0)
        record, trainer = start(tmp_path, first)
        first.env_steps = 60
        record.on_exception(trainer, first, Interrupted(15))
        created = read(tmp_path)["created"]
        second = make_agent(env_steps=50)
        record, trainer = start(tmp_path, second)
        second.env_steps = 100
        record.on_fit_end(trainer, second)
        found = read(tmp_path)
        assert found["created"] == created
        steps = [(a["start_env_steps"], a["end_env_steps"], a["signal"]) for a in found["attempts"]]
        assert steps == [(0, 60, "SIGTERM"), (50, 100, None)]

    def test_damaged_record_begins_anew(self, tmp_path, caplog):
        (tmp_path / "run.json").write_text('{"attempts": [')
        record, trainer = start(tmp_path, make_agent())
        record.teardown(trainer, make_agent(), "fit")
        assert len(read(tmp_path)["attempts"]) == 1
        assert "begins anew" in caplog.text

    def test_changed_versions_are_said(self, tmp_path, caplog):
        old = {"attempts": [], "versions": {"torch": "1.0"}}
        (tmp_path / "run.json").write_text(json.dumps(old))
        record, trainer = start(tmp_path, make_agent())
        record.teardown(trainer, make_agent(), "fit")
        assert f"torch 1.0 -> {torch.__version__}" in caplog.text

    def test_secrets_stay_out_of_every_file(self, tmp_path, monkeypatch):
        canary = "canary-93c1d5"
        monkeypatch.setenv("SOME_TOKEN", canary)
        monkeypatch.setattr("sys.argv", ["lightning-rl", "fit", f"--x={canary}"])
        agent = make_agent()
        config = RunConfig(description=canary, tags=[canary])
        record, trainer = start(tmp_path, agent, config=config, config_text=f"a: {canary}\n")
        logging.getLogger("lightning_rl.x").warning("token %s", canary)
        record.on_exception(trainer, agent, RuntimeError(f"refused {canary}"))
        files = [path for path in tmp_path.rglob("*") if path.is_file()]
        assert {"run.json", "training.log", "config.yaml"} <= {path.name for path in files}
        assert not any(canary in path.read_text() for path in files)

    @pytest.mark.parametrize("stage", ["validate", "test"])
    def test_only_training_is_recorded(self, tmp_path, stage):
        record = RunRecord(RunDirectory(tmp_path))
        trainer = make_trainer(record)
        record.setup(trainer, make_agent(), stage)
        record.on_validation_end(trainer, make_agent())
        record.on_exception(trainer, make_agent(), RuntimeError())
        record.teardown(trainer, make_agent(), stage)
        assert list(tmp_path.iterdir()) == []

    def test_other_ranks_write_nothing(self, tmp_path):
        record = RunRecord(RunDirectory(tmp_path))
        trainer = make_trainer(record)
        trainer.is_global_zero = False
        record.setup(trainer, make_agent(), "fit")
        record.on_training_begins(trainer, make_agent())
        record.on_fit_end(trainer, make_agent())
        assert list(tmp_path.iterdir()) == []

    def test_deleted_folder_is_said_once_and_ends_nothing(self, tmp_path, caplog):
        agent = make_agent()
        record, trainer = start(tmp_path / "r", agent)
        shutil.rmtree(tmp_path / "r")
        time.sleep(1.2)
        record.on_fit_end(trainer, agent)
        said = [r.getMessage() for r in caplog.records if "run.json" in r.getMessage()]
        assert len(said) == 1
        assert "Cannot write" in said[0]


class TestMetricsJson:
    def test_content(self, tmp_path):
        statistics = EpisodeStatistics()
        agent = make_agent()
        record, trainer = start(tmp_path, agent, statistics)
        for index, reward in enumerate([1.0, 2.0, 6.0]):
            statistics.on_episode_end(trainer, agent, episode(index, reward, 10 * (index + 1)))
        agent.episodes = 2
        evaluations = [(20, 5.0), (40, 9.0), (60, 9.0), (80, float("nan"))]
        for env_steps, reward in evaluations:
            record.on_metrics(trainer, agent, {"eval/mean_reward": reward}, env_steps)
        row = {"train/epsilon": torch.tensor(0.25), "time/elapsed_s": 3}
        record.on_metrics(trainer, agent, row, 90)
        agent.env_steps = 100
        record.on_fit_end(trainer, agent)
        assert read(tmp_path, "metrics.json") == {
            "final": {"eval/mean_reward": "NaN", "train/epsilon": 0.25, "time/elapsed_s": 3},
            "best": {"env_steps": 40, "episode": 2, "eval/mean_reward": 9.0},
            "training": {
                "mean_reward": 3.0,
                "std_reward": pytest.approx(2.160246899469287),
                "min_reward": 1.0,
                "max_reward": 6.0,
                "mean_episode_length": 20.0,
                "episodes_completed": 3,
                "final_epsilon": 0.25,
                "q_table_size": None,
                "env_steps": 100,
                "wall_time_s": 1.5,
            },
            "evaluations": [
                {
                    "env_steps": step,
                    "episode": 2,
                    "eval/mean_reward": "NaN" if step == 80 else reward,
                }
                for step, reward in evaluations
            ],
            "episodes": {"rewards": [1.0, 2.0, 6.0], "lengths": [10, 20, 30]},
        }

    def test_without_an_evaluation_or_episode(self, tmp_path):
        record, trainer = start(tmp_path, make_agent())
        record.on_fit_end(trainer, make_agent())
        found = read(tmp_path, "metrics.json")
        assert found["best"] is None
        assert found["training"]["mean_reward"] is None

    def test_written_after_an_evaluation_too(self, tmp_path):
        agent = make_agent()
        record, trainer = start(tmp_path, agent)
        record.on_metrics(trainer, agent, {"eval/mean_reward": 1.0}, 20)
        record.on_validation_end(trainer, agent)
        assert read(tmp_path, "metrics.json")["best"]["env_steps"] == 20
        record.on_fit_end(trainer, agent)

    def test_sanity_check_does_not_count(self, tmp_path):
        agent = make_agent()
        record, trainer = start(tmp_path, agent)
        trainer.sanity_checking = True
        record.on_metrics(trainer, agent, {"eval/mean_reward": 1.0}, 0)
        assert record.evaluations == []
        record.teardown(trainer, agent, "fit")

    def test_state_resumes_and_holds_no_wall_clock(self, tmp_path):
        agent = make_agent()
        record, trainer = start(tmp_path, agent)
        row = {"eval/mean_reward": 1.0, "time/elapsed_s": 5.0, "system/rss_mb": 3, "x": 2}
        record.on_metrics(trainer, agent, row, 20)
        state = record.state_dict()
        record.teardown(trainer, agent, "fit")
        assert state["final"] == {"eval/mean_reward": 1.0, "x": 2}
        resumed = RunRecord(RunDirectory(tmp_path))
        resumed.load_state_dict(state)
        assert resumed.state_dict() == state
        assert resumed.best == {"env_steps": 20, "episode": 0, "eval/mean_reward": 1.0}


class TestLog:
    def test_levels(self, tmp_path):
        for level, expected in (("INFO", ["info", "error"]), ("ERROR", ["error"])):
            path = tmp_path / level
            record, trainer = start(path, make_agent(), config=RunConfig(log_level=level))
            logger = logging.getLogger("lightning_rl.somewhere")
            logger.debug("debug")
            logger.info("info")
            logger.error("error")
            record.teardown(trainer, make_agent(), "fit")
            lines = (path / "training.log").read_text().splitlines()
            assert [line.split(": ")[1] for line in lines if "somewhere" in line] == expected

    def test_debug_logs_each_episode_and_only_debug_pays_for_it(self, tmp_path):
        config = RunConfig(log_level="DEBUG")
        record, trainer = start(tmp_path, make_agent(), config=config)
        record.on_episode_end(trainer, make_agent(), episode(3, reward=2.5, length=17))
        record.teardown(trainer, make_agent(), "fit")
        assert "episode 3: reward 2.5, length 17" in (tmp_path / "training.log").read_text()
        assert "on_episode_end" not in vars(RunRecord(RunDirectory(tmp_path)))

    def test_traceback_of_a_failure_and_append_on_resume(self, tmp_path):
        record, trainer = start(tmp_path, make_agent())
        try:
            raise ZeroDivisionError("in the env")
        except ZeroDivisionError as error:
            record.on_exception(trainer, make_agent(), error)
        assert read(tmp_path)["error"] == "ZeroDivisionError: in the env"
        record, trainer = start(tmp_path, make_agent())
        record.teardown(trainer, make_agent(), "fit")
        text = (tmp_path / "training.log").read_text()
        assert 'raise ZeroDivisionError("in the env")' in text
        assert text.count("on CartPole-v1 from env step 0, seed 7") == 2

    def test_config_is_kept_as_given(self, tmp_path):
        record, trainer = start(tmp_path, make_agent(), config_text="model: ppo\n")
        record.teardown(trainer, make_agent(), "fit")
        assert (tmp_path / "config.yaml").read_text() == "model: ppo\n"


def test_a_failure_before_training_keeps_the_progress_of_earlier_attempts(tmp_path):
    agent = make_agent(env_steps=60)
    record, trainer = start(tmp_path, agent)
    record.on_exception(trainer, agent, Interrupted(15))
    record = RunRecord(RunDirectory(tmp_path))
    fresh = make_agent(env_steps=0)
    record.setup(make_trainer(record), fresh, "fit")
    record.on_exception(trainer, fresh, RuntimeError("no such env"))
    found = read(tmp_path)
    assert found["status"] == "failed"
    assert found["env_steps"] == 60
    assert found["attempts"][1]["start_env_steps"] is None


def test_configuration_without_secrets_is_still_yaml(tmp_path, monkeypatch):
    monkeypatch.setenv("SOME_TOKEN", "canary-value")
    text = "b: {x: canary-value, y: [1, a canary-value b]}\na: null\n"
    record, _ = start(tmp_path / "r", make_agent(), config_text=text)
    record.teardown(None, None, "fit")
    written = (tmp_path / "r" / "config.yaml").read_text()
    assert yaml.safe_load(written) == {"b": {"x": "***", "y": [1, "a *** b"]}, "a": None}


def test_what_trackers_call_the_run_is_recorded_as_soon_as_it_is_known(tmp_path):
    identities = {"WandbLogger": {"id": "7"}, "MLFlowLogger": {}}
    patience = []
    tracking = SimpleNamespace(
        identities=identities,
        be_patient=lambda: patience.append(time.monotonic()),
        begin=lambda clock, metrics_csv: None,
    )
    record, trainer = start(tmp_path / "r", make_agent(), tracking=tracking)
    assert len(patience) == 1
    assert read(tmp_path / "r")["trackers"] == identities
    identities["MLFlowLogger"] = {"run_id": "8"}
    record.on_fit_end(trainer, make_agent(env_steps=100))
    assert read(tmp_path / "r")["trackers"]["MLFlowLogger"] == {"run_id": "8"}
    again, _ = start(tmp_path / "r", make_agent())
    assert read(tmp_path / "r")["trackers"]["WandbLogger"] == {"id": "7"}
    again.teardown(None, None, "fit")
