"""Result objects and their JSON."""

from __future__ import annotations

import json
import math

import pytest

from lightning_rl.errors import ConfigError
from lightning_rl.runs.results import (
    ExecutionConfig,
    ExecutionResult,
    RunResult,
    save_execution_results,
)


class TestExecutionResult:
    def test_statistics(self):
        result = ExecutionResult([1.0, 3.0, 8.0], [2, 2, 5])
        assert result.total_episodes == 3
        assert result.success
        assert result.mean_reward == 4.0
        assert result.std_reward == pytest.approx(math.sqrt(26 / 3))
        assert (result.min_reward, result.max_reward) == (1.0, 8.0)
        assert result.mean_length == 3.0
        assert result.std_length == pytest.approx(math.sqrt(2))

    def test_unpacks_as_mean_and_deviation(self):
        mean, std = ExecutionResult([2.0, 4.0], [1, 1])
        assert (mean, std) == (3.0, 1.0)

    def test_without_episodes(self):
        result = ExecutionResult(success=False, error_message="boom")
        assert result.total_episodes == 0
        assert all(math.isnan(value) for value in (*result, result.min_reward, result.std_length))

    def test_infinite_reward_has_no_deviation(self):
        assert math.isnan(ExecutionResult([math.inf, 1.0], [1, 1]).std_reward)

    def test_round_trip(self):
        result = ExecutionResult([1.0, -math.inf], [2, 3], 2, False, "cut")
        assert ExecutionResult.from_json(result.to_json()) == result
        assert ExecutionResult.from_dict(result.to_dict()) == result
        assert result.to_dict()["mean_length"] == 2.5


class TestRunResult:
    def test_by_hand_and_round_trip(self):
        result = RunResult("Taxi-v4", "SARSA", {"gamma": 0.9, "sizes": [1, 2]}, {"x": math.inf})
        assert result.success
        assert RunResult.from_json(result.to_json()) == result
        assert json.loads(result.to_json())["metrics"] == {"x": "Infinity"}

    def test_unknown_entry(self):
        with pytest.raises(ConfigError, match="got 'suuccess'; did you mean 'success'"):
            RunResult.from_dict({"environment": "a", "algorithm": "b", "suuccess": True})

    @pytest.mark.parametrize("text", ["{", "[1]"])
    def test_not_an_object(self, text):
        with pytest.raises(ConfigError, match="expected"):
            RunResult.from_json(text)


class TestExecutionConfig:
    def test_defaults_and_true_means_a_window(self):
        assert ExecutionConfig().to_dict() == {
            "num_episodes": 10,
            "max_steps_per_episode": None,
            "render": False,
            "deterministic": True,
        }
        assert ExecutionConfig(render=True).render == "human"

    @pytest.mark.parametrize(
        "wrong",
        [
            {"num_episodes": 0},
            {"num_episodes": None},
            {"max_steps_per_episode": 0},
            {"render": "x"},
        ],
    )
    def test_refuses(self, wrong):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            ExecutionConfig(**wrong)


class TestSave:
    def test_forms(self, tmp_path):
        result = ExecutionResult([1.0], [1])
        path = save_execution_results(result, tmp_path / "new")
        assert path == tmp_path / "new" / "execution_results.json"
        assert ExecutionResult.from_json(path.read_text()) == result
        several = save_execution_results([result, result], tmp_path, "list.json")
        assert [row["max_reward"] for row in json.loads(several.read_text())] == [1.0, 1.0]
        named = save_execution_results({"ppo": result}, tmp_path, "named.json")
        assert json.loads(named.read_text())["ppo"]["success"] is True
        assert sorted(p.name for p in tmp_path.iterdir()) == ["list.json", "named.json", "new"]

    def test_refuses_paths_and_what_cannot_be_written(self, tmp_path):
        with pytest.raises(ConfigError, match="without a folder"):
            save_execution_results([], tmp_path, "../x.json")
        (tmp_path / "file").write_text("")
        with pytest.raises(ConfigError, match="cannot write"):
            save_execution_results([], tmp_path / "file")
