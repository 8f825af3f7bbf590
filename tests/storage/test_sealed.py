import errno
import hashlib
import os
import random
import resource
import signal
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_rl.errors import CheckpointError
from lightning_rl.storage.sealed import (
    atomic_write_bytes,
    atomic_write_text,
    is_sealed,
    load_sealed,
    remove_temporaries,
    save_sealed,
    verify_seal,
)

OLD = {"version": 1, "weights": torch.arange(600.0)}
NEW = {"version": 2, "weights": torch.arange(900.0), "list": [1, 2.5, None, "x"]}


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "last.ckpt"
    save_sealed(OLD, path)
    return path


@pytest.fixture
def no_torch_load(monkeypatch):
    """Count the calls of torch.load, which must not see a damaged file."""
    calls = []
    monkeypatch.setattr(torch, "load", lambda *a, **k: calls.append(a))
    yield
    assert calls == []


def _names(path):
    return sorted(p.name for p in path.parent.iterdir())


# What is written is what is read.


def test_the_seal_is_the_sha256_of_all_bytes_before_it(path):
    data = path.read_bytes()
    assert data[-39:-32] == b"sha256:"
    assert data[-32:] == hashlib.sha256(data[:-32]).digest()
    assert verify_seal(path) == data[-32:].hex() == save_sealed(OLD, path)
    assert is_sealed(path)


def test_other_readers_read_a_sealed_file(path):
    for mmap in (False, True):
        assert torch.load(path, weights_only=True, mmap=mmap)["version"] == 1
    assert zipfile.ZipFile(path).testzip() is None


def test_a_training_state_comes_back_bit_for_bit(tmp_path):
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    optimizer = torch.optim.Adam(module.parameters())
    module(torch.rand(5, 3)).sum().backward()
    optimizer.step()
    state = {
        "state_dict": module.state_dict(),
        "optimizer_states": [optimizer.state_dict()],
        "parameter": module[0].weight,
        "rng": np.random.default_rng(3).bit_generator.state,
        "torch_rng": torch.get_rng_state(),
        "types": [torch.zeros(3, dtype=d) for d in (torch.uint16, torch.bfloat16, torch.bool)],
        "misc": (
            torch.Size([1, 2]),
            torch.float16,
            torch.device("cpu"),
            1 + 2j,
            b"\xff",
            -(2**200),
        ),
        "empty": torch.zeros(0, 3),
    }
    save_sealed(state, tmp_path / "a.ckpt")
    loaded = load_sealed(tmp_path / "a.ckpt")
    assert loaded["rng"] == state["rng"]
    assert loaded["misc"] == state["misc"]
    assert isinstance(loaded["parameter"], torch.nn.Parameter)
    assert loaded["state_dict"]._metadata == state["state_dict"]._metadata
    assert loaded["empty"].shape == (0, 3)
    for name, tensor in state["state_dict"].items():
        assert torch.equal(loaded["state_dict"][name], tensor), name
    for a, b in zip(loaded["types"], state["types"], strict=True):
        assert a.dtype == b.dtype


_leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(2**300), 2**300)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(min_size=1)
    | st.complex_numbers(allow_nan=False)
)
_keys = st.text() | st.integers() | st.booleans() | st.none()
_trees = st.recursive(
    _leaves,
    lambda tree: (
        st.lists(tree)
        | st.dictionaries(_keys, tree)
        | st.lists(tree).map(tuple)
        | st.dictionaries(_keys, tree).map(OrderedDict)
    ),
    max_leaves=20,
)


@settings(max_examples=60)
@given(_trees)
def test_every_plain_tree_comes_back(tmp_path_factory, tree):
    path = tmp_path_factory.getbasetemp() / "tree.ckpt"
    save_sealed({"tree": tree}, path)
    loaded = load_sealed(path)
    assert repr(loaded) == repr({"tree": tree})  # types and key order as well


def test_equal_content_gives_equal_bytes(tmp_path):
    digests = [
        save_sealed({"a": torch.ones(3), "n": {"b": [1.5, "x"]}}, tmp_path / name)
        for name in ("a", "b")
    ]
    assert digests[0] == digests[1]


