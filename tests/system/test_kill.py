"""A run that was killed and resumed is the run that was never stopped, bit for bit."""

from __future__ import annotations

import random
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.system.cases import ASYNC, CONTINUOUS, FURTHER, IMAGES, RUNS, VARIANTS
from tests.system.fork_server import (
    KILLED,
    Run,
    assert_equal,
    assert_gapless,
    complete,
    finish,
    kill_at_random,
    record,
    resume_to_end,
    start,
)

pytestmark = pytest.mark.system

KILLS, MANY_KILLS = 8, 63  # of each of the eight runs
# Passes of a point at which to die in three attempts, the first before there is any checkpoint.
SAVES = (1, 4, 2)  # with a replay buffer every second file is a segment
POINTS = {
    "before_write": SAVES,
    "mid_write": (50, 700, 300),  # a file is written in a hundred pieces or more
    "after_write": SAVES,
    "after_fsync": SAVES,
    "after_rename": SAVES,
}


def check_kills(run: Run, folder: Path, kills: int, per_run: int = 4) -> None:
    """Kill copies of a run `kills` times in all at random moments and compare each in the end."""
    reference = run.at(folder / "reference")
    duration = complete(reference)
    draws, hits, copies = random.Random(0), 0, 0
    while hits < kills:
        killed = run.at(folder / str(copies))
        hits += kill_at_random(killed, draws, duration, min(per_run, kills - hits))
        resume_to_end(killed)
        assert_equal(reference, killed)
        assert_gapless(killed)
        copies += 1


@pytest.mark.parametrize("name", RUNS)
def test_sigkill_at_random_moments(name: str, tmp_path: Path) -> None:
    check_kills(RUNS[name], tmp_path, KILLS)


@pytest.mark.parametrize("name", FURTHER)
def test_sigkill_of_further_algorithms(name: str, tmp_path: Path) -> None:
    check_kills(FURTHER[name], tmp_path, 2)


@pytest.mark.parametrize("name", ASYNC)
def test_sigkill_with_environments_in_processes(name: str, tmp_path: Path) -> None:
    check_kills(ASYNC[name], tmp_path, 4)


@pytest.mark.parametrize("name", VARIANTS)
def test_sigkill_of_runs_with_other_settings(name: str, tmp_path: Path) -> None:
    check_kills(VARIANTS[name], tmp_path, 2)


@pytest.mark.slow
@pytest.mark.parametrize("name", IMAGES)
def test_sigkill_with_images(name: str, tmp_path: Path) -> None:
    check_kills(IMAGES[name], tmp_path, 3)


@pytest.mark.parametrize("point", ["mid_rewind", "before_commit", "after_commit"])
def test_sigkill_while_the_metrics_database_is_written(
    point: str, references: dict[str, Run], tmp_path: Path
) -> None:
    killed = RUNS["dqn-cartpole"].at(tmp_path)
    first = "save:before_write:6" if point == "mid_rewind" else f"sqlite:{point}:3"
    for kill_point in (first, f"sqlite:{point}"):
        run = replace(killed.resumed(), kill_point=kill_point)
        assert finish(start(run)) == KILLED
    resume_to_end(killed)
    assert_equal(references["dqn-cartpole"], killed)
    assert_gapless(killed)


@pytest.mark.slow
@pytest.mark.parametrize("name", CONTINUOUS)
def test_sigkill_of_continuous_control(name: str, tmp_path: Path) -> None:
    check_kills(CONTINUOUS[name], tmp_path, KILLS)


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_sigkill_at_many_random_moments(name: str, tmp_path: Path) -> None:
    check_kills(RUNS[name], tmp_path, MANY_KILLS)


def check_chain(run: Run, folder: Path, kills: int) -> None:
    """Kill one run again and again, each time a little after it has saved something new."""
    reference, killed = run.at(folder / "reference"), run.at(folder / "killed")
    complete(reference)
    draws = random.Random(0)

    def saved() -> int:  # by its name: old files vanish while one looks
        found = (killed.directory / "checkpoints").glob("env_steps=*.ckpt")
        return max((int(path.stem.partition("=")[2]) for path in found), default=0)

    for _ in range(kills):
        before, process = saved(), start(killed.resumed())
        while saved() == before:
            assert process.is_alive(), "it ended before the chain did"
            time.sleep(0.01)
        time.sleep(draws.uniform(0.0, 0.02))
        process.kill()
        assert finish(process) == KILLED
    resume_to_end(killed)
    assert_equal(reference, killed)
    attempts = record(killed)["attempts"]
    starts = [attempt["start_env_steps"] for attempt in attempts]
    assert len(starts) == kills + 1
    assert starts == sorted(set(starts))  # every attempt began behind the one before


@pytest.mark.parametrize("name", ["ppo-cartpole", "dqn-cartpole"])
def test_a_chain_of_kills(name: str, tmp_path: Path) -> None:
    check_chain(RUNS[name].changed(total_env_steps=40 * 100), tmp_path, 4)


@pytest.mark.slow
def test_a_chain_of_fifty_kills(tmp_path: Path) -> None:
    check_chain(RUNS["ppo-cartpole"].changed(total_env_steps=200 * 128), tmp_path, 50)


@pytest.fixture(scope="module")
def references(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """The runs that nothing kills."""
    names = ("ppo-cartpole", "dqn-cartpole")
    runs = {name: RUNS[name].at(tmp_path_factory.mktemp(name)) for name in names}
    for run in runs.values():
        complete(run)
    return runs


@pytest.mark.parametrize("name", ["ppo-cartpole", "dqn-cartpole"])
@pytest.mark.parametrize("point", POINTS)
def test_sigkill_while_a_checkpoint_is_written(
    name: str, point: str, references: dict[str, Run], tmp_path: Path
) -> None:
    killed = RUNS[name].at(tmp_path)
    for save in POINTS[point]:
        run = replace(killed.resumed(), kill_point=f"save:{point}:{save}")
        assert finish(start(run)) == KILLED
    assert killed.newest_env_steps > 0
    resume_to_end(killed)
    assert_equal(references[name], killed)
    leftovers = [path.name for path in killed.directory.rglob(".tmp-*")]
    assert leftovers == []
