"""`doctor`: what it says of a sound installation, and that it finds what is broken."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from lightning_rl.cli.main import main
from lightning_rl.runs import doctor
from lightning_rl.runs.doctor import Doctor


class Broken(gymnasium.Env):
    """Returns observations of another shape than it says."""

    observation_space, action_space = spaces.Box(-1, 1, (2,)), spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return np.zeros(3, np.float32), {}


class Opaque(gymnasium.Env):
    """Cannot be saved: its steps depend on a counter that no reset puts back."""

    observation_space, action_space = spaces.Box(-1, 1, (1,)), spaces.Discrete(2)
    calls = 0

    def _show(self) -> np.ndarray:
        Opaque.calls += 1
        return np.array([(Opaque.calls % 7) / 7], np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return self._show(), {}

    def step(self, action: int) -> Any:
        return self._show(), 1.0, Opaque.calls % 9 == 0, False, {}


@pytest.fixture(autouse=True)
def _registered() -> Any:
    for kind in (Broken, Opaque):
        gymnasium.register(f"{kind.__name__}-v0", kind, max_episode_steps=20)
    yield
    for kind in (Broken, Opaque):
        del gymnasium.registry[f"{kind.__name__}-v0"]


def examined(env: str) -> tuple[bool, list[str]]:
    lines: list[str] = []
    return Doctor(env, lines.append).examine(), lines


def test_a_sound_installation_is_ok(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "FrozenLake-v1"]) == 0
    *checks, verdict = capsys.readouterr().out.splitlines()
    names = ["packages", "extras", "machine", "disk", "environment", "training", "stop"]
    names += ["resume", "checkpoint"]
    assert [line.split()[:2] for line in checks] == [["ok", name] for name in names]
    assert verdict.startswith("OK: training, stopping and resuming work on FrozenLake-v1")
    assert "equal, bit for bit" in checks[7]


def test_a_broken_environment_is_named_in_the_verdict() -> None:
    is_well, lines = examined("Broken-v0")
    assert not is_well
    assert lines[-1].startswith("NOT OK: environment: environment Broken-v0, reset before step 1")
    assert not any("training" in line.split()[1] for line in lines)


def test_an_environment_that_cannot_be_saved_is_still_resumed() -> None:
    is_well, lines = examined("Opaque-v0")
    assert is_well, lines
    assert "open episodes of this environment cannot be saved" in lines[-3]


def test_a_resume_that_differs_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    fit = doctor.Trainer.fit

    def spoil(trainer: Any, agent: Any, **options: Any) -> None:
        fit(trainer, agent, **options)
        if options:
            with torch.no_grad():
                next(agent.parameters()).add_(1e-7)

    monkeypatch.setattr(doctor.Trainer, "fit", spoil)
    is_well, lines = examined("FrozenLake-v1")
    assert not is_well
    assert "resume: the resumed run differs from one never stopped in network." in lines[-1]


def test_mistakes_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "FrozenLak-v1"]) == 2
    assert "nearest: FrozenLake" in capsys.readouterr().err
    assert main(["doctor", "a", "b"]) == 2
    assert "at most one environment id" in capsys.readouterr().err
