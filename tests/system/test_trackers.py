"""All trackers on for one DQN run that is killed and resumed, each read back by its own reader."""

from __future__ import annotations

import json
import math
import signal
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lightning_rl import DQN, Trainer
from lightning_rl.callbacks import Checkpoint
from lightning_rl.callbacks.curves import TrainingCurves
from lightning_rl.loggers import read_metrics
from tests.system.child import in_a_child

pytest.importorskip("mlflow")
pytest.importorskip("wandb")
pytestmark = [
    pytest.mark.system,
    pytest.mark.filterwarnings("ignore"),  # of the trackers' own packages
]

CANARY = "canary-value-93c1d5"
BUDGET = 3_000
Curves = dict[str, dict[int, float]]
"""Tag to env steps to value."""


def train(root: Path, budget: int = BUDGET) -> None:
    """Begin the run, or continue it."""
    from lightning.pytorch.loggers import MLFlowLogger, TensorBoardLogger, WandbLogger

    TrainingCurves.draw = lambda *_: None  # type: ignore[method-assign]
    run = {"root": str(root), "experiment": "e", "name": "r"}
    run |= {"description": f"A sentence with {CANARY}", "tags": ["one", "two"]}
    trainer = Trainer(
        run=run,
        accelerator="cpu",
        logger=[
            WandbLogger(project="p"),
            MLFlowLogger(tracking_uri=f"sqlite:///{root}/mlflow.db"),
            TensorBoardLogger(root / "tensorboard"),
        ],
        callbacks=[Checkpoint(every_env_steps=600)],
        enable_progress_bar=False,
        eval_episodes=2,
        eval_every_env_steps=500,
        log_every_n_steps=1,
    )
    agent = DQN(
        env="CartPole-v1",
        total_env_steps=budget,
        schedule_env_steps=BUDGET,
        seed=3,
        learning_starts=200,
        env_steps_per_iteration=100,
        compile=False,
    )
    resumes = (root / "e" / "r" / "checkpoints" / "last.ckpt").exists()
    trainer.fit(agent, ckpt_path="last" if resumes else None)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run that was killed while a checkpoint was written, and resumed to its end."""
    import mlflow.tracking  # noqa: F401
    import torch.utils.tensorboard  # noqa: F401
    import wandb  # noqa: F401

    folder = tmp_path_factory.mktemp("trackers")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOME_API_KEY", CANARY)
        patch.setenv("WANDB_SILENT", "true")
        patch.setenv("WANDB_DATA_DIR", str(folder / "data"))
        patch.setenv("WANDB_CACHE_DIR", str(folder / "cache"))
        patch.setenv("MLFLOW_LOGGING_LEVEL", "ERROR")
        patch.chdir(folder)
        with pytest.MonkeyPatch.context() as killing:
            # A DQN checkpoint writes a segment of replay content and itself.
            killing.setenv("LIGHTNING_RL_KILL_POINT", "save:before_write:8")
            assert in_a_child(lambda: train(folder)) == signal.SIGKILL
        assert in_a_child(lambda: train(folder)) == 0
    return folder


@pytest.fixture(scope="module")
def local(root: Path) -> Curves:
    """What `metrics.csv` holds."""
    rows = read_metrics(root / "e" / "r" / "metrics.csv")
    curves: Curves = {}
    for row in rows:
        for tag, value in row.items():
            if tag != "step":
                assert int(row["step"]) not in curves.get(tag, {}) or tag == "episode"
                curves.setdefault(tag, {})[int(row["step"])] = float(value)
    return curves


def assert_same(received: Curves, expected: Curves) -> None:
    """Compare tags, env steps and values within float32."""
    assert received.keys() == expected.keys()
    for tag, curve in expected.items():
        assert received[tag].keys() == curve.keys(), tag
        for step, value in curve.items():
            assert math.isclose(received[tag][step], value, rel_tol=2e-7, abs_tol=1e-37), tag


def test_the_run_was_killed_and_its_record_names_the_trackers(root: Path, local: Curves) -> None:
    record = json.loads((root / "e" / "r" / "run.json").read_text())
    first, second = record["attempts"]
    assert first["ended"] is None
    assert 0 < second["start_env_steps"] < second["end_env_steps"] == BUDGET
    assert record["trackers"].keys() == {"WandbLogger", "MLFlowLogger", "TensorBoardLogger"}
    assert sorted(local["train/td_loss"]) == list(range(200, BUDGET + 1, 100))
    assert sorted(local["eval/mean_reward"]) == list(range(500, BUDGET + 1, 500))


def test_sqlite_through_its_command_line(root: Path, local: Curves) -> None:
    query = (
        "SELECT metric_name, env_steps, printf('%.17g', value) FROM metrics WHERE source = 'log'"
    )
    curves: Curves = {}
    for line in sqlite_lines(root / "e" / "r" / "metrics.db", query):
        tag, step, value = line.split("|")
        assert int(step) not in curves.get(tag, {}), "a row is there twice"
        curves.setdefault(tag, {})[int(step)] = float(value)
    assert_same(curves, {tag: curve for tag, curve in local.items() if tag != "episode"})


def test_sqlite_has_every_episode_once(root: Path, local: Curves) -> None:
    query = (
        "SELECT count(*), count(DISTINCT episode), min(episode), max(episode), "
        "count(DISTINCT env_steps) FROM metrics WHERE metric_name = 'episode/reward'"
    )
    (line,) = sqlite_lines(root / "e" / "r" / "metrics.db", query)
    episodes = int(local["episode"][BUDGET])
    assert line == f"{episodes}|{episodes}|0|{episodes - 1}|{episodes}"


def sqlite_lines(path: Path, query: str) -> list[str]:
    """Ask the `sqlite3` program, or where there is none Python's module in another process."""
    command = ["sqlite3", "-readonly", str(path), query]
    script = (
        "import sqlite3, sys\n"
        "for row in sqlite3.connect(sys.argv[1]).execute(sys.argv[2]):\n"
        "    print(*row, sep='|')"
    )
    try:
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    except FileNotFoundError:
        command = [sys.executable, "-c", script, str(path), query]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    return done.stdout.splitlines()


