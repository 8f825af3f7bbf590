"""A command line that is called as a function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from lightning_rl import trust
from lightning_rl.cli.main import main


@dataclass
class Outcome:
    """What a command returned and wrote."""

    code: int
    out: str
    err: str

    @property
    def message(self) -> str:
        """The one line of an error."""
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        return lines[0].removeprefix("lightning-rl: error: ")


Run = Callable[..., Outcome]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Run a command in an empty directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(trust, "_trusted", [])
    monkeypatch.delenv("LIGHTNING_RL_DEBUG", raising=False)

    def call(*tokens: str) -> Outcome:
        capfd.readouterr()
        code = main(tokens)
        captured = capfd.readouterr()
        return Outcome(code, captured.out, captured.err)

    return call
