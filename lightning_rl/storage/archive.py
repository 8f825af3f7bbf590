"""Reads the plan of a torch zip archive without running it; refuses what we never write.

`torch.load(weights_only=True)` runs no foreign code, but a crafted file can still make it read
past the end of a storage, allocate without bound or compute for hours. So the zip directory and
the pickle program in `data.pkl` are checked first: the members, their sizes, the opcodes, the
names, the sizes that storages claim. Nothing is unpickled.
"""

from __future__ import annotations

import pickletools
import re
import stat
import struct
import zipfile
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import torch

from lightning_rl.storage.plain import MAX_TUPLE_WEIGHT

_MEMBER = re.compile(
    r"[A-Za-z0-9_.\- =]+/(data\.pkl|byteorder|version|\.format_version|\.storage_alignment|"
    r"\.data/serialization_id|data/[0-9]{1,9})",
    re.ASCII,
)
_MAX_PROGRAM_BYTES = 16 << 20
_MAX_OPERATIONS = 500_000
_END_RECORD_BYTES = 22
_ZIP64_OFFSET = 0xFFFFFFFF
_STORAGE_ITEM_BYTES = {
    **dict.fromkeys(("BoolStorage", "ByteStorage", "CharStorage"), 1),
    **dict.fromkeys(("ShortStorage", "HalfStorage", "BFloat16Storage"), 2),
    **dict.fromkeys(("IntStorage", "FloatStorage"), 4),
    **dict.fromkeys(("LongStorage", "DoubleStorage", "ComplexFloatStorage"), 8),
    "ComplexDoubleStorage": 16,
}
_STORAGES = {f"torch {name}": size for name, size in _STORAGE_ITEM_BYTES.items()}
_STORAGES["torch.storage UntypedStorage"] = 1
_CALLABLES = {
    "collections OrderedDict",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_tensor_v3",
    "torch._utils _rebuild_parameter",
    "torch Size",
    "torch device",
    "_codecs encode",
    "__builtin__ complex",
}


class ForbiddenContent(ValueError):  # noqa: N818 - reads as what was found
    """The archive holds something that `lightning_rl` never writes; the message says what."""


def check_archive(file: BinaryIO, size: int) -> None:
    """Check the zip directory, the CRC of every member and the pickle program of an open archive.

    Args:
        file: The archive, opened for reading in binary mode.
        size: Bytes of the whole file.

    Raises:
        ForbiddenContent: Something in it is damaged or not of our making.
    """
    file.seek(0)
    if file.read(4) != b"PK\x03\x04":
        raise ForbiddenContent("not a zip archive that starts at its first byte")
    try:
        with zipfile.ZipFile(file) as archive:
            sizes = _check_members(archive.infolist(), size)
            _check_directory_offset(file, archive)
            damaged = archive.testzip()
            if damaged is not None:
                raise ForbiddenContent(f"member {damaged!r} has a wrong CRC")
            program = archive.read(_record(archive.namelist()[0], "data.pkl"))
    except ForbiddenContent:
        raise
    except Exception as error:  # zipfile raises a dozen kinds on crafted files
        raise ForbiddenContent(f"not a readable zip archive ({error})") from error
    _check_program(program, sizes)


def _check_directory_offset(file: BinaryIO, archive: zipfile.ZipFile) -> None:
    """Refuse a directory that zipfile and torch find at different places.

    Else torch might see other members than were checked: zipfile looks right before the end
    record and shifts all offsets; torch goes where the record points.
    """
    shifted = min(member.header_offset for member in archive.infolist()) != 0
    file.seek(-_END_RECORD_BYTES - len(archive.comment), 2)
    (offset,) = struct.unpack_from("<I", file.read(_END_RECORD_BYTES), 16)
    if shifted or offset not in (archive.start_dir, _ZIP64_OFFSET):
        raise ForbiddenContent("its directory is not where its end record says")


def _record(member: str, record: str) -> str:
    """Return the full name of `record` in the archive that `member` belongs to."""
    return f"{member.split('/', 1)[0]}/{record}"


