"""Nothing outside the allow-list is imported, and constructor arguments survive as plain values."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_rl import trust
from lightning_rl.errors import ConfigError


@pytest.fixture(autouse=True)
def _no_consent_survives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trust, "_trusted", [])
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.fixture
def canary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module that can be imported and must not be."""
    (tmp_path / "canary_module.py").write_text("class Net:\n    sung = True\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield "canary_module"
    sys.modules.pop("canary_module", None)


class Shade(str, Enum):
    DARK = "dark"


@dataclass
class Described:
    id: str
    kwargs: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return {"id": self.id, "kwargs": self.kwargs}


class Carrying(torch.nn.Linear):
    """A module that keeps its constructor's arguments."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features)
        self.init_args = {"in_features": in_features, "out_features": out_features}


@pytest.mark.parametrize(
    "path",
    [
        "lightning_rl.algorithms.ppo.PPO",
        "torch.nn.Linear",
        "torch.optim.Adam",
        "torchmetrics.MeanMetric",
        "gymnasium.wrappers.TimeLimit",
        "lightning.pytorch.callbacks.EarlyStopping",
        "lightning.pytorch.loggers.WandbLogger",
        "lightning.pytorch.profilers.SimpleProfiler",
        "lightning.pytorch.strategies.DDPStrategy",
        "lightning.pytorch.plugins.environments.SLURMEnvironment",
    ],
)
def test_the_packages_of_the_allow_list_are_trusted(path: str) -> None:
    assert trust.is_trusted(path)


@pytest.mark.parametrize(
    "path",
    [
        "os.system",
        "torch.load",
        "torch.serialization.load",
        "torch.multiprocessing.spawn",
        "torchx.nn.Linear",
        "torch",
        "lightning.pytorch.cli.LightningCLI",
        "lightning.pytorch.Trainer",
        "lightning_rl.trust.trust",
        "lightning_rl.cli.main.main",
        "lightning_rl_evil.Net",
        "gymnasium.make",
        "gymnasium.wrappers.RecordVideo",
        "gymnasium.wrappers.rendering.RecordVideo",
        "gymnasium.wrappers.vector.RecordVideo",
        "gymnasium.envs.registration.load_env_creator",
        "builtins.eval",
        "jsonargparse.set_parsing_settings",
        "",
        "a..b",
        "torch.nn.Linear; import os",
        "../evil",
    ],
)
def test_everything_else_is_not(path: str) -> None:
    assert not trust.is_trusted(path)


def test_what_writes_to_any_folder_is_refused_and_its_stand_in_named() -> None:
    """A configuration, or a checkpoint, could otherwise put videos wherever the user may write."""
    with pytest.raises(ConfigError, match="VideoRecorder"):
        trust.import_object("gymnasium.wrappers.RecordVideo")


def test_a_refused_module_is_not_imported(canary: str) -> None:
    with pytest.raises(ConfigError, match="--trust canary_module"):
        trust.import_object(f"{canary}.Net")
    assert canary not in sys.modules


def test_consent_makes_it_importable(canary: str) -> None:
    trust.trust(canary)
    assert trust.import_object(f"{canary}.Net").sung
    assert trust.trusted_packages() == [canary]


def test_consent_to_a_package_is_not_consent_to_its_namesakes() -> None:
    trust.trust("mine.nets")
    assert trust.is_trusted("mine.nets.Net")
    assert not trust.is_trusted("mine.other.Net")
    assert not trust.is_trusted("mine.netsx.Net")


def test_consent_opens_the_current_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    trust.trust("anything")
    assert sys.path[-1] == str(tmp_path)


@pytest.mark.parametrize("package", ["*", "", "a b", "jsonargparse", "lightning_rl.trust", "-x"])
def test_some_consent_cannot_be_given(package: str) -> None:
    with pytest.raises(ConfigError, match="--trust"):
        trust.trust(package)


@pytest.mark.parametrize(
    "path",
    ["lightning_rl.errors.signal", "lightning_rl.errors.difflib.get_close_matches"],
)
def test_a_re_export_is_judged_by_where_it_is_defined(path: str) -> None:
    with pytest.raises(ConfigError, match="not on the allow-list"):
        trust.import_object(path)


def test_import_object_finds_modules_classes_and_nested_names() -> None:
    assert trust.import_object("torch.nn.Linear") is torch.nn.Linear
    assert trust.import_object("torch.nn.functional") is torch.nn.functional
    with pytest.raises(ConfigError, match="did you mean 'Linear'"):
        trust.import_object("torch.nn.Linaer")
    trust.trust("no_such_package")
    with pytest.raises(ConfigError, match="no module named 'no_such_package'"):
        trust.import_object("no_such_package.Net")


def test_a_broken_module_is_named_not_hidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_one.py").write_text("import surely_not_installed\n")
    monkeypatch.syspath_prepend(tmp_path)
    trust.trust("broken_one")
    with pytest.raises(ConfigError, match="surely_not_installed"):
        trust.import_object("broken_one.Net")


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", max_size=3), inner),
    max_leaves=8,
)


@given(PLAIN)
def test_plain_values_come_back_as_they_were(value: Any) -> None:
    assert trust.decode(trust.encode(value, "x")) == value


def test_numbers_of_numpy_and_enums_become_plain() -> None:
    encoded = trust.encode(
        {"a": np.float64(0.5), "b": np.int32(3), "c": np.bool_(True), "d": Shade.DARK, "e": (1, 2)},
        "x",
    )
    assert encoded == {"a": 0.5, "b": 3, "c": True, "d": "dark", "e": [1, 2]}
    assert [type(v) for v in encoded.values()] == [float, int, bool, str, list]


def test_descriptions_classes_and_modules_with_arguments() -> None:
    assert trust.encode(Described("A-v1", {"size": np.int64(4)}), "env") == {
        "id": "A-v1",
        "kwargs": {"size": 4},
    }
    assert trust.encode(torch.nn.Tanh, "activation") == {
        "class_path": "torch.nn.modules.activation.Tanh"
    }
    encoded = trust.encode(Carrying(3, 2), "actor")
    assert encoded["init_args"] == {"in_features": 3, "out_features": 2}
    assert encoded["class_path"].endswith(".Carrying")


def test_an_environment_factory_is_noted_by_name() -> None:
    assert trust.encode(lambda: None, "env")["factory"].endswith("<lambda>")
    assert trust.encode(Described, "env") == {"factory": f"{__name__}.Described"}
    assert trust.decode({"factory": "somewhere.Env"}) == {"factory": "somewhere.Env"}


class _Local:
    pass


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (torch.nn.Linear(1, 1), "actor"),
        (lambda x: x, "actor"),
        (np.zeros(2), "low"),
        (torch.zeros(2), "low"),
        (Path("a"), "file"),
        (b"bytes", "data"),
        ({1, 2}, "sizes"),
        ({1: 2}, "table"),
        (partial(torch.nn.Linear, 1), "critic"),
        (_Local(), "thing"),
        ({"inner": [_Local()]}, "outer"),
    ],
)
def test_what_cannot_be_stored_is_refused_with_its_name(value: Any, name: str) -> None:
    with pytest.raises(ConfigError, match=f"argument '{name}"):
        trust.encode(value, name)


def test_endless_nesting_is_refused() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(ConfigError, match="nested"):
        trust.encode(value, "x")
    with pytest.raises(ConfigError, match="nested"):
        trust.decode(value)


def test_decode_builds_through_the_allow_list(canary: str) -> None:
    built = trust.decode(
        {"class_path": "torch.nn.Linear", "init_args": {"in_features": 3, "out_features": 2}}
    )
    assert tuple(built.weight.shape) == (2, 3)
    assert trust.decode({"class_path": "torch.nn.Tanh"}) is torch.nn.Tanh
    with pytest.raises(ConfigError, match="allow-list"):
        trust.decode([{"class_path": f"{canary}.Net", "init_args": {}}])
    assert canary not in sys.modules


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"class_path": "torch.nn.functional.relu", "init_args": {}}, "subclass of"),
        (
            {
                "class_path": "torch.nn.Linear",
                "init_args": {"in_features": 1, "out_features": 1, "sizes": 2},
            },
            "sizes",
        ),
        ({"class_path": 3}, "must be a string"),
    ],
)
def test_build_refuses_what_is_no_such_class(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        trust.build(spec, base=torch.nn.Module)


def test_jsonargparse_gets_the_same_list(canary: str) -> None:
    from jsonargparse import ArgumentParser
    from jsonargparse._common import parsing_settings

    before = dict(parsing_settings)
    try:
        trust.apply_parsing_settings()
        parser = ArgumentParser(exit_on_error=False)
        parser.add_argument("--net", type=torch.nn.Module)
        parser.add_argument("--free", type=dict[str, Any])
        with pytest.raises(Exception, match="not allowed"):
            parser.parse_args([f"--net={canary}.Net"])
        config = parser.parse_args([f'--free={{"a": {{"class_path": "{canary}.Net"}}}}'])
        assert parser.instantiate(config).free == {"a": {"class_path": f"{canary}.Net"}}
        assert canary not in sys.modules
        with pytest.raises(Exception, match="not allowed"):
            parser.parse_args(["--net=lightning_rl.trust.trust"])
    finally:
        parsing_settings.clear()
        parsing_settings.update(before)
