"""Headers of numpy's files: whether an array is only numbers. An array of objects is a pickle."""

from __future__ import annotations

import ast
import struct
from typing import IO

from rayplat.errors import InvalidInput

MAGIC = b"\x93NUMPY"
_MAX_HEADER = 65_536


def holds_objects(file: IO[bytes], name: str) -> bool:
    """Whether the array in ``file`` is of Python objects. Raises `InvalidInput` for a header that is none."""
    start = file.read(8)
    if start[:6] != MAGIC or len(start) < 8:
        raise InvalidInput(name, "not a numpy array")
    wide = start[6] >= 2
    raw = file.read(4 if wide else 2)
    if len(raw) < (4 if wide else 2):
        raise InvalidInput(name, "the numpy array is cut off")
    size = struct.unpack("<I" if wide else "<H", raw)[0]
    if size > _MAX_HEADER:
        raise InvalidInput(name, f"the header of the numpy array has {size} bytes")
    try:
        header = ast.literal_eval(file.read(size).decode("latin-1").strip())
        return "O" in _letters(header["descr"])
    except (ValueError, SyntaxError, KeyError, TypeError, MemoryError, RecursionError) as e:
        raise InvalidInput(name, "the header of the numpy array cannot be read") from e


def _letters(descr: object) -> str:
    """The type letters of a dtype description, fields included: ``<f4``, ``|O``, ``[('a', '<f4'), …]``."""
    if isinstance(descr, str):
        return descr
    if isinstance(descr, list | tuple):
        return "".join(_letters(part[1]) for part in descr if isinstance(part, tuple) and len(part) > 1)
    raise TypeError(type(descr).__name__)