def _check_members(members: list[zipfile.ZipInfo], size: int) -> dict[str, int]:
    """Refuse foreign, compressed, linked or oversized members.

    Returns:
        Storage key (`"0"`, `"1"`, ...) to its bytes.
    """
    for member in members:
        _check_member(member)
    names = [member.filename for member in members]
    if len(set(names)) != len(names):
        raise ForbiddenContent("a member stands in it twice")
    if len({name.split("/", 1)[0] for name in names}) > 1:
        raise ForbiddenContent("members of several archives in one file")
    if sum(member.file_size for member in members) > size:
        raise ForbiddenContent("its members claim more bytes than the file has")
    if not names or _record(names[0], "data.pkl") not in names:
        raise ForbiddenContent("the member 'data.pkl' is missing")
    program = members[names.index(_record(names[0], "data.pkl"))].file_size
    if program > _MAX_PROGRAM_BYTES:
        raise ForbiddenContent(f"{program >> 20} MB outside tensors; numbers belong in tensors")
    return {
        member.filename.rsplit("/", 1)[1]: member.file_size
        for member in members
        if "/data/" in member.filename
    }


def _check_member(member: zipfile.ZipInfo) -> None:
    """Refuse one member that torch would not have written."""
    # `orig_filename` is what stands in the file: zipfile cuts names at a zero byte, torch's reader
    # does not.
    if not _MEMBER.fullmatch(member.orig_filename) or member.orig_filename != member.filename:
        raise ForbiddenContent(f"unexpected member {ascii(member.orig_filename)[:80]}")
    if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG):
        raise ForbiddenContent(f"member {member.filename!r} is not a regular file")
    if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 0x1:
        raise ForbiddenContent(f"member {member.filename!r} is compressed or encrypted")
    if member.compress_size != member.file_size:
        raise ForbiddenContent(f"member {member.filename!r} claims a wrong size")


@dataclass(frozen=True)
class _Global:
    """A name that the program mentions; `module name`."""

    name: str


@dataclass(frozen=True)
class _Tuple:
    """A tuple on the stack, with the number of values that hang below it."""

    items: list[Any]
    weight: int


_OPAQUE = object()
_ORDERED_DICT = object()
_MARK = object()


@dataclass
class _Machine:
    """Follows a pickle program on a stack of descriptions: builds and imports nothing.

    Strings, integers, names and tuples are kept, since storages are asked for by them; all else is
    `_OPAQUE`.
    """

    sizes: dict[str, int]
    stack: list[Any] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)

    def run(self, program: bytes) -> None:
        """Check every opcode; raises `ForbiddenContent`, or IndexError and the like."""
        for count, (opcode, argument, _) in enumerate(pickletools.genops(program)):
            if count > _MAX_OPERATIONS:
                raise ForbiddenContent("too many values outside tensors; numbers belong in tensors")
            operation = _OPERATIONS.get(opcode.name)
            if operation is None:
                raise ForbiddenContent(f"pickle opcode {opcode.name}")
            operation(self, argument)

    def take(self, count: int) -> list[Any]:
        """Pop `count` values."""
        if count > len(self.stack):
            raise ForbiddenContent("a pickle program that takes more than it put")
        taken = self.stack[-count:]
        del self.stack[-count:]
        if _MARK in taken:
            raise ForbiddenContent("a pickle program that takes a mark for a value")
        return taken

    def take_to_mark(self) -> list[Any]:
        """Pop all values above the last mark, and the mark."""
        items = []
        while (item := self.stack.pop()) is not _MARK:
            items.append(item)
        return items[::-1]

    def push_tuple(self, items: list[Any]) -> None:
        """Push a tuple and bound what hangs below it."""
        # Hashing visits all of it, so a tower of shared pairs would take 2^n steps as a key.
        weight = 1 + sum(item.weight if isinstance(item, _Tuple) else 1 for item in items)
        if weight > MAX_TUPLE_WEIGHT:
            raise ForbiddenContent(f"a tuple of more than {MAX_TUPLE_WEIGHT:,} values")
        self.stack.append(_Tuple(items, weight))

    def push_global(self, name: str) -> None:
        """Push a name if it is one of those that our writer writes."""
        is_dtype = name.startswith("torch ") and isinstance(
            vars(torch).get(name.removeprefix("torch ")), torch.dtype
        )
        if name not in _CALLABLES and name not in _STORAGES and not is_dtype:
            raise ForbiddenContent(f"the name {ascii(name.replace(' ', '.'))[:80]}")
        self.stack.append(_Global(name))

    def reduce(self, _: object) -> None:
        """Follow a call of an allowed function."""
        function, arguments = self.take(2)
        if not isinstance(function, _Global) or function.name not in _CALLABLES:
            raise ForbiddenContent("a call of something that is no function of ours")
        if not isinstance(arguments, _Tuple):
            raise ForbiddenContent("a call without an argument tuple")
        is_dictionary = function.name == "collections OrderedDict"
        if is_dictionary and arguments.items:
            raise ForbiddenContent("a dictionary built from an argument")
        if function.name == "_codecs encode" and arguments.items[1:] != ["latin1"]:
            raise ForbiddenContent("bytes in another encoding than pickle's own")
        self.stack.append(_ORDERED_DICT if is_dictionary else _OPAQUE)

    def build(self, _: object) -> None:
        """Follow the setting of attributes, which only a `state_dict` needs."""
        self.take(1)
        if self.stack[-1] is not _ORDERED_DICT:
            raise ForbiddenContent("attributes on something that is no state_dict")

    def load_storage(self, _: object) -> None:
        """Compare what a storage claims with its member: torch would read past the end."""
        (identity,) = self.take(1)
        if not isinstance(identity, _Tuple) or len(identity.items) != 5:
            raise ForbiddenContent("a storage without the five parts of its description")
        tag, kind, key, location, count = identity.items
        if tag != "storage" or not isinstance(kind, _Global) or kind.name not in _STORAGES:
            raise ForbiddenContent("a storage of unknown kind")
        if not isinstance(key, str) or not isinstance(location, str) or type(count) is not int:
            raise ForbiddenContent("a storage with a malformed description")
        if key not in self.sizes:
            raise ForbiddenContent(f"the member 'data/{ascii(key)[1:-1][:40]}' is missing")
        if count * _STORAGES[kind.name] != self.sizes[key]:
            raise ForbiddenContent(f"storage {key} claims {count} items; its member differs")
        self.stack.append(_OPAQUE)


