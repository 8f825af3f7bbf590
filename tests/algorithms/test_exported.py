"""Every exported policy acts as the agent does, in a process without this package."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightning_rl import algorithms
from lightning_rl.runs.export import export_policy
from lightning_rl.runs.export_check import trial_observations

ELSEWHERE = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("lightning_rl", "lightning", "torch"):
            raise ImportError(name)

sys.meta_path.insert(0, Refuse())
try:
    import lightning_rl
except ImportError:
    pass
else:
    raise SystemExit("lightning_rl could be imported")
import numpy as np
import onnxruntime

policy = onnxruntime.InferenceSession(sys.argv[1])
data = np.load(sys.argv[2])
inputs = {item.name: data[item.name] for item in policy.get_inputs()}
np.save(sys.argv[3], policy.run(["action"], inputs)[0])
"""

QUICK = ("DQN", "PPO")
NAMES = sorted(set(algorithms.__all__) - {"Algorithm"})
EVERY = [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in NAMES]


@pytest.mark.parametrize("make", EVERY, indirect=True)
def test_ten_thousand_observations(make: Any, tmp_path: Path) -> None:
    same_actions(make.case.varied(make()).eval(), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("make", ["SAC", "TQC"], indirect=True)
def test_ten_thousand_observations_with_state_dependent_noise(make: Any, tmp_path: Path) -> None:
    same_actions(make(use_sde=True).eval(), tmp_path)


def same_actions(agent: Any, tmp_path: Path) -> None:
    observation = trial_observations(agent.observation_space, 10_000, seed=5).numpy()
    inputs, state = {"observation": observation}, None
    memory = getattr(agent.policy_module(), "state_shape", None)
    if memory is not None:
        state = np.random.Generator(np.random.PCG64(6)).standard_normal((10_000, *memory), "f4")
        inputs["state"] = state
    export_policy(agent, tmp_path / "policy.onnx")

    np.savez(tmp_path / "in.npz", **inputs)
    files = [str(tmp_path / name) for name in ("policy.onnx", "in.npz", "out.npy")]
    subprocess.run([sys.executable, "-c", ELSEWHERE, *files], check=True)
    action = np.load(tmp_path / "out.npy")

    expected, _ = agent.predict_with_state(observation, state)
    assert action.dtype == expected.dtype
    assert np.allclose(action, expected, rtol=1e-4, atol=1e-5)  # integers: equal
    assert len(np.unique(action, axis=0)) > 1
