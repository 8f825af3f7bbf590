"""Two processes that share one policy behave like one process with both their environments."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lightning_rl import Trainer
from lightning_rl.errors import CheckpointError
from lightning_rl.storage.sealed import load_sealed
from lightning_rl.storage.segments import checkpoint_env_steps
from tests.system.ddp_runs import NUM_STEPS, NUM_UPDATES, Witness, make_agent
from tests.system.fork_server import differences

pytestmark = pytest.mark.system

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where two ranks trained 20 updates, and 10 that were resumed to 20."""
    path = tmp_path_factory.mktemp("ddp")
    result = subprocess.run(
        [sys.executable, "-m", "tests.system.ddp_runs", str(path)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr[-3_000:]
    (path / "stderr.txt").write_text(result.stderr, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def ranks(folder: Path) -> list[dict[str, Any]]:
    return [torch.load(folder / f"rank{rank}.pt", weights_only=False) for rank in (0, 1)]


def shared(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Leave out the discounted sums so far, which belong to each rank's own environments."""
    return {k: v for k, v in tensors.items() if not k.endswith("discounted_return")}


def test_nobody_is_warned(folder: Path) -> None:
    """Each warning would be printed by every process."""
    lines = (folder / "stderr.txt").read_text(encoding="utf-8").splitlines()
    assert any("Training finished at env step" in line for line in lines)
    assert [line for line in lines if re.search(r"\.py:\d+: ", line)] == []


def test_weights_and_normalisers_are_equal_on_both_ranks(ranks: list[dict[str, Any]]) -> None:
    first, second = (shared(rank["whole"]["end"]) for rank in ranks)
    assert list(differences(first, second)) == []
    assert any(
        not tensor.equal(ranks[0]["whole"]["before"][name]) for name, tensor in first.items()
    )


def test_env_steps_are_summed(ranks: list[dict[str, Any]]) -> None:
    assert [rank["whole"]["env_steps"] for rank in ranks] == [2 * NUM_STEPS * NUM_UPDATES] * 2


def test_episode_seeds_are_disjoint_and_actions_differ(ranks: list[dict[str, Any]]) -> None:
    first, second = (rank["whole"]["seeds"] for rank in ranks)
    assert len(first) > 5
    assert len(set(first) | set(second)) == len(first) + len(second)
    actions = [rank["whole"]["rollout"]["action"] for rank in ranks]
    assert (actions[0] != actions[1]).any()


def test_evaluations_are_joined(ranks: list[dict[str, Any]]) -> None:
    assert len(ranks[0]["whole"]["evaluation"]["rewards"]) == 3
    assert ranks[0]["whole"]["evaluation"] == ranks[1]["whole"]["evaluation"]


def test_the_first_update_is_that_of_one_process_on_the_joined_rollout(
    ranks: list[dict[str, Any]], tmp_path: Path
) -> None:
    agent, witness = make_agent(num_envs=2, num_updates=1, num_ranks=1), Witness()
    parts, estimate = [rank["whole"]["rollout"] for rank in ranks], agent.estimate

    def join(rollout: Any) -> Any:
        for name in ("observation", "action", "reward", "terminated", "truncated"):
            getattr(rollout, name)[:] = np.concatenate([part[name] for part in parts], axis=1)
        ends = [
            ((step, row), observation)
            for row, part in enumerate(parts)
            for (step, _), observation in zip(
                part["final_index"], part["final_observation"], strict=True
            )
        ]
        rollout.final_index = [index for index, _ in ends]
        rollout.final_observation = [observation for _, observation in ends]
        return estimate(rollout)

    agent.estimate = join  # type: ignore[method-assign]
    Trainer(
        run={"root": str(tmp_path)},
        accelerator="cpu",
        callbacks=[witness],
        logger=False,
        enable_progress_bar=False,
        eval_every_env_steps=0,
    ).fit(agent)
    before, after = (shared(ranks[0]["whole"][when]) for when in ("before", "after"))
    for when, ours in (("before", before), ("after", after)):
        for name, tensor in ours.items():
            torch.testing.assert_close(tensor, witness.seen[when][name], atol=1e-5, rtol=1e-5)
    assert max(float((after[name] - before[name]).abs().max()) for name in after) > 1e-3


def test_a_resumed_run_is_the_run_never_stopped_on_both_ranks(
    ranks: list[dict[str, Any]], folder: Path
) -> None:
    for rank in ranks:
        assert list(differences(rank["whole"]["end"], rank["resumed"]["end"])) == []
    whole, resumed = (
        load_sealed(folder / "e" / name / "checkpoints" / "last.ckpt")
        for name in ("whole", "stopped")
    )
    assert len(whole["lightning_rl"]["other_ranks"]) == 1
    states = [saved["lightning_rl"]["other_ranks"] for saved in (whole, resumed)]
    assert list(differences(*states)) == []
    own, other = whole["lightning_rl"]["source"], states[0][0]["source"]
    assert own["collector"]["episode_seeds"] != other["collector"]["episode_seeds"]


def test_a_signal_to_one_process_stops_both_at_the_same_batch(
    ranks: list[dict[str, Any]], folder: Path
) -> None:
    stopped = [rank["signalled"] for rank in ranks]
    assert [seen["code"] for seen in stopped] == [143, 143]
    assert stopped[0]["env_steps"] == stopped[1]["env_steps"] == 2 * NUM_STEPS * 8
    assert stopped[0]["saves"] == stopped[1]["saves"]
    assert stopped[0]["saves"].count((2 * NUM_STEPS * 8, False)) == 1
    assert stopped[0]["saves"][-1] == (2 * NUM_STEPS * 8, False)
    record = json.loads((folder / "e" / "signalled" / "run.json").read_text())
    assert [attempt["signal"] for attempt in record["attempts"]] == ["SIGTERM", None]
    for rank in ranks:
        assert list(differences(rank["whole"]["end"], rank["continued"]["end"])) == []


def test_each_process_goes_on_with_its_own_replay(
    ranks: list[dict[str, Any]], folder: Path
) -> None:
    for rank in ranks:
        for what in ("end", "replay"):
            assert list(differences(rank["dqn"][what], rank["dqn-resumed"][what])) == []
    rewards = [rank["dqn"]["replay"]["observation"] for rank in ranks]
    assert not rewards[0].equal(rewards[1])
    last = folder / "e" / "dqn-stopped" / "checkpoints" / "last.ckpt"
    listed = load_sealed(last)["volatile"]["rank_segments"][0]
    kept = {path.name for path in (last.parent / "replay" / "rank1").glob("*.segment")}
    assert {segment["file"] for segment in listed} <= kept
    assert checkpoint_env_steps(last) == 2 * NUM_STEPS * 12
    (last.parent / "replay" / "rank1" / listed[-1]["file"]).unlink()
    with pytest.raises(CheckpointError, match=listed[-1]["file"]):
        checkpoint_env_steps(last)


def test_another_number_of_processes_is_refused(folder: Path, tmp_path: Path) -> None:
    trainer = Trainer(
        run={"root": str(tmp_path)}, accelerator="cpu", logger=False, enable_progress_bar=False
    )
    last = folder / "e" / "whole" / "checkpoints" / "last.ckpt"
    with pytest.raises(CheckpointError, match="one of 2 processes, but 1 are to go on"):
        trainer.fit(make_agent(num_updates=40), ckpt_path=str(last))
