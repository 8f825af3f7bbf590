"""Crafted checkpoints: builders of hostile archives, and the corpus made of them."""

import hashlib
import io
import os
import pickle
import socket
import stat
import struct
import subprocess
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import torch

from lightning_rl.errors import CheckpointError

PROTO = b"\x80\x02"


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
