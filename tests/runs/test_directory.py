"""Run directory: names, who may write, and what is kept."""

from __future__ import annotations

import os
import signal
import time
from datetime import datetime
from pathlib import Path

import pytest

from lightning_rl.errors import ConfigError
from lightning_rl.runs.directory import RunConfig, RunDirectory

NOON = datetime(2026, 1, 2, 12, 0, 5)


def in_child(function, barrier: tuple[int, int] | None = None) -> tuple[int, int]:
    """Fork; run `function` once `barrier` closes. Return the pid and where to read the answer."""
    answer, write = os.pipe()
    pid = os.fork()
    if pid:
        os.close(write)
        return pid, answer
    try:
        if barrier is not None:
            os.close(barrier[1])
            os.read(barrier[0], 1)
        os.write(write, str(function()).encode())
    except BaseException as error:
        os.write(write, f"{type(error).__name__}: {error}".encode())
    finally:
        os._exit(0)


def read_all(descriptor: int) -> str:
    with os.fdopen(descriptor) as stream:
        return stream.read()


class TestResolve:
    def test_defaults(self):
        path = RunDirectory.resolve(RunConfig(), "PPO", "CartPole-v1", 3, NOON)
        assert path == Path("logs/ppo-cartpole-v1/2026-01-02_12-00-05_seed3")

    def test_env_id_with_namespace_and_module_stays_one_folder(self):
        path = RunDirectory.resolve(RunConfig(), "DQN", "my_pkg.envs:ALE/Pong-v5", 0, NOON)
        assert path.parts[:2] == ("logs", "dqn-my_pkg.envs-ale-pong-v5")

    def test_given_names_are_kept(self):
        config = RunConfig(root="/data/x", experiment="Sweep 1", name="a..b")
        assert RunDirectory.resolve(config, "PPO", "X", 0) == Path("/data/x/Sweep 1/a..b")

    @pytest.mark.parametrize(
        "bad", ["", " ", ".", "..", "a/b", "..\\x", "a\nb", "a\0b", "\x1b[31m", "\ud800"]
    )
    @pytest.mark.parametrize("key", ["experiment", "name"])
    def test_bad_names_are_refused(self, key, bad):
        with pytest.raises(ConfigError, match=rf"run\.{key}: expected the name of one folder"):
            RunConfig(**{key: bad})

    def test_log_level(self):
        assert RunConfig(log_level="debug").log_level == "DEBUG"
        with pytest.raises(ConfigError, match="got 'LOUD'"):
            RunConfig(log_level="loud")


