"""Crafted files, each also with a valid seal: whoever writes a file can seal it."""

import hashlib
import io
import os
import pickle
import socket
import stat
import struct
import subprocess
import sys
import tarfile
import time
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lightning_rl.errors import CheckpointError
from lightning_rl.storage.archive import ForbiddenContent, check_archive
from lightning_rl.storage.sealed import load_sealed, save_sealed

PROTO = b"\x80\x02"
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


def seal(data):
    """Add a valid seal; to what is no zip archive, an empty directory as well."""
    if data[-22:-18] != b"PK\x05\x06":
        data += b"PK\x05\x06" + bytes(18)
    data = data[:-2] + struct.pack("<H", 39) + b"sha256:"
    return data + hashlib.sha256(data).digest()


def archive(program, storages=None, members=(), root="archive", compression=zipfile.ZIP_STORED):
    """Build what torch.save would, round any pickle program."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as out:
        if program is not None:
            out.writestr(f"{root}/data.pkl", program)
        out.writestr(f"{root}/byteorder", "little")
        out.writestr(f"{root}/version", "3\n")
        for key, data in (storages or {}).items():
            out.writestr(f"{root}/data/{key}", data)
        for name, data in members:
            out.writestr(name, data)
    return file.getvalue()


def saved(obj):
    file = io.BytesIO()
    torch.save(obj, file)
    return file.getvalue()


def text(value):
    data = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(data)) + data


def number(value):
    data = pickle.encode_long(value)
    return b"\x8a" + bytes([len(data)]) + data


def name(module, attribute):
    return b"c" + f"{module}\n{attribute}\n".encode()


def call(module, attribute, *arguments):
    return PROTO + name(module, attribute) + b"(" + b"".join(arguments) + b"tR."


def within(program):
    """Put a program's value into a dictionary, as a checkpoint would."""
    return PROTO + b"}" + text("a") + program.removeprefix(PROTO).removesuffix(b".") + b"s."


def storage(count, kind=("torch", "FloatStorage"), key="0", location="cpu", tag="storage"):
    parts = text(tag) + name(*kind) + text(key) + text(location) + number(count)
    return b"(" + parts + b"tQ"


def tensor(stored, offset=0, size=2, stride=1):
    hooks = name("collections", "OrderedDict") + b")R"
    geometry = number(offset) + b"(" + number(size) + b"t(" + number(stride) + b"t"
    return (
        PROTO
        + name("torch._utils", "_rebuild_tensor_v2")
        + b"("
        + stored
        + geometry
        + b"\x89"
        + hooks
        + b"tR."
    )


def pickled(reduction, protocol=2):
    class Payload:
        def __reduce__(self):
            return reduction

    return pickle.dumps({"a": Payload()}, protocol=protocol)


def _legacy_tar():
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as out:
        for member in ("sys_info", "pickle", "storages"):
            data = pickled((os.system, ("touch /tmp/evil",)))
            info = tarfile.TarInfo(member)
            info.size = len(data)
            out.addfile(info, io.BytesIO(data))
    return file.getvalue()


def _legacy_torch():
    file = io.BytesIO()
    torch.save({"a": torch.ones(2)}, file, _use_new_zipfile_serialization=False)
    return file.getvalue()


def _npz():
    file = io.BytesIO()
    np.savez(file, a=np.array([{"a": 1}], dtype=object))
    return file.getvalue()


def _symlink_member():
    info = zipfile.ZipInfo("archive/data/1")
    info.create_system = 3
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return archive(PROTO + b"}.", members=[(info, "/etc/passwd")])


def _patched(data, old, new):
    assert old in data
    assert len(old) == len(new)
    return data.replace(old, new)


def _directory_field(data, offset, value, member=-1):
    """Overwrite a 32-bit field in the central directory's entry of one member."""
    places = [i for i in range(len(data)) if data[i : i + 4] == b"PK\x01\x02"]
    place = places[member] + offset
    return data[:place] + struct.pack("<I", value) + data[place + 4 :]


def _shifted_directory():
    """A second directory that only a reader of absolute offsets finds."""
    data = archive(PROTO + b"}.")
    (start,) = struct.unpack_from("<I", data, len(data) - 6)
    directory = data[start:-22]
    return data[:start] + directory + directory + data[-22:]


def _towers(opening, pair, closing):
    """Thirty levels, each of two references to the one below."""
    program = PROTO + opening + b"q\x00"
    for level in range(30):
        program += pair(b"h" + bytes([level])) + b"q" + bytes([level + 1])
    return program + closing