def _push(machine: _Machine, argument: object) -> None:
    machine.stack.append(argument if isinstance(argument, (str, int)) else _OPAQUE)


def _push_opaque(machine: _Machine, _: object) -> None:
    machine.stack.append(_OPAQUE)


def _put(machine: _Machine, index: int) -> None:
    machine.memo[index] = machine.stack[-1]


def _get(machine: _Machine, index: int) -> None:
    machine.stack.append(machine.memo[index])


def _protocol(_: _Machine, number: int) -> None:
    if number != 2:
        raise ForbiddenContent(f"pickle protocol {number}")


_OPERATIONS: dict[str, Any] = {
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "LONG1", "BINUNICODE"), _push),
    **dict.fromkeys(("BINFLOAT", "NONE", "NEWTRUE", "NEWFALSE"), _push_opaque),
    **dict.fromkeys(("EMPTY_DICT", "EMPTY_LIST"), _push_opaque),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT"), _put),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), _get),
    **dict.fromkeys(("SETITEMS", "APPENDS"), lambda machine, _: machine.take_to_mark()),
    "SETITEM": lambda machine, _: machine.take(2),
    "APPEND": lambda machine, _: machine.take(1),
    "MARK": lambda machine, _: machine.stack.append(_MARK),
    "EMPTY_TUPLE": lambda machine, _: machine.push_tuple([]),
    "TUPLE1": lambda machine, _: machine.push_tuple(machine.take(1)),
    "TUPLE2": lambda machine, _: machine.push_tuple(machine.take(2)),
    "TUPLE3": lambda machine, _: machine.push_tuple(machine.take(3)),
    "TUPLE": lambda machine, _: machine.push_tuple(machine.take_to_mark()),
    "GLOBAL": _Machine.push_global,
    "REDUCE": _Machine.reduce,
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.load_storage,
    "PROTO": _protocol,
    "STOP": lambda machine, _: machine.take(1),
}


def _check_program(program: bytes, sizes: dict[str, int]) -> None:
    """Refuse a pickle program that does more than rebuild tensors and primitives."""
    try:
        _Machine(sizes).run(program)
    except ForbiddenContent:
        raise
    except Exception as error:  # pickletools and an empty stack raise several kinds
        raise ForbiddenContent(f"a malformed pickle program ({error})") from error
