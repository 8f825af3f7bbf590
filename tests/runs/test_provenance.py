"""What a run was made with, without secrets."""

from __future__ import annotations

import os
import subprocess

import gymnasium
import pytest
import torch

from lightning_rl.runs import provenance

CANARY = "canary-93c1d5"


class TestSecrets:
    @pytest.mark.parametrize("name", ["WANDB_API_KEY", "hf_token", "MySecretThing", "DB_PASSWORD"])
    def test_values_of_secret_variables_are_hidden(self, monkeypatch, name):
        monkeypatch.setenv(name, CANARY)
        assert provenance.redact(f"key: {CANARY}, twice {CANARY}") == "key: ***, twice ***"

    def test_harmless_values_stay(self, monkeypatch, tmp_path):
        monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
        monkeypatch.setenv("KEY_FOLDER", str(tmp_path))
        monkeypatch.setenv("HARMLESS", "CartPole-v1")
        text = f"false {tmp_path} CartPole-v1"
        assert provenance.redact(text) == text

    def test_a_secret_inside_another_leaves_no_rest(self, monkeypatch):
        monkeypatch.setenv("A_KEY", "abcdef")
        monkeypatch.setenv("B_KEY", "abcdefgh")
        assert provenance.redact("abcdefgh") == "***"

    def test_command(self, monkeypatch):
        monkeypatch.setenv("X_TOKEN", CANARY)
        command = [
            "lightning-rl",
            "fit",
            f"--run.description=with {CANARY}",
            "--trainer.logger.api_key",
            "hunter2",
            "--password=x",
            "--model.gamma",
            "0.9",
        ]
        assert provenance.redacted_command(command) == [
            "lightning-rl",
            "fit",
            "--run.description=with ***",
            "--trainer.logger.api_key",
            "***",
            "--password=***",
            "--model.gamma",
            "0.9",
        ]


def test_versions():
    found = provenance.versions()
    assert found["torch"] == torch.__version__
    assert found["gymnasium"] == gymnasium.__version__
    assert {"lightning_rl", "python", "lightning", "numpy"} <= set(found)


def test_the_build_of_torch_is_told(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch, "__version__", "2.13.0+cu130")
    assert provenance.versions()["torch"] == "2.13.0+cu130"


def test_hardware():
    found = provenance.hardware()
    assert found["gpu"] is None
    assert found["cores"] >= found["usable_cores"] >= 1
    assert found["memory_bytes"] > 2**20
    assert found["torch_threads"] == torch.get_num_threads()


class TestGitCommit:
    @pytest.fixture
    def checkout(self, tmp_path):
        self.git(tmp_path, "init", "-q", "-b", "main")
        self.git(tmp_path, "commit", "-q", "--allow-empty", "-m", "first")
        return tmp_path

    @staticmethod
    def git(folder, *arguments):
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        command = ["git", *identity, *arguments]
        done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    def test_of_a_branch_packed_detached_and_in_a_worktree(self, checkout):
        commit = self.git(checkout, "rev-parse", "HEAD")
        (checkout / "sub").mkdir()
        assert provenance.git_commit(checkout / "sub") == commit
        self.git(checkout, "pack-refs", "--all")
        assert provenance.git_commit(checkout) == commit
        self.git(checkout, "worktree", "add", "-q", "-b", "other", "tree")
        assert provenance.git_commit(checkout / "tree") == commit
        self.git(checkout, "checkout", "-q", "--detach")
        assert provenance.git_commit(checkout) == commit

    def test_outside_a_checkout_and_without_a_commit(self, tmp_path):
        assert provenance.git_commit(tmp_path) is None
        self.git(tmp_path, "init", "-q")
        assert provenance.git_commit(tmp_path) is None


def test_variables_may_come_and_go_while_secrets_are_hidden(monkeypatch):
    """As MLflow's do, in the thread that opens it."""
    monkeypatch.setenv("SOME_TOKEN", "canary-value")
    seen = []

    class Changing(type(os.environ)):
        def __iter__(self):
            for name in list(super().__iter__()):
                if name == "VANISHING_KEY":
                    seen.append(self.pop(name))
                yield name

    changing = Changing(
        dict(os.environ._data),
        os.environ.encodekey,
        os.environ.decodekey,
        os.environ.encodevalue,
        os.environ.decodevalue,
    )
    monkeypatch.setattr(os, "environ", changing)
    changing["VANISHING_KEY"] = "some-other-value"
    assert provenance.redact("a canary-value here") == f"a {provenance.HIDDEN} here"
    assert seen == ["some-other-value"]
    monkeypatch.undo()
    assert "VANISHING_KEY" not in os.environ
