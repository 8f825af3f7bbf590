"""`--wandb` and `--mlflow`."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from lightning_rl.cli.trackers import add_trackers
from lightning_rl.cli.yaml_check import Document
from lightning_rl.errors import ConfigError


@pytest.fixture(autouse=True)
def _no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def loggers(asked: list[str], present: Any = None, **options: str) -> list[Any]:
    trainer = {} if present is None else {"logger": present}
    documents = [
        Document("defaults", {"run": {"root": "logs"}}),
        Document("a", {"trainer": trainer}),
    ]
    raw = [(key.replace("_", "."), value) for key, value in options.items()]
    add_trackers(documents, dict.fromkeys(asked, True), raw)
    return documents[-1].data["trainer"].get("logger", [])


def names(specs: list[Any]) -> list[str]:
    return [spec["class_path"].rpartition(".")[2] for spec in specs]


def test_without_the_options_nothing_is_added() -> None:
    assert loggers([]) == []


@pytest.mark.parametrize("present", [None, True])
def test_what_a_run_without_loggers_has_stays(present: Any) -> None:
    specs = loggers(["mlflow", "wandb"], present)
    assert names(specs) == ["TensorBoardLogger", "WandbLogger", "MLFlowLogger"]
    assert specs[0]["init_args"]["save_dir"] == "."  # the run directory


def test_loggers_of_the_configuration_stay() -> None:
    own = {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": "a"}}
    assert loggers(["wandb"], own)[0] == own
    assert names(loggers(["wandb"], [own])) == ["CSVLogger", "WandbLogger"]
    assert names(loggers(["wandb"], False)) == ["WandbLogger"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("false", ["WandbLogger"]),
        ("true", ["TensorBoardLogger", "WandbLogger"]),
        ("CSVLogger", ["CSVLogger", "WandbLogger"]),
        ("[{class_path: a.MLFlowLogger}]", ["MLFlowLogger", "WandbLogger"]),
    ],
)
def test_loggers_given_as_an_option_stay_too(text: str, expected: list[str]) -> None:
    documents: list[Document] = []
    raw = [("trainer.logger", text), ("model.gamma", "0.9")]
    add_trackers(documents, {"wandb": True}, raw)
    shown = [spec["class_path"] for spec in documents[0].data["trainer"]["logger"]]
    assert [name.rpartition(".")[2] for name in shown] == expected
    assert raw == [("model.gamma", "0.9")]  # as an option it would undo what was added


def test_a_tracker_is_not_added_twice() -> None:
    own = {"class_path": "lightning.pytorch.loggers.WandbLogger", "init_args": {"project": "mine"}}
    assert loggers(["wandb"], [own]) == [own]


def test_mlflow_writes_beside_the_runs_or_to_the_server(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (*_, default) = loggers(["mlflow"])
    assert default["init_args"] == {"tracking_uri": f"sqlite:///{tmp_path}/logs/mlflow.db"}
    (*_, elsewhere) = loggers(["mlflow"], run_root="/data")
    assert elsewhere["init_args"] == {"tracking_uri": "sqlite:////data/mlflow.db"}
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@host")
    assert "secret" not in str(loggers(["mlflow"]))


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'lightning-rl\[mlflow\]'"):
        loggers(["mlflow"])