def test_what_could_not_be_loaded_is_refused_before_writing(path):
    before = path.read_bytes()
    for tree in ({"a": {"b": [np.float64(1)]}}, {"a": {"b": [Path("x")]}}):
        with pytest.raises(CheckpointError, match=r"\['a'\]\['b'\]\[0\]: "):
            save_sealed(tree, path)
    with pytest.raises(CheckpointError, match="expected a dict"):
        save_sealed([1], path)
    with pytest.raises(CheckpointError, match="a tuple of more than 10,000 values"):
        save_sealed({"a": tuple(range(20_000))}, path)
    assert path.read_bytes() == before
    assert _names(path) == ["last.ckpt"]


def test_a_link_is_replaced_and_its_target_kept(path):
    link = path.parent / "best.ckpt"
    link.symlink_to("last.ckpt")
    assert load_sealed(link)["version"] == 1
    save_sealed(NEW, link)
    assert not link.is_symlink()
    assert (load_sealed(link)["version"], load_sealed(path)["version"]) == (2, 1)


def test_new_files_have_the_usual_permissions(path):
    plain = path.parent / "plain"
    plain.write_text("")
    assert path.stat().st_mode == plain.stat().st_mode


# Damage is found before torch.load.


@pytest.mark.usefixtures("no_torch_load")
def test_every_truncation_is_found(path):
    data = path.read_bytes()
    for i in range(64):
        path.write_bytes(data[: len(data) * i // 64])
        with pytest.raises(CheckpointError, match=r"last\.ckpt: (is empty|is damaged|was not)"):
            load_sealed(path)
    path.write_bytes(data[:-1])
    with pytest.raises(CheckpointError, match="is damaged"):
        load_sealed(path)


@pytest.mark.usefixtures("no_torch_load")
def test_every_bit_flip_is_found(path):
    data = path.read_bytes()
    generator = random.Random(1)
    places = [generator.randrange(8 * len(data)) for _ in range(300)]
    places += range(8 * (len(data) - 61), 8 * len(data))  # all of the end record and the seal
    for place in places:
        damaged = bytearray(data)
        damaged[place // 8] ^= 1 << place % 8
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"^[^\n]*last\.ckpt: [^\n]+$"):
            load_sealed(path)


@pytest.mark.usefixtures("no_torch_load")
def test_what_is_no_regular_file_is_refused_at_once(path, tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    (tmp_path / "zeros").symlink_to("/dev/zero")
    (tmp_path / "dangling").symlink_to("gone.ckpt")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "empty").write_bytes(b"")
    expected = {
        "fifo": "is not a regular file",
        "folder": "is not a regular file",
        "zeros": "is not a regular file",
        "dangling": "is a link to 'gone.ckpt', which does not exist",
        "loop": "Too many levels of symbolic links",
        "missing": "no such file",
        "empty": "is empty",
        "nul\0": "embedded null byte|open: embedded null character in path",  # as Python has it
    }
    for name, reason in expected.items():
        for use in (load_sealed, verify_seal):
            with pytest.raises(CheckpointError) as caught:
                use(tmp_path / name)
            assert str(caught.value) in [f"{tmp_path / name}: {one}" for one in reason.split("|")]
        assert not is_sealed(tmp_path / name)


@pytest.mark.usefixtures("no_torch_load")
def test_a_checkpoint_of_somebody_else_has_its_own_reason(tmp_path):
    torch.save(NEW, tmp_path / "stock.ckpt")
    with pytest.raises(CheckpointError, match="was not written by lightning_rl"):
        load_sealed(tmp_path / "stock.ckpt")
    assert not is_sealed(tmp_path / "stock.ckpt")


def test_a_file_with_another_digest_than_asked_for_is_refused(path):
    digest = verify_seal(path)
    assert load_sealed(path, sha256=digest)["version"] == 1
    with pytest.raises(CheckpointError, match="is not the file referred to"):
        load_sealed(path, sha256="0" * 64)


# A failing disk leaves the old file.


class Failing:
    """A function of `os` that raises at its n-th call."""

    def __init__(self, function, nth, code):
        self.function, self.left, self.code, self.failed = function, nth, code, False

    def __call__(self, *args, **kwargs):
        self.left -= 1
        if self.left == 0:
            self.failed = True
            raise OSError(self.code, os.strerror(self.code))
        return self.function(*args, **kwargs)


def _fails(path, failing):
    """Save NEW; return whether the failure was reached, which must then be what is raised."""
    code = 0
    try:
        save_sealed(NEW, path)
    except OSError as error:
        code = error.errno
    assert code == (failing.code if failing.failed else 0)
    return failing.failed


@pytest.mark.parametrize("name", ["write", "fsync", "replace", "open"])
def test_a_failing_call_leaves_the_old_file(path, monkeypatch, name):
    for nth in range(1, 200):
        failing = Failing(getattr(os, name), nth, errno.ENOSPC)
        with monkeypatch.context() as patch:
            patch.setattr(os, name, failing)
            if not _fails(path, failing):
                break
        # The second fsync and open are the folder's, after the new name was given.
        renamed = nth == 2 and name in ("fsync", "open")
        assert load_sealed(path)["version"] == (2 if renamed else 1)
        assert _names(path) == ["last.ckpt"]
        save_sealed(OLD, path)
    # The loop ended at the first call that is never made: all calls were made to fail once.
    assert nth == {"fsync": 3, "replace": 2, "open": 3}.get(name, nth)
    assert nth > 1
    assert load_sealed(path)["version"] == 2


def test_short_writes_are_completed(path, monkeypatch):
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:100]))
    save_sealed(NEW, path)
    assert torch.equal(load_sealed(path)["weights"], NEW["weights"])


