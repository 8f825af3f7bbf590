"""Runs whose trackers are down, slow or hang: training, local metrics, and the end."""

from __future__ import annotations

import csv
import json
import threading
import time

import pytest
import torch
from lightning.pytorch.callbacks import Callback, DeviceStatsMonitor
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger

from lightning_rl import PPO, Trainer
from lightning_rl.errors import TrainingFailed
from lightning_rl.loggers import courier, query_metrics, read_metrics
from lightning_rl.loggers.courier import NoExperiment
from lightning_rl.runs import tracking
from lightning_rl.runs.directory import RunDirectory
from lightning_rl.runs.tracking import known_trackers, resolved_config


class Faulty(Logger):
    """A tracker that fails, or hangs until `released`, from its n-th call on."""

    def __init__(self, after=0, hangs=False):
        super().__init__()
        self.after, self.hangs = after, hangs
        self.released = threading.Event()
        self.rows, self.calls = [], []

    def call(self, name):
        self.calls.append(name)
        if len(self.calls) > self.after and not self.released.is_set():
            if not self.hangs:
                raise ConnectionError("connection refused")
            self.released.wait()

    @property
    def name(self):
        return "faulty"

    @property
    def version(self):
        return 0

    @property
    def experiment(self):
        self.call("experiment")
        return self

    def log_metrics(self, metrics, step=None):
        self.call("row")
        self.rows.append((step, metrics))

    def log_hyperparams(self, params):
        self.call("config")

    def finalize(self, status):
        self.call("finalize")


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr(courier, "SLOW_CALL_S", 60.0)
    monkeypatch.setattr(tracking, "CLOSE_S", 1.0)
    monkeypatch.setattr(tracking, "TROUBLED_CLOSE_S", 0.3)
    monkeypatch.setattr(tracking, "PATIENCE_S", 0.5)


def agent(**settings):
    defaults = {"total_env_steps": 320, "seed": 1, "num_steps": 32, "minibatch_size": 32}
    return PPO(**{"env": "CartPole-v1", "compile": False, **defaults, **settings})


def trainer(tmp_path, logger, name="r", **settings):
    run = {"root": str(tmp_path), "experiment": "e", "name": name}
    return Trainer(
        run=run,
        accelerator="cpu",
        logger=logger,
        enable_progress_bar=False,
        eval_episodes=2,
        log_every_n_steps=1,
        **settings,
    )


