"""Crafted files, each also with a valid seal: whoever writes a file can seal it."""

import gc
import io
import os
import struct
import subprocess
import sys
import time
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lightning_rl.errors import CheckpointError
from lightning_rl.storage.archive import ForbiddenContent, check_archive
from lightning_rl.storage.sealed import load_sealed, save_sealed
from tests.storage.crafted import (
    INERT,
    PROTO,
    REFUSED,
    ZEROS,
    archive,
    name,
    number,
    saved,
    seal,
    storage,
    tensor,
    text,
    within,
)

SPIED: list[str] = []
WATCHING = False
# What running foreign code would need. Opening for reading is the loader's own business.
EVENTS = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "socket.connect")
FORBIDDEN_IMPORTS = {"evil", "runpy", "antigravity"}


def _spy(event, arguments):
    if not WATCHING:
        return
    imports = event == "import" and arguments[0] in FORBIDDEN_IMPORTS
    writes = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if event in EVENTS or imports or writes:
        SPIED.append(f"{event} {arguments!r}")


@pytest.fixture(scope="module", autouse=True)
def _audit_hook():
    sys.addaudithook(_spy)  # cannot be removed, only switched off


@pytest.fixture
def canary():
    global WATCHING
    SPIED.clear()
    WATCHING = True
    yield SPIED
    WATCHING = False


def _peak_memory_mb():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))


@pytest.fixture
def limits():
    """At most a second of this process and 256 MB for each file."""
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
    except OSError:
        pytest.skip("the peak of memory cannot be read here")
    gc.disable()  # a collection walks through all that the test process has ever imported
    before, start = _peak_memory_mb(), time.process_time()
    yield
    spent = time.process_time() - start
    gc.enable()
    assert spent < 1.0
    assert _peak_memory_mb() - before < 256


def test_the_corpus_is_large_enough():
    assert len(REFUSED) + len(INERT) >= 40
    assert not Path("/tmp/evil").exists()


@pytest.mark.parametrize("sealed", [False, True], ids=["unsealed", "sealed"])
@pytest.mark.parametrize("payload", REFUSED)
def test_a_crafted_file_is_refused_and_runs_nothing(tmp_path, limits, payload, sealed, request):
    path = tmp_path / "last.ckpt"
    path.write_bytes(seal(REFUSED[payload]) if sealed else REFUSED[payload])
    spied = request.getfixturevalue("canary")
    with pytest.raises(CheckpointError, match=r"^[^\n]*last\.ckpt: [^\n]+$") as caught:
        load_sealed(path)
    assert spied == []
    if sealed:
        assert "seal" not in str(caught.value)
    assert len(str(caught.value)) < 300 + len(str(path))


@pytest.mark.parametrize("payload", INERT)
def test_text_that_other_tools_would_run_stays_text(tmp_path, payload, canary):
    global WATCHING
    WATCHING = False
    path = tmp_path / "last.ckpt"
    save_sealed(INERT[payload], path)
    WATCHING = True
    assert load_sealed(path) == INERT[payload]
    assert canary == []


def test_the_corpus_builder_builds_loadable_files(tmp_path):
    """Else every refusal above could be for a wrong reason."""
    path = tmp_path / "a.ckpt"
    path.write_bytes(seal(archive(within(tensor(storage(2))), {"0": struct.pack("<2f", 1, 2)})))
    assert load_sealed(path)["a"].tolist() == [1.0, 2.0]
    path.write_bytes(seal(saved(OrderedDict(a=1))))
    with pytest.raises(CheckpointError, match="holds no dictionary"):
        load_sealed(path)


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        ("os.system", "refused: the name 'posix.system'"),
        ("10^9 elements", "refused: storage 0 claims 1000000000 items; its member differs"),
        ("zip bomb", "is compressed or encrypted"),
        ("symlink member", "member 'archive/data/1' is not a regular file"),
        ("zip slip", "unexpected member '../../evil'"),
        ("hash bomb", "a tuple of more than 10,000 values"),
        ("recursion bomb", "nested deeper than 100 levels"),
        ("no program", "the member 'data.pkl' is missing"),
        ("a member twice", "a member stands in it twice"),
        ("a shifted directory", "its directory is not where its end record says"),
        ("wrong CRC", "has a wrong CRC"),
        ("invalid sparse tensor", "the name 'torch._utils._rebuild_sparse_tensor'"),
        ("beyond its storage", "cannot be loaded"),
        ("10^12 elements of stride 0", "an expanded tensor"),
        ("bytes before the archive", "not a zip archive that starts at its first byte"),
    ],
)
def test_the_reason_is_named(tmp_path, payload, reason):
    path = tmp_path / "a.ckpt"
    path.write_bytes(seal(REFUSED[payload]))
    with pytest.raises(CheckpointError) as caught:
        load_sealed(path)
    assert reason in str(caught.value)