def _duplicate_member():
    data = archive(PROTO + b"}.", members=[("archive/data.pkX", PROTO + b"}.")])
    return _patched(data, b"archive/data.pkX", b"archive/data.pkl")


def _sparse():
    indices, values = torch.tensor([[5, 900]]), torch.tensor([1.0, 2.0])
    with torch.sparse.check_sparse_tensor_invariants(False):
        return torch.sparse_coo_tensor(indices, values, (10,), check_invariants=False)


SYSTEM = text("touch /tmp/evil")
ZEROS = {"0": bytes(8)}

REFUSED = {
    # names and calls
    "os.system": archive(pickled((os.system, ("touch /tmp/evil",)))),
    "os.system by its module": archive(within(call("os", "system", SYSTEM))),
    "nt.system": archive(within(call("nt", "system", SYSTEM))),
    "eval": archive(within(call("__builtin__", "eval", SYSTEM))),
    "exec": archive(within(call("builtins", "exec", SYSTEM))),
    "getattr": archive(within(call("builtins", "getattr", text("a"), text("b")))),
    "__import__": archive(within(call("builtins", "__import__", text("evil")))),
    "import_module": archive(within(call("importlib", "import_module", text("evil")))),
    "Popen": archive(pickled((subprocess.Popen, (["touch", "/tmp/evil"],)))),
    "socket": archive(pickled((socket.create_connection, (("127.0.0.1", 9),)))),
    "runpy": archive(within(call("runpy", "run_path", text("/tmp/evil.py")))),
    "torch.load": archive(within(call("torch.serialization", "load", text("/tmp/evil")))),
    "torch.hub": archive(within(call("torch.hub", "load", text("evil/evil"), text("a")))),
    "torch.package": archive(within(call("torch.package", "PackageImporter", text("/tmp/e")))),
    "numpy.load": archive(within(call("numpy", "load", text("/tmp/evil.npy")))),
    "numpy scalar": archive(pickle.dumps({"a": np.float64(1)}, 2)),
    "Path": archive(pickle.dumps({"a": Path("a")}, 2)),
    "a class of ours": archive(pickle.dumps({"a": CheckpointError("x")}, 2)),
    "INST": archive(PROTO + b"(" + SYSTEM + b"ios\nsystem\n."),
    "OBJ": archive(PROTO + b"(" + name("os", "system") + SYSTEM + b"o."),
    "NEWOBJ": archive(PROTO + name("torch", "Tensor") + b")\x81."),
    "STACK_GLOBAL": archive(pickled((os.system, ("touch /tmp/evil",)), protocol=4)),
    "EXT1": archive(PROTO + b"\x82\x01."),
    "protocol 5": archive(pickle.dumps({"a": bytearray(b"x")}, 5)),
    "BUILD on a tensor": archive(within(tensor(storage(2))[:-1] + b"}b."), ZEROS),
    "BUILD hides a method": archive(
        PROTO
        + b"}"
        + text("a")
        + name("collections", "OrderedDict")
        + b")R}"
        + text("items")
        + b"K\x01sbs."
    ),
    "dictionary of an argument": archive(within(call("collections", "OrderedDict", b"]"))),
    "another codec": archive(within(call("_codecs", "encode", text("a"), text("idna")))),
    "a huge bytearray": archive(within(call("__builtin__", "bytearray", number(2**40)))),
    "a huge tensor by its type": archive(within(call("torch", "FloatTensor", number(2**40)))),
    "a meta tensor": archive(
        within(
            call(
                "torch._utils",
                "_rebuild_meta_tensor_no_storage",
                name("torch", "float32"),
                b")",
                b")",
                b"\x89",
            )
        )
    ),
    "a wrapper subclass": archive(within(call("torch._utils", "_rebuild_wrapper_subclass"))),
    # programs
    "no STOP": archive(PROTO + b"}"),
    "an empty program": archive(b""),
    "noise for a program": archive(bytes(range(256))),
    "stack underflow": archive(PROTO + b"0s."),
    "a mark for a value": archive(PROTO + b"(\x85."),
    "unknown memo": archive(PROTO + b"h\x07."),
    "a long integer": archive(PROTO + b"\x8b" + struct.pack("<i", 2**31 - 1) + b"."),
    "a long string": archive(PROTO + b"X" + struct.pack("<I", 2**32 - 1) + b"."),
    "recursion bomb": archive(PROTO + b"}" + text("a") + b"]" * 30_000 + b"a" * 29_999 + b"s."),
    "hash bomb": archive(_towers(b")", lambda get: get + get + b"\x86", b"}h\x1eNs.")),
    "too many operations": archive(PROTO + b"N" * 500_001 + b"."),
    "17 MB of program": archive(PROTO + b"}" + text("a" * 17_000_000) + b"Ns."),
    "a list": archive(PROTO + b"]."),
    # tensors
    "10^9 elements": archive(within(tensor(storage(10**9), size=10**9)), ZEROS),
    "a claim below its member": archive(within(tensor(storage(1))), ZEROS),
    "a negative claim": archive(within(tensor(storage(-2))), ZEROS),
    "a claim of True": archive(within(tensor(storage(2).replace(number(2), b"\x88"))), ZEROS),
    "a storage without a member": archive(within(tensor(storage(2, key="7"))), ZEROS),
    "a key that leads out": archive(within(tensor(storage(2, key="../version"))), ZEROS),
    "a storage of unknown kind": archive(
        within(tensor(storage(2, kind=("torch", "float32")))), ZEROS
    ),
    "a persistent module": archive(within(tensor(storage(2, tag="module"))), ZEROS),
    "beyond its storage": archive(within(tensor(storage(2), size=1000)), ZEROS),
    "before its storage": archive(within(tensor(storage(2), offset=-1)), ZEROS),
    "10^12 elements of stride 0": archive(within(tensor(storage(2), size=10**12, stride=0)), ZEROS),
    "invalid sparse tensor": saved({"a": _sparse()}),
    # the zip archive
    "zip slip": archive(PROTO + b"}.", members=[("../../evil", "x")]),
    "zip slip below the root": archive(PROTO + b"}.", members=[("archive/../../evil", "x")]),
    "absolute member": archive(PROTO + b"}.", members=[("/tmp/evil", "x")]),
    "symlink member": _symlink_member(),
    "zip bomb": archive(PROTO + b"}.", {"0": bytes(50_000_000)}, compression=zipfile.ZIP_DEFLATED),
    "huge member by the directory": _directory_field(archive(PROTO + b"}.", ZEROS), 24, 2**32 - 2),
    "huge member, both sizes": _directory_field(
        _directory_field(archive(PROTO + b"}.", ZEROS), 24, 2**31), 20, 2**31
    ),
    "wrong CRC": _directory_field(archive(PROTO + b"}.", ZEROS), 16, 1),
    "non-UTF-8 name": _patched(
        archive(PROTO + b"}.", members=[("archive/data/zzz", "x")]),
        b"data/zzz",
        b"data/\xff\xfe\xfd",
    ),
    "a zero byte in a name": _patched(
        archive(PROTO + b"}.", members=[("archive/data/1zz", "x")]), b"data/1zz", b"data/1\0z"
    ),
    "a member twice": _duplicate_member(),
    "two roots": archive(PROTO + b"}.", members=[("other/data.pkl", PROTO + b"}.")]),
    "TorchScript": archive(PROTO + b"}.", members=[("archive/constants.pkl", PROTO + b").")]),
    "no program": archive(None),
    "no member": archive(None)[-22:-12] + bytes(12),
    "a shifted directory": _shifted_directory(),
    "bytes before the archive": b"#!/bin/sh\n" + archive(PROTO + b"}."),
    # other formats
    "legacy tar": _legacy_tar(),
    "legacy torch": _legacy_torch(),
    "a bare pickle": pickled((os.system, ("touch /tmp/evil",))),
    "DCP metadata": pickle.dumps({"state_dict_metadata": {}}, 4),
    "npz with a nested pickle": _npz(),
    "noise": np.random.default_rng(0).bytes(1000),
}

# Primitives that other tools would run; to us they are text, and are returned as such.
INERT = {
    "_instantiator": {"hyper_parameters": {"_instantiator": "os.system", "a": 1}},
    "_class_path": {"hyper_parameters": {"_class_path": "evil.Evil"}},
    "a callable by name": {"hyper_parameters": {"network": {"class_path": "os.system"}}},
    "a nested pickle": {"state": pickled((os.system, ("touch /tmp/evil",)))},
    "hparams_type": {"hparams_type": "os.system", "hparams_name": "evil"},
}


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
    before, start = _peak_memory_mb(), time.process_time()
    yield
    assert time.process_time() - start < 1.0
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