class TestClaim:
    def test_makes_a_private_directory(self, tmp_path):
        with RunDirectory.claim(tmp_path / "e" / "r") as run:
            assert run.claimed
            assert run.path.stat().st_mode & 0o777 == 0o700
            assert run.lock.stat().st_mode & 0o777 == 0o600
        assert not run.claimed

    def test_second_claim_names_the_owner_and_is_quick(self, tmp_path):
        with RunDirectory.claim(tmp_path / "r"):
            start = time.monotonic()
            with pytest.raises(
                ConfigError, match=rf"in use by process {os.getpid()} on host \S+"
            ) as error:
                RunDirectory.claim(tmp_path / "r")
            assert time.monotonic() - start < 1
            assert "\n" not in str(error.value)
        RunDirectory.claim(tmp_path / "r").release()

    def test_two_children_at_a_barrier_one_gets_it(self, tmp_path):
        barrier = os.pipe()

        def claim() -> str:
            RunDirectory.claim(tmp_path / "r")
            time.sleep(1)
            return "owner"

        children = [in_child(claim, barrier) for _ in range(2)]
        for end in barrier:
            os.close(end)
        answers = sorted(read_all(answer) for _, answer in children)
        for pid, _ in children:
            os.waitpid(pid, 0)
        assert answers[1] == "owner"
        assert answers[0].startswith(f"ConfigError: {tmp_path / 'r'} is in use by process ")
        assert any(f"process {pid} " in answers[0] for pid, _ in children)

    def test_sigkill_frees_the_lock(self, tmp_path):
        for _ in range(100):
            ready, write = os.pipe()
            pid = os.fork()
            if pid == 0:
                RunDirectory.claim(tmp_path / "r")
                os.write(write, b"1")
                time.sleep(60)
                os._exit(0)
            os.close(write)
            os.read(ready, 1)
            os.close(ready)
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            RunDirectory.claim(tmp_path / "r").release()

    def test_forked_worker_that_outlives_the_run_does_not_keep_the_lock(self, tmp_path):
        run = RunDirectory.claim(tmp_path / "r")
        barrier, release = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(release)
            os.read(barrier, 1)
            os._exit(0)
        os.close(barrier)
        run.release()
        RunDirectory.claim(tmp_path / "r").release()
        os.close(release)
        os.waitpid(pid, 0)

    def test_fork_leaves_the_parents_lock(self, tmp_path):
        run = RunDirectory.claim(tmp_path / "r")
        pid, answer = in_child(lambda: "done")
        assert read_all(answer) == "done"
        os.waitpid(pid, 0)
        with pytest.raises(ConfigError, match="in use"):
            RunDirectory.claim(tmp_path / "r")
        run.release()

    def test_a_run_with_a_checkpoint_is_refused_with_the_ways_out(self, tmp_path):
        (tmp_path / "r" / "checkpoints").mkdir(parents=True)
        (tmp_path / "r" / "checkpoints" / "last.ckpt").write_text("weights")
        with pytest.raises(ConfigError) as error:
            RunDirectory.claim(tmp_path / "r")
        for way_out in ("lightning-rl resume", "--run.name", "--new-version"):
            assert way_out in str(error.value)
        with RunDirectory.claim(tmp_path / "r", resume=True) as run:
            assert run.has_checkpoint()

    def test_a_run_without_a_checkpoint_is_started_over(self, tmp_path):
        with RunDirectory.claim(tmp_path / "r") as run:
            run.checkpoints.mkdir()
            (run.checkpoints / "last.ckpt.tmp").write_text("half")
            for path in (run.record, run.metrics_csv, run.log, run.path / "mine.txt"):
                path.write_text("old")
        with RunDirectory.claim(tmp_path / "r") as run:
            assert sorted(os.listdir(run.path)) == [".lock", "mine.txt"]

    @pytest.mark.parametrize("inner", ["seed1", "trial-0001/seed-1"])
    def test_the_folder_of_several_runs_is_no_place_for_one(self, tmp_path, inner):
        (tmp_path / inner).mkdir(parents=True)
        (tmp_path / inner / "run.json").write_text("{}")
        with pytest.raises(ConfigError, match="holds other runs; give this one another"):
            RunDirectory.claim(tmp_path)
        RunDirectory.claim(tmp_path, resume=True).release()  # as a study does

    def test_a_directory_that_holds_no_run_is_left_alone(self, tmp_path):
        (tmp_path / "results.json").write_text("{}")
        RunDirectory.claim(tmp_path).release()
        assert (tmp_path / "results.json").exists()

    def test_resume_needs_a_directory(self, tmp_path):
        with pytest.raises(ConfigError, match="no run to resume"):
            RunDirectory.claim(tmp_path / "nothing", resume=True)
        assert not (tmp_path / "nothing").exists()

    def test_not_writable_is_one_line(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(
            ConfigError, match=r"cannot write to .*; choose another folder"
        ) as error:
            RunDirectory.claim(tmp_path / "file" / "e" / "r")
        assert "\n" not in str(error.value)
        with pytest.raises(ConfigError, match="cannot write to"):
            RunDirectory.claim(tmp_path / ("x" * 300))


class TestNewVersion:
    def test_first_free_name(self, tmp_path):
        names = []
        for _ in range(3):
            with RunDirectory.claim(tmp_path / "r", new_version=True) as run:
                names.append(run.path.name)
        assert names == ["r", "r-v2", "r-v3"]

    def test_twenty_parallel_starts_get_twenty_directories(self, tmp_path):
        barrier = os.pipe()

        def claim() -> str:
            run = RunDirectory.claim(tmp_path / "r", new_version=True)
            time.sleep(0.2)
            return run.path.name

        children = [in_child(claim, barrier) for _ in range(20)]
        for end in barrier:
            os.close(end)
        names = {read_all(answer) for _, answer in children}
        for pid, _ in children:
            os.waitpid(pid, 0)
        assert names == {"r", *(f"r-v{i}" for i in range(2, 21))}
