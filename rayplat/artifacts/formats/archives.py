"""Zip archives from strangers: read only where every reader would see the same, small enough, content."""

from __future__ import annotations

import struct
import zipfile
from typing import BinaryIO

from rayplat.errors import InvalidInput, TooLarge

MAGIC = (b"PK\x03\x04", b"PK\x05\x06")
MAX_RECORDS = 50_000
MAX_RATIO = 200  # unpacked to packed; deflate reaches 1,032, weights stay under 2
MAX_BYTES = 64 << 30
_FREE_BYTES = 16 << 20  # what a very compressible small file may grow to


def open_zip(file: BinaryIO, name: str) -> zipfile.ZipFile:
    """The archive in ``file``. Raises `InvalidInput` where its two tables of contents differ, records overlap, repeat
    or are encrypted, or a path leaves it; `TooLarge` for a bomb."""
    try:
        archive = zipfile.ZipFile(file)
    except (zipfile.BadZipFile, ValueError, OSError, struct.error, NotImplementedError) as e:
        raise InvalidInput(name, f"not a whole zip archive: {e}") from e
    infos = archive.infolist()
    if len(infos) > MAX_RECORDS:
        raise TooLarge(name, len(infos), MAX_RECORDS, "records")
    _check_size(infos, name)
    if len({info.filename.casefold() for info in infos}) != len(infos):
        raise InvalidInput(name, "a record is in the archive twice")
    if infos and min(info.header_offset for info in infos) != 0:
        raise InvalidInput(name, "the archive stands behind other bytes")
    end = 0
    for info in sorted(infos, key=lambda i: i.header_offset):
        if info.flag_bits & 0x1:
            raise InvalidInput(name, f"the record {info.filename!r} is encrypted")
        if info.filename.startswith("/") or "\\" in info.filename or ".." in info.filename.split("/"):
            raise InvalidInput(name, f"the record {info.filename!r} points out of the archive")
        if info.header_offset < end:
            raise InvalidInput(name, f"the record {info.filename!r} overlaps another")
        end = _end_of(file, info, name)
    return archive


def _check_size(infos: list[zipfile.ZipInfo], name: str) -> None:
    total, packed = sum(i.file_size for i in infos), sum(i.compress_size for i in infos)
    limit = min(MAX_BYTES, _FREE_BYTES + MAX_RATIO * packed)
    if total > limit:
        raise TooLarge(f"{name}, unpacked,", total, limit)


def _end_of(file: BinaryIO, info: zipfile.ZipInfo, name: str) -> int:
    """Where a record ends, after a look at the header that stands before its bytes."""
    file.seek(info.header_offset)
    header = file.read(30)
    if len(header) < 30 or header[:4] != b"PK\x03\x04":
        raise InvalidInput(name, f"the record {info.filename!r} has no header")
    method = struct.unpack("<H", header[8:10])[0]
    name_size, extra_size = struct.unpack("<HH", header[26:30])
    raw = file.read(name_size)
    told = raw.decode("utf-8" if info.flag_bits & 0x800 else "cp437", "replace")
    if told != info.orig_filename or method != info.compress_type:
        raise InvalidInput(name, f"the record {info.filename!r} is called {told!r} in its own header")
    return info.header_offset + 30 + int(name_size) + int(extra_size) + info.compress_size