def test_tensorboard_through_its_event_accumulator(root: Path, local: Curves) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (folder,) = (root / "tensorboard").glob("*/*")
    assert len(list(folder.glob("events.out.tfevents.*"))) == 2
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0})
    events.Reload()
    scalars = {tag: events.Scalars(tag) for tag in events.Tags()["scalars"] if tag != "hp_metric"}
    for tag, points in scalars.items():
        if tag != "episode":  # of a training row and of an evaluation at the same step
            assert len({point.step for point in points}) == len(points), tag
    assert_same({t: {p.step: p.value for p in points} for t, points in scalars.items()}, local)
    (text,) = {e.tensor_proto.string_val[0] for e in events.Tensors("run/tags/text_summary")}
    assert text == b"one, two"


def test_mlflow_through_its_client(root: Path, local: Curves) -> None:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{root}/mlflow.db")
    (experiment,) = [e for e in client.search_experiments() if e.name == "e"]
    (run,) = client.search_runs([experiment.experiment_id])
    record = json.loads((root / "e" / "r" / "run.json").read_text())
    assert run.info.run_id == record["trackers"]["MLFlowLogger"]["run_id"]
    assert (run.info.run_name, run.info.status) == ("r", "FINISHED")
    assert run.data.tags["mlflow.note.content"] == "A sentence with ***"
    assert (run.data.tags["one"], run.data.tags["two"]) == ("true", "true")
    assert run.data.params["model/init_args/env/id"] == "CartPole-v1"
    assert run.data.params["model/init_args/learning_starts"] == "200"
    curves = {  # it only appends: of a step logged by both attempts, the later one counts
        tag: {
            m.step: m.value
            for m in sorted(
                client.get_metric_history(run.info.run_id, tag), key=lambda m: m.timestamp
            )
        }
        for tag in run.data.metrics
    }
    assert_same(curves, local)
    artifacts = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert artifacts >= {"checkpoints", "metrics.json", "run.json"}
    best = root / "mlartifacts" / run.info.run_id / "artifacts" / "checkpoints" / "best.ckpt"
    assert best.read_bytes() == (root / "e" / "r" / "checkpoints" / "best.ckpt").read_bytes()


def test_wandb_through_its_offline_files(root: Path, local: Curves) -> None:
    curves: Curves = {}
    kinds: dict[str, list[Any]] = {}
    files = sorted((root / "e" / "r" / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len(files) == 2
    for file in files:
        for record in wandb_records(file):
            kind = record.WhichOneof("record_type")
            kinds.setdefault(kind, []).append(getattr(record, kind))
            if kind == "history":
                row = {
                    item.key or ".".join(item.nested_key): json.loads(item.value_json)
                    for item in record.history.item
                }
                step = row.pop("env_steps")
                assert row.pop("trainer/global_step") == step
                for tag, value in row.items():
                    if not tag.startswith("_"):
                        curves.setdefault(tag, {})[step] = float(value)
    record = json.loads((root / "e" / "r" / "run.json").read_text())
    # W&B writes in a process of its own, which dies with the run: what a kill finds in its memory
    # is lost to W&B. All that it has is right, and of the attempt that came to its end it has all.
    resumed_at = record["attempts"][-1]["start_env_steps"]
    assert curves.keys() == local.keys()
    for tag, curve in local.items():
        lost = curve.keys() - curves[tag].keys()
        assert all(step <= resumed_at for step in lost), tag
        assert_same({tag: curves[tag]}, {tag: {s: v for s, v in curve.items() if s not in lost}})
    assert {run.run_id for run in kinds["run"]} == {record["trackers"]["WandbLogger"]["id"]}
    run = kinds["run"][0]
    assert (run.display_name, run.run_group, run.notes) == ("r", "e", "A sentence with ***")
    assert list(run.tags) == ["one", "two"]
    (model,) = {u.value_json for c in kinds["config"] for u in c.update if u.key == "model"}
    assert json.loads(model)["init_args"]["learning_starts"] == 200
    (artifact,) = kinds["artifact"]
    assert (artifact.type, sorted(artifact.aliases)) == ("model", ["best", "latest"])
    assert "best.ckpt" in {entry.path for entry in artifact.manifest.contents}
    assert any(m.glob_name == "*" and m.step_metric == "env_steps" for m in kinds["metric"])


def wandb_records(file: Path) -> Iterator[Any]:
    """Read the records of an offline file: the log format of LevelDB around W&B's own messages."""
    from wandb.proto import wandb_internal_pb2

    data, position, message = file.read_bytes(), 7, b""
    while position + 7 <= len(data):
        left = 32768 - position % 32768
        _, length, kind = struct.unpack_from("<IHB", data, position)
        if left < 7 or kind == 0:  # the rest of a block is padding
            position += left
            continue
        message += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or its last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(message)
            message = b""
            yield record


def test_no_secret_reaches_a_file_and_nothing_is_written_elsewhere(root: Path) -> None:
    for path in root.rglob("*"):
        if path.is_file():
            assert CANARY.encode() not in path.read_bytes(), path
    expected = {"e", "tensorboard", "mlflow.db", "mlartifacts", "data", "cache"}
    assert {path.name for path in root.iterdir()} <= expected


def test_metrics_database_is_whole(root: Path) -> None:
    connection = sqlite3.connect(root / "e" / "r" / "metrics.db")
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()
