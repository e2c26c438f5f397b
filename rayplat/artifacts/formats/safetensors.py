"""safetensors: named tensors behind a JSON header, and nothing else (https://github.com/huggingface/safetensors).

The format holds no graph: what is computed with the tensors is code of the platform, handed in by whoever loads them.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy.typing as npt

from rayplat.artifacts.formats.tree import Tree
from rayplat.errors import InvalidInput, TooLarge, Unavailable

MAX_HEADER = 16 << 20
_BITS = {"BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "I16": 16, "U16": 16, "F16": 16}
_BITS |= {"BF16": 16, "I32": 32, "U32": 32, "F32": 32, "F64": 64, "I64": 64, "U64": 64, "C64": 64}
_BITS |= {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6}


class SafetensorsReader:
    """Files ``*.safetensors``, or what has their header."""

    name = "safetensors"
    suffixes = (".safetensors",)

    def recognises(self, head: bytes) -> bool:
        return len(head) > 9 and head[8:10] in (b'{"', b"{}", b"{ ") and head[4:8] == b"\0\0\0\0"

    def audit(self, path: str, file: BinaryIO, tree: Tree) -> str:
        size = tree.sizes[path]
        start = file.read(8)
        if len(start) < 8:
            raise InvalidInput(path, "it is cut off")
        length = struct.unpack("<Q", start)[0]
        if length > MAX_HEADER:
            raise TooLarge(f"the header of {path}", length, MAX_HEADER)
        header = _header(file.read(length), path)
        end = 0
        for name, begin, stop, wanted in sorted(_tensors(header, path), key=lambda t: (t[1], t[2])):
            if begin != end or stop - begin != wanted:
                raise InvalidInput(path, f"the tensor {name!r} is not where or not as large as the header says")
            end = stop
        if 8 + length + end != size:
            raise InvalidInput(path, f"its tensors end at byte {8 + length + end}, the file at {size}")
        return ""

    def load(self, folder: Path, path: str, names: tuple[str, ...]) -> Tensors:  # noqa: ARG002 - tensors have names
        return Tensors(load_tensors(folder / path))


class Tensors:
    """Weights without a graph: `predict` says what is missing."""

    def __init__(self, tensors: dict[str, npt.NDArray[Any]]) -> None:
        self.tensors = tensors

    def predict(self, columns: Mapping[str, Any]) -> Mapping[str, npt.NDArray[Any]]:  # noqa: ARG002 - never used
        raise InvalidInput("safetensors", "the tree holds weights and no graph: load it with build=<what computes>")


def load_tensors(path: Path) -> dict[str, npt.NDArray[Any]]:
    """The tensors of an audited file, by name. Raises `InvalidInput` for a type that numpy lacks (bfloat16, …)."""
    try:
        from safetensors import numpy as reader
    except ImportError as e:
        raise Unavailable("safetensors", "these models need it: pip install 'rayplat[formats]'") from e
    try:
        return dict(reader.load_file(path))
    except Exception as e:
        raise InvalidInput(path.name, f"safetensors cannot read it: {type(e).__name__}: {str(e)[:300]}") from e


def _header(content: bytes, path: str) -> dict[str, Any]:
    try:
        found = json.loads(content, object_pairs_hook=_once)
    except (ValueError, RecursionError) as e:
        raise InvalidInput(path, f"its header is no JSON object: {str(e)[:100]}") from e
    if not isinstance(found, dict):
        raise InvalidInput(path, "its header is no JSON object")
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a name is there twice")
    return dict(pairs)


def _tensors(header: dict[str, Any], path: str) -> list[tuple[str, int, int, int]]:
    """(name, first byte, byte after the last, bytes that its shape needs) of each tensor."""
    found = []
    for name, info in header.items():
        if name == "__metadata__":
            continue
        try:
            shape, (begin, stop) = info["shape"], info["data_offsets"]
            numbers = [*shape, begin, stop]
            if not all(isinstance(n, int) and not isinstance(n, bool) and 0 <= n < 2**60 for n in numbers):
                raise ValueError(name)
            found.append((name, begin, stop, math.prod(shape) * _BITS[info["dtype"]] // 8))
        except (KeyError, TypeError, ValueError) as e:
            raise InvalidInput(path, f"the header does not describe the tensor {name!r}") from e
    return found
