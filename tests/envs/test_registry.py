"""Ids of bundled and of known environments work without importing anything first."""

from __future__ import annotations

import sys

import gymnasium
import pytest

from lightning_rl.envs.config import EnvConfig
from lightning_rl.errors import ConfigError


@pytest.mark.parametrize(
    "identifier",
    ["LightningRL/Count-v0", "LightningRL/RememberBit-v0", "MinAtar/Freeway-v0"],
)
def test_bundled_environments_need_no_import(identifier: str) -> None:
    assert EnvConfig(identifier).spec().id == identifier


@pytest.mark.parametrize("identifier", ["ALE/Pong-v5", "BreakoutNoFrameskip-v4"])
def test_atari_ids_need_no_import(identifier: str) -> None:
    pytest.importorskip("ale_py")
    assert EnvConfig(identifier).spec().id == identifier


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ale_py", None)
    monkeypatch.setattr(gymnasium.envs.registration, "registry", {})
    monkeypatch.setattr(gymnasium, "registry", {})
    expected = r"'ALE/Pong-v5' needs ale_py: pip install 'lightning-rl\[atari\]'"
    with pytest.raises(ConfigError, match=expected):
        EnvConfig("ALE/Pong-v5").spec()


def test_an_unknown_id_of_a_known_namespace_is_a_mistake() -> None:
    with pytest.raises(ConfigError, match="unknown environment 'MinAtar/Brekout-v1'; nearest"):
        EnvConfig("MinAtar/Brekout-v1").spec()
