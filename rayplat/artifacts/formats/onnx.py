"""ONNX: graphs of the standard's own operators. Read on the wire first, so that nothing of it reaches the runtime
before external data, custom operators and nesting were looked at. Field numbers are those of ``onnx.proto3``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from rayplat.artifacts.formats import columns as tabular
from rayplat.artifacts.formats.protobuf import Value, fields, nested, text
from rayplat.artifacts.formats.tree import Tree
from rayplat.errors import InvalidInput, SchemaMismatch, TooLarge, Unavailable

DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml"})
_MAX_BYTES = 2 << 30  # protobuf's own limit; larger models keep their weights beside the graph
_MAX_DEPTH = 32
# where messages that matter hang: (message, field number) to the message there
_PARTS = {
    ("model", 7): "graph",
    ("model", 20): "training",
    ("model", 25): "function",
    ("graph", 1): "node",
    ("graph", 5): "tensor",
    ("graph", 15): "sparse",
    ("function", 7): "node",
    ("function", 11): "attribute",
    ("node", 5): "attribute",
    ("attribute", 5): "tensor",
    ("attribute", 6): "graph",
    ("attribute", 10): "tensor",
    ("attribute", 11): "graph",
    ("attribute", 22): "sparse",
    ("attribute", 23): "sparse",
    ("sparse", 1): "tensor",
    ("sparse", 2): "tensor",
    ("tensor", 13): "entry",
}


@dataclass
class _Seen:
    """What a model uses: (domain, operator), functions it defines itself, and the files it reads."""

    operators: set[tuple[str, str]] = field(default_factory=set)
    functions: set[tuple[str, str]] = field(default_factory=set)
    files: set[str] = field(default_factory=set)
    graphs: int = 0


class OnnxReader:
    """Files ``*.onnx``, and what else is a whole ONNX message."""

    name = "onnx"
    suffixes = (".onnx",)

    def recognises(self, head: bytes) -> bool:
        """`ir_version` comes first in every file that a known exporter writes."""
        return len(head) > 3 and head[0] == 0x08 and 1 <= head[1] <= 20 and head[2] in (0x12, 0x3A, 0x42)

    def audit(self, path: str, file: BinaryIO, tree: Tree) -> str:
        content = file.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            raise TooLarge(path, tree.sizes[path], _MAX_BYTES)
        seen = _Seen()
        _walk(memoryview(content), "model", path, seen, 0)
        if seen.graphs == 0:
            raise InvalidInput(path, "it holds no graph")
        for domain, operator in sorted(seen.operators - seen.functions):
            if domain not in DOMAINS:
                raise InvalidInput(path, f"the operator {domain}::{operator} is none of the ONNX standard's")
        for location in sorted(seen.files):
            beside = (PurePosixPath(path).parent / location).as_posix()
            if location.startswith("/") or "\\" in location or ".." in location.split("/") or beside not in tree.sizes:
                raise InvalidInput(path, f"its weights are in {location!r}, which is no file of this tree")
        return ""

    def load(self, folder: Path, path: str, names: tuple[str, ...]) -> OnnxModel:
        try:
            import onnxruntime
        except ImportError as e:
            raise Unavailable("onnxruntime", "ONNX models need it: pip install 'rayplat[formats]'") from e
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        try:
            session = onnxruntime.InferenceSession(
                str(folder / path), sess_options=options, providers=["CPUExecutionProvider"]
            )
            return OnnxModel(session, names)
        except Exception as e:
            raise InvalidInput(path, f"onnxruntime cannot read it: {str(e)[:300]}") from e


class OnnxModel:
    """``predict`` takes the graph's inputs by name, or the named columns of its only matrix."""

    def __init__(self, session: Any, names: tuple[str, ...]) -> None:
        self._session, self.names = session, names
        self.inputs = session.get_inputs()
        shapes = [i.shape for i in self.inputs]
        known = len(shapes) == 1 and len(shapes[0]) == 2 and isinstance(shapes[0][1], int)
        self.width: int | None = shapes[0][1] if known else None
        self.outputs = session.get_outputs()
        self._wanted = [i.name for i in self.inputs]
        self._outputs = [output.name for output in self.outputs]

    def predict(self, columns: Mapping[str, Any]) -> Mapping[str, npt.NDArray[Any]]:
        wanted = self._wanted
        if len(wanted) == 1 and wanted[0] not in columns:
            feed = {wanted[0]: tabular.matrix(columns, self.names, self.width, _DTYPES.get(self.inputs[0].type))}
        else:
            absent = [name for name in wanted if name not in columns]
            if absent:
                raise SchemaMismatch(absent[0], "this input is absent and the model needs it")
            feed = {i.name: _typed(i, columns[i.name]) for i in self.inputs}
        try:
            answers = self._session.run(self._outputs, feed)
        except Exception as e:
            raise SchemaMismatch("inputs", f"the model cannot compute with them: {str(e)[:300]}") from e
        return {name: np.asarray(answer) for name, answer in zip(self._outputs, answers, strict=True)}


_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(bool)": np.bool_,
    "tensor(string)": np.object_,
}


def _typed(wanted: Any, values: Any) -> npt.NDArray[Any]:
    try:
        found = np.asarray(values, dtype=_DTYPES.get(wanted.type))
    except (TypeError, ValueError) as e:
        raise SchemaMismatch(wanted.name, f"{wanted.type} is expected") from e
    return found[:, None] if found.ndim == 1 and len(wanted.shape) == 2 else found


def _walk(message: memoryview, kind: str, path: str, seen: _Seen, depth: int) -> None:
    """Note what ``message`` and all messages below it use."""
    if depth > _MAX_DEPTH:
        raise InvalidInput(path, f"its graphs are nested deeper than {_MAX_DEPTH}")
    seen.graphs += kind == "graph"
    found: dict[int, Value] = {}
    for number, value in fields(message, path):
        below = _PARTS.get((kind, number))
        if below == "training":
            raise InvalidInput(path, "it holds a training graph; export it for inference")
        if below is not None:
            _walk(nested(value, path), below, path, seen, depth + 1)
        elif kind in ("node", "function", "entry"):
            found[number] = value
    _note(kind, found, path, seen)


def _note(kind: str, found: dict[int, Value], path: str, seen: _Seen) -> None:
    def word(number: int) -> str:
        return text(found[number], path) if number in found else ""

    if kind == "node":
        seen.operators.add((word(7), word(4)))
    elif kind == "function":
        seen.functions.add((word(10), word(1)))
    elif kind == "entry" and word(1) == "location":
        seen.files.add(word(2))
