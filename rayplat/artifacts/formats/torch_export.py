"""torch.export archives (``.pt2``): a graph of listed operators and raw tensors, see `rayplat.artifacts.pt2`.

MLflow writes two things into its archives that nothing needs: pickled sample inputs, and where in the Python source
each node came from. Both are left out, unread, of the copy that is audited and loaded.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from rayplat.artifacts import bundle, pt2
from rayplat.artifacts.formats import archives
from rayplat.artifacts.formats import columns as tabular
from rayplat.artifacts.formats.format import Predictor
from rayplat.artifacts.formats.tree import Tree
from rayplat.errors import InvalidInput, SchemaMismatch

_SAMPLES, _GRAPH = "data/sample_inputs/model.pt", "models/model.json"
_MAX_GRAPH = 256 << 20


class TorchExportReader:
    """Files ``*.pt2``. In our bundle the spec beside it names the columns; elsewhere MLflow's signature may."""

    name = "torch_export"
    suffixes = (".pt2",)

    def recognises(self, head: bytes) -> bool:  # noqa: ARG002 - the same as of any zip
        """`detect` looks for the graph's record."""
        return False

    def audit(self, path: str, file: BinaryIO, tree: Tree) -> str:
        archives.open_zip(file, path)
        if _is_ours(path, set(tree.sizes)):
            pt2.audit(Path(path), file)
            return ""
        with tempfile.TemporaryFile() as plain:
            _copy_plain(file, plain, path)
            pt2.audit(Path(path), plain)
        return ""

    def load(self, folder: Path, path: str, names: tuple[str, ...]) -> Predictor:
        beside = {bundle.SPEC_FILE} if (folder / bundle.SPEC_FILE).is_file() else set()
        if _is_ours(path, beside):
            return bundle.load_bundle(folder)
        with (folder / path).open("rb") as file, tempfile.NamedTemporaryFile(suffix=".pt2") as plain:
            _copy_plain(file, plain, path)
            plain.flush()
            graph = pt2.load(Path(plain.name))
        return GraphModel(graph, names)


class GraphModel:
    """A graph without our spec. Its inputs are ``input_0``, ``input_1``, …, or others in the graph's order; one matrix
    may come as named columns. Its outputs are ``output_0``, ``output_1``, …"""

    def __init__(self, graph: pt2.Graph, names: tuple[str, ...]) -> None:
        self._forward, self.shapes, self.dtypes, self.names = graph.forward, graph.shapes, graph.dtypes, names
        self.n_outputs = graph.outputs
        self.inputs = [f"input_{i}" for i in range(len(graph.shapes))]
        self.is_matrix = len(graph.shapes) == 1 and len(graph.shapes[0]) == 2
        width = graph.shapes[0][1] if self.is_matrix else -1
        self.width: int | None = width if width > 0 else None

    def predict(self, columns: Mapping[str, Any]) -> Mapping[str, npt.NDArray[Any]]:
        import torch

        if self.is_matrix:
            arrays: list[Any] = [tabular.matrix(columns, self.names, self.width, self.dtypes[0])]
        elif len(columns) == len(self.shapes):
            known = all(name in columns for name in self.inputs)
            given = [columns[name] for name in self.inputs] if known else columns.values()
            arrays = [np.ascontiguousarray(v, dtype=d) for v, d in zip(given, self.dtypes, strict=True)]
        else:
            raise SchemaMismatch("inputs", f"the graph takes {len(self.shapes)} arrays, {len(columns)} were given")
        try:
            with torch.inference_mode():
                answers = self._forward(*(torch.from_numpy(array) for array in arrays))
        except (RuntimeError, TypeError, AssertionError) as e:
            raise SchemaMismatch("inputs", f"the graph cannot compute with them: {str(e)[:300]}") from e
        many = answers if isinstance(answers, tuple | list) else (answers,)
        return {f"output_{i}": answer.numpy() for i, answer in enumerate(many)}


def _is_ours(path: str, tree: set[str]) -> bool:
    return path == bundle.GRAPH_FILE and bundle.SPEC_FILE in tree


def _copy_plain(file: BinaryIO, target: Any, path: str) -> None:
    """Write the archive in ``file`` to ``target`` without sample inputs and without notes on its nodes."""
    file.seek(0)
    with archives.open_zip(file, path) as archive, zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as plain:
        for info in archive.infolist():
            name = info.filename.split("/", 1)[-1]
            if name == _SAMPLES:
                plain.writestr(info.filename, b"")
            elif name == _GRAPH and info.file_size <= _MAX_GRAPH:
                plain.writestr(info.filename, _without_notes(archive.read(info), path))
            else:
                with archive.open(info) as source, plain.open(info.filename, "w", force_zip64=True) as copy:
                    shutil.copyfileobj(source, copy, 1 << 20)
    target.seek(0)


def _without_notes(content: bytes, path: str) -> bytes:
    try:
        model = json.loads(content)
        for node in model["graph_module"]["graph"]["nodes"]:
            node["metadata"] = {}
    except (ValueError, LookupError, TypeError, RecursionError) as e:
        raise InvalidInput(path, f"its graph cannot be read: {e!r}"[:200]) from e
    return json.dumps(model).encode()