def test_the_canary_sings(canary):
    subprocess.run(["true"], check=True)
    assert canary
    assert canary[0].startswith("subprocess.Popen")


# Mutations of a good file, sealed again, give a dictionary or one CheckpointError.

GOOD = saved(
    {
        "state_dict": torch.nn.Linear(2, 2).state_dict(),
        "n": [1, 2.5, None, b"x", (1, 2)],
        "dtype": torch.float16,
    }
)
_mutations = st.lists(
    st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), min_size=1, max_size=6
)


def _dictionary_or_one_line(path):
    message = ""
    try:
        assert type(load_sealed(path)) is dict
    except CheckpointError as error:
        message = str(error)
    assert "\n" not in message


def _read_mutated(folder, mutations):
    data = bytearray(GOOD)
    for place, value in mutations:
        data[place] = value
    path = folder / "mutated.ckpt"
    path.write_bytes(seal(bytes(data)))
    _dictionary_or_one_line(path)


def _read_program(folder, program):
    """Mutations of the whole file mostly end at a CRC; these reach the pickle program."""
    path = folder / "program.ckpt"
    path.write_bytes(seal(archive(program, ZEROS)))
    _dictionary_or_one_line(path)


_pieces = st.sampled_from(
    [
        *(bytes([code]) for code in b"}])(tQRbseauN\x85\x86\x87\x88\x89."),
        *(b"q" + bytes([i]) for i in range(3)),
        *(b"h" + bytes([i]) for i in range(3)),
        text("a"),
        text("latin1"),
        number(2),
        storage(2),
        tensor(storage(2))[2:-1],
        name("collections", "OrderedDict"),
        name("_codecs", "encode"),
        name("torch", "Size"),
        name("torch", "device"),
        name("torch", "float32"),
        name("torch._utils", "_rebuild_parameter"),
        name("torch._utils", "_rebuild_tensor_v2"),
        name("torch._utils", "_rebuild_tensor_v3"),
        name("__builtin__", "complex"),
        within(tensor(storage(2)))[2:-1],
    ]
)
_programs = st.lists(_pieces, max_size=25).map(lambda p: PROTO + b"".join(p) + b".")


@settings(max_examples=150)
@given(_mutations)
def test_mutated_files(tmp_path_factory, mutations):
    _read_mutated(tmp_path_factory.getbasetemp(), mutations)


@settings(max_examples=150)
@given(_programs)
@example(within(tensor(storage(2))))
def test_random_programs(tmp_path_factory, program):
    _read_program(tmp_path_factory.getbasetemp(), program)


@pytest.mark.slow
@settings(max_examples=10_000)
@given(_mutations)
def test_many_mutated_files(tmp_path_factory, mutations):
    _read_mutated(tmp_path_factory.getbasetemp(), mutations)


@pytest.mark.slow
@settings(max_examples=10_000)
@given(_programs)
def test_many_random_programs(tmp_path_factory, program):
    _read_program(tmp_path_factory.getbasetemp(), program)


def test_the_check_alone_refuses_a_size_that_members_exceed():
    data = archive(PROTO + b"}.", {"0": bytes(1000)})
    check_archive(io.BytesIO(data), len(data))
    with pytest.raises(ForbiddenContent, match="claim more bytes than the file has"):
        check_archive(io.BytesIO(data), 500)