def _in_child(function):
    """Run `function` in a fork and return its wait status; exit code 9 is an unexpected error."""
    pid = os.fork()
    if pid == 0:
        code = 9
        try:
            code = function()
        finally:
            os._exit(code or 0)
    return os.waitpid(pid, 0)[1]


FORKS = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


@FORKS
def test_a_limit_of_file_size_leaves_the_old_file(path):
    def child():
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
        try:
            save_sealed(NEW, path)
        except OSError as error:
            return 5 if error.errno == errno.EFBIG else 6

    assert os.waitstatus_to_exitcode(_in_child(child)) == 5
    assert load_sealed(path)["version"] == 1
    assert _names(path) == ["last.ckpt"]


@FORKS
@pytest.mark.parametrize(
    "point",
    [
        "save:before_write",
        *(f"save:mid_write:{n}" for n in (1, 2, 5, 10, 20)),
        "save:mid_write",
        "save:after_write",
        "save:after_fsync",
        "save:after_rename",
    ],
)
def test_a_kill_leaves_the_old_or_the_new_file(path, point):
    def child():
        os.environ["LIGHTNING_RL_KILL_POINT"] = point
        save_sealed(NEW, path)

    status = _in_child(child)
    assert os.WTERMSIG(status) == signal.SIGKILL
    renamed = point == "save:after_rename"
    assert load_sealed(path)["version"] == (2 if renamed else 1)
    left = [name for name in _names(path) if name != "last.ckpt"]
    assert [name.startswith(".tmp-") for name in left] == ([] if renamed else [True])
    remove_temporaries(path.parent)
    assert _names(path) == ["last.ckpt"]


@FORKS
def test_the_kill_point_counts_passes(path):
    def child():
        os.environ["LIGHTNING_RL_KILL_POINT"] = "save:after_rename:3"
        for version in range(10, 20):
            save_sealed({"version": version}, path)

    assert os.WTERMSIG(_in_child(child)) == signal.SIGKILL
    assert load_sealed(path)["version"] == 12


@FORKS
def test_kills_at_random_moments_leave_a_whole_file(path):
    def child():
        for version in range(10**6):
            save_sealed({"version": version, "weights": torch.zeros(20_000)}, path)

    generator = random.Random(2)
    for _ in range(10):
        pid = os.fork()
        if pid == 0:
            child()
        signal.sigtimedwait([], generator.uniform(0.005, 0.05))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        assert load_sealed(path)["version"] >= 0


# Small files.


def test_atomic_text(tmp_path, monkeypatch):
    path = tmp_path / "run.json"
    atomic_write_text(path, "Zürich\n")
    assert path.read_text(encoding="utf-8") == "Zürich\n"
    atomic_write_bytes(path, b"two", durable=False)
    monkeypatch.setattr(os, "replace", Failing(os.replace, 1, errno.ENOSPC))
    with pytest.raises(OSError, match="No space left"):
        atomic_write_text(path, "three")
    assert path.read_bytes() == b"two"
    assert _names(path) == ["run.json"]
