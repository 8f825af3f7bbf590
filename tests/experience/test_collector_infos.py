"""What the collector reads from the infos of a step, and what it leaves in a rollout."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lightning_rl.envs.config import EnvConfig
from lightning_rl.envs.probes import CountEnv
from lightning_rl.errors import TrainingFailed
from tests.experience.test_collector import Reporting, collected, never_act


def test_components_are_summed_by_episode_and_logs_averaged() -> None:
    config = EnvConfig(factory=Reporting, kwargs={"min_length": 4, "max_length": 4})
    collector, _, episodes = collected(config, 9)
    assert [episode.reward_components for episode in episodes] == [
        {"count": 10.0, "cost": -2.0}
    ] * 2
    assert collector.take_log() == {"height": (1 + 3 + 1 + 3 + 1) / 5}
    assert collector.take_log() == {}


class Odd(CountEnv):
    """Says something strange in its infos, from the third step on."""

    def __init__(self, info: Any) -> None:
        super().__init__()
        self.info = info

    def step(self, action: Any) -> Any:
        result = super().step(action)
        return (*result[:4], self.info if self.count > 2 else {})


@pytest.mark.parametrize(
    "info", [{"log": 3}, {"log": {"a": "b"}}, {"reward_components": {"a": [1, 2]}}, "text"]
)
def test_a_strange_info_is_the_environment_s_failure(info: Any) -> None:
    config = EnvConfig(factory=Odd, kwargs={"info": info})
    with pytest.raises(TrainingFailed, match=r"Odd \(row 0\) failed in info: "):
        collected(config, 4)


def test_no_info_is_an_empty_one() -> None:
    assert collected(EnvConfig(factory=Odd, kwargs={"info": None}), 4)[0].env_steps == 4


def test_a_rollout_in_use_again_keeps_no_ends_of_the_last_one() -> None:
    """Only steps that end an episode are written down, so the arrays have to be cleared."""
    collector, rollout, _ = collected(EnvConfig(factory=CountEnv, num_envs=3), 30)
    assert rollout.terminated.any()
    collector.start()  # episodes of the probe last at least five steps
    rollout.clear()
    rollout.cursor = rollout.num_steps - 1
    kept = rollout.terminated[:-1].copy()
    rollout.terminated[-1] = rollout.truncated[-1] = True
    collector.collect(rollout, never_act)
    np.testing.assert_array_equal(rollout.terminated[:-1], kept)  # those before the cursor
    assert not rollout.terminated[-1].any()
    assert not rollout.truncated[-1].any()