def lines(path):
    with path.open() as file:
        rows = list(csv.DictReader(file))
    return [{k: v for k, v in r.items() if not k.startswith(("time/", "system/"))} for r in rows]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The same run without any tracker: its metrics and last weights."""
    fitted = trainer(tmp_path_factory.mktemp("alone"), False)
    fitted.fit(agent())
    parameters = torch.cat([p.flatten() for p in fitted.lightning_module.parameters()])
    return lines(fitted.run_dir / "metrics.csv"), parameters.detach().clone()


@pytest.mark.parametrize("hangs", [False, True], ids=["down", "hanging"])
@pytest.mark.parametrize("after", [0, 4, 22], ids="calls={}".format)
def test_a_tracker_in_trouble_changes_nothing(tmp_path, alone, caplog, hangs, after):
    faulty = Faulty(after, hangs)
    began = time.perf_counter()
    fitted = trainer(tmp_path, faulty)
    fitted.fit(agent())
    assert time.perf_counter() - began < 30.0
    rows, weights = alone
    assert lines(fitted.run_dir / "metrics.csv") == rows
    stored = query_metrics(fitted.run_dir / "metrics.db", metric_name="eval/mean_reward")
    assert [row["env_steps"] for row in stored] == [32 * n for n in range(1, 11)]
    parameters = torch.cat([p.flatten() for p in fitted.lightning_module.parameters()])
    assert torch.equal(parameters, weights)
    assert caplog.text.count("does not take what is logged") == (0 if hangs else 1)
    assert caplog.text.count("were not delivered; the metrics of the run") == 1
    assert json.loads((fitted.run_dir / "run.json").read_text())["status"] == "finished"
    assert type(faulty) is Faulty
    faulty.released.set()


class FullDisk(Callback):
    """Takes away, in the middle of a run, the disk that a tracker writes to."""

    def __init__(self, folder):
        self.folder = folder

    def on_train_batch_end(self, trainer, *_):
        if trainer.lightning_module.env_steps == 96:
            (logger,) = (x for x in trainer.loggers if isinstance(x, TensorBoardLogger))
            assert logger._courier.opened.wait(30.0)
            logger._courier.hurry()
            (file,) = self.folder.glob("**/events.*")
            file.unlink()
            file.symlink_to("/dev/full")  # the event file is opened anew for each flush


# TensorBoard's own thread dies of it; its next call says so.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_full_disk_of_tensorboard_changes_nothing(tmp_path, alone, caplog):
    folder = tmp_path / "tensorboard"
    fitted = trainer(tmp_path, TensorBoardLogger(str(folder)), callbacks=[FullDisk(folder)])
    fitted.fit(agent())
    rows, weights = alone
    assert lines(fitted.run_dir / "metrics.csv") == rows
    parameters = torch.cat([p.flatten() for p in fitted.lightning_module.parameters()])
    assert torch.equal(parameters, weights)
    said = [r for r in caplog.messages if "does not take what is logged" in r]
    assert len(said) == 1
    assert "No space left on device" in said[0]
    assert caplog.text.count("were not delivered; the metrics of the run") == 1
    assert json.loads((fitted.run_dir / "run.json").read_text())["status"] == "finished"


def test_what_waited_arrives_in_order_when_an_outage_is_over(tmp_path):
    class Recovering(Callback):
        def on_validation_end(self, trainer, agent):
            if agent.env_steps >= 160:
                faulty.released.set()

    faulty = Faulty(5)
    fitted = trainer(tmp_path, faulty, callbacks=[Recovering()])
    fitted.fit(agent())
    local = read_metrics(fitted.run_dir / "metrics.csv")
    assert [step for step, _ in faulty.rows] == [row["step"] for row in local]
    for (_, sent), row in zip(faulty.rows, local, strict=True):
        assert sent == pytest.approx({tag: v for tag, v in row.items() if tag != "step"})


def test_training_spends_no_time_on_a_tracker_that_hangs(tmp_path):
    faulty = Faulty(0, hangs=True)
    fitted = trainer(tmp_path, faulty)
    fitted.fit(agent(total_env_steps=3200))
    shares = query_metrics(fitted.run_dir / "metrics.db", metric_name="time/logging_share")
    assert sum(row["value"] for row in shares) / len(shares) < 0.2
    assert fitted.lightning_module.logging_s < 2.0
    faulty.released.set()


def test_the_trainers_logger_is_the_users(tmp_path):
    seen = []

    class Looking(Callback):
        def on_train_start(self, trainer, agent):
            seen.append((trainer.logger, trainer.logger.experiment))

    own = Faulty(after=10**6)
    trainer(tmp_path, own, callbacks=[Looking()]).fit(agent())
    assert seen == [(own, own)]


def test_an_experiment_that_is_not_there_takes_every_call(tmp_path):
    seen = []

    class Looking(Callback):
        def on_train_start(self, trainer, agent):
            trainer.logger.experiment.add_text("a", "b")
            seen.append(type(trainer.logger.experiment))

    trainer(tmp_path, Faulty(), callbacks=[Looking()]).fit(agent())
    assert seen == [NoExperiment]


def test_evaluation_is_not_stopped_either(tmp_path):
    fitted = trainer(tmp_path, Faulty())
    fitted.fit(agent())
    (results,) = fitted.test(fitted.lightning_module)
    assert results["eval/mean_reward"] > 0


def content(folder):
    return {
        path.relative_to(folder): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "results.json"
    }


@pytest.mark.parametrize("own", [True, False], ids=["tensorboard", "alone"])
def test_a_test_changes_nothing_of_the_record_of_training(tmp_path, own):
    fitted = trainer(tmp_path, own)
    fitted.fit(agent())
    before = content(fitted.run_dir)
    (results,) = fitted.test(fitted.lightning_module)
    fitted.validate(fitted.lightning_module)
    assert content(fitted.run_dir) == before
    assert len(fitted.loggers) == 2 + own
    stored = json.loads((fitted.run_dir / "results.json").read_text())
    assert stored["mean_reward"] == results["eval/mean_reward"]


def test_a_test_of_another_agent_leaves_no_results(tmp_path):
    fitted = trainer(tmp_path, False)
    fitted.fit(agent())
    fitted.test(agent())
    assert not (fitted.run_dir / "results.json").exists()


def test_the_run_directory_holds_its_configuration_once(tmp_path):
    fitted = trainer(tmp_path, True)
    fitted.fit(agent())
    assert list(fitted.run_dir.glob("events.out.tfevents.*"))
    assert not (fitted.run_dir / "hparams.yaml").exists()


def test_a_failed_run_still_ends_its_trackers(tmp_path):
    class Failing(Callback):
        def on_train_batch_end(self, *arguments):
            raise TrainingFailed("on purpose")

    own = Faulty(after=10**6)
    with pytest.raises(TrainingFailed):
        trainer(tmp_path, own, callbacks=[Failing()]).fit(agent())
    assert own.calls[-1] == "finalize"
    assert type(own) is Faulty


def test_lightnings_own_loggers_get_the_same_rows(tmp_path):
    own = CSVLogger(tmp_path / "own")
    fitted = trainer(tmp_path, own)
    fitted.fit(agent())
    local = read_metrics(fitted.run_dir / "metrics.csv")
    with open(own.log_dir + "/metrics.csv") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [row["step"] for row in local]
    assert [float(r["eval/mean_reward"]) for r in rows if r["eval/mean_reward"]] == [
        row["eval/mean_reward"] for row in local if "eval/mean_reward" in row
    ]


# What trackers are told.


def test_identities_of_earlier_attempts(tmp_path):
    directory = RunDirectory(tmp_path)
    assert known_trackers(directory) == {}
    directory.record.write_text('{"trackers": {"MLFlowLogger": {"run_id": "7"}}}')
    assert known_trackers(directory) == {"MLFlowLogger": {"run_id": "7"}}
    for broken in ("", "[]", '{"trackers": 3}', '{"trackers": {"a": 3}}'):
        directory.record.write_text(broken)
        assert known_trackers(directory) == {}


def test_configuration_without_secrets(monkeypatch):
    monkeypatch.setenv("SOME_API_KEY", "canary-value")
    made = agent(env={"id": "CartPole-v1"})
    text = "model: {init_args: {x: [1, canary-value]}}\nrun: {tags: [canary-value]}\n"
    assert resolved_config(text, made) == {
        "model": {"init_args": {"x": [1, "***"]}},
        "run": {"tags": ["***"]},
    }
    config = resolved_config(None, made)
    assert config["seed_everything"] == 1
    assert config["model"]["class_path"] == "lightning_rl.algorithms.ppo.PPO"
    assert config["model"]["init_args"]["env"]["id"] == "CartPole-v1"


def test_a_tracker_that_joins_a_resumed_run_gets_the_whole_history(tmp_path):
    trainer(tmp_path, False).fit(agent(total_env_steps=160))
    joining = Faulty(after=10**6)
    fitted = trainer(tmp_path, joining)
    fitted.fit(agent(), ckpt_path="last")
    local = read_metrics(fitted.run_dir / "metrics.csv")
    assert [step for step, _ in joining.rows] == [row["step"] for row in local]
    record = json.loads((fitted.run_dir / "run.json").read_text())
    assert record["trackers"] == {"Faulty": {"rows": len(local)}}


def test_rows_that_a_kill_kept_from_a_tracker_are_sent_later(tmp_path):
    first = Faulty(after=10**6)
    fitted = trainer(tmp_path, first)
    fitted.fit(agent(total_env_steps=160))
    record = RunDirectory(fitted.run_dir).record
    text = record.read_text().replace(f'"rows": {len(first.rows)}', '"rows": 3')
    assert '"rows": 3' in text
    record.write_text(text)
    second = Faulty(after=10**6)
    fitted = trainer(tmp_path, second)
    fitted.fit(agent(), ckpt_path="last")
    local = read_metrics(fitted.run_dir / "metrics.csv")
    assert [step for step, _ in first.rows[:3] + second.rows] == [row["step"] for row in local]


@pytest.mark.filterwarnings("ignore")  # psutil's, about processors that it cannot read
def test_lightnings_own_callbacks_log_on_the_same_axis(tmp_path):
    own = Faulty(after=10**6)
    monitor = DeviceStatsMonitor(cpu_stats=True)
    fitted = trainer(tmp_path, own, callbacks=[monitor])
    fitted.fit(agent())
    tag = "DeviceStatsMonitor.on_train_batch_end/cpu_percent"
    expected = [32 * n for n in range(1, 11)]
    local = read_metrics(fitted.run_dir / "metrics.csv")
    assert [row["step"] for row in local if tag in row] == expected
    assert [step for step, metrics in own.rows if tag in metrics] == expected
    stored = query_metrics(fitted.run_dir / "metrics.db", metric_name=tag)
    assert [row["env_steps"] for row in stored] == expected
