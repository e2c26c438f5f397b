"""Composed models: one file of data that says which model versions answer together, and how.

::

    {"format": "rayplat-graph/1", "nodes": {"trees": {"model": "risk-trees", "version": 3, "digest": "sha256:…"}, …},
     "outputs": {"probability": "both.value"}, "signature": {"inputs": […], "outputs": […]}}

What the nodes mean is told by `rayplat.serve.models.graph`, which computes them. Versions are pinned by digest, so the
file's own digest stands for everything that will run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

import numpy.typing as npt

from rayplat.artifacts.formats.tree import Tree
from rayplat.artifacts.manifest import check_digest
from rayplat.errors import InvalidInput, TooLarge
from rayplat.types import Signature, TensorSpec

FILE = "rayplat-graph.json"
FORMAT = "rayplat-graph/1"
MAX_NODES = 64
_MAX_BYTES = 1 << 20
_START = b'{"format": "' + FORMAT.encode() + b'"'


class GraphReader:
    """The file `FILE`."""

    name = "graph"
    suffixes = (".rayplat-graph",)

    def recognises(self, head: bytes) -> bool:
        return head.startswith(_START)

    def audit(self, path: str, file: BinaryIO, tree: Tree) -> str:
        if tree.sizes[path] > _MAX_BYTES:
            raise TooLarge(path, tree.sizes[path], _MAX_BYTES)
        parse(file.read())
        return ""

    def load(self, folder: Path, path: str, names: tuple[str, ...]) -> Composed:  # noqa: ARG002 - the file names them
        return Composed(parse((folder / path).read_bytes()))


class Composed:
    """A graph without its parts: `predict` says who loads them."""

    def __init__(self, content: dict[str, Any]) -> None:
        self.content = content

    def predict(self, columns: Mapping[str, Any]) -> Mapping[str, npt.NDArray[Any]]:  # noqa: ARG002 - never used
        raise InvalidInput("graph", "it consists of other models' versions: a model host loads and answers with them")


def encode(content: Mapping[str, Any]) -> bytes:
    """The bytes of a graph: the same for the same content."""
    return (
        (json.dumps({"format": FORMAT, **content}, indent=1, allow_nan=False) + "\n")
        .encode()
        .replace(b'{\n "format"', b'{"format"', 1)
    )


def parse(content: bytes) -> dict[str, Any]:
    """The graph in ``content``: its parts are pinned; `InvalidInput` for anything else."""
    try:
        found = json.loads(content)
        if found["format"] != FORMAT:
            raise InvalidInput(FILE, f"format {found['format']!r} is not {FORMAT!r}")
        nodes, outputs, signature = found["nodes"], found["outputs"], found["signature"]
        shaped = [nodes, outputs, signature, *nodes.values()]
        if not all(isinstance(part, dict) for part in shaped) or not 0 < len(nodes) <= MAX_NODES or not outputs:
            raise InvalidInput(FILE, f"1 to {MAX_NODES} nodes and at least one output are needed")
        for name, node in nodes.items():
            if "model" in node:
                check_digest(f"nodes.{name}.digest", node["digest"])
                if not isinstance(node["model"], str) or type(node["version"]) is not int:
                    raise InvalidInput(f"nodes.{name}", "a part is pinned by model, version and digest")
        signature_of(found)
        return dict(found)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as e:
        raise InvalidInput(FILE, f"it is no graph: {e!r}"[:300]) from e


def parts(content: Mapping[str, Any]) -> tuple[tuple[str, int, str], ...]:
    """(model, version, digest) of every part, each once, in order."""
    pinned = [(n["model"], n["version"], n["digest"]) for n in content["nodes"].values() if "model" in n]
    return tuple(dict.fromkeys(pinned))


def signature_of(content: Mapping[str, Any]) -> Signature:
    """What the composed model takes and gives."""
    found = content["signature"]
    inputs, outputs = (
        tuple(TensorSpec(**{**spec, "shape": tuple(spec["shape"])}) for spec in found[side])
        for side in ("inputs", "outputs")
    )
    return Signature(inputs, outputs, keys=tuple(found["keys"]), tabular=all(s.shape == (-1,) for s in inputs))


def signature_json(signature: Signature) -> dict[str, Any]:
    """The other way round."""
    specs = {side: [asdict(spec) for spec in getattr(signature, side)] for side in ("inputs", "outputs")}
    return {**specs, "keys": list(signature.keys)}
