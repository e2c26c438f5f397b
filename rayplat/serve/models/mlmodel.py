"""A model folder as MLflow lays it out: its signature, flavors and stored example. Read as data; nothing is loaded."""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rayplat.artifacts.formats import descriptor
from rayplat.errors import InvalidInput
from rayplat.serve import signatures
from rayplat.types import Signature, TensorSpec

log = logging.getLogger(__name__)

_MAX_EXAMPLE = 64 << 20
_ROWS = 16  # of an example; more only cost time


@dataclass(frozen=True)
class MLmodel:
    """``signature`` None: it declares none. ``example``: a few rows of its inputs, None where there are none."""

    flavors: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    signature: Signature | None = None
    example: Mapping[str, Any] | None = None

    def flavor(self, name: str) -> Mapping[str, Any]:
        """The settings of a flavor, empty where it has none."""
        return self.flavors.get(name) or {}


def read(folder: Path) -> MLmodel:
    """What ``folder`` says of its model; an empty `MLmodel` where it says nothing. Raises `InvalidInput`."""
    path = folder / descriptor.FILE
    if not path.is_file():
        return MLmodel()
    content = descriptor.parse(path.read_bytes())
    flavors, block = content.get("flavors"), content.get("signature")
    if not isinstance(flavors, dict):
        raise InvalidInput(descriptor.FILE, "it lists no flavors")
    signature = signatures.of_mlflow(block) if isinstance(block, dict) else None
    info = content.get("saved_input_example_info")
    example = _example(folder, info, signature) if isinstance(info, dict) and signature is not None else None
    return MLmodel(flavors, signature, example)


def typed(spec: TensorSpec, values: Any) -> Any:
    """Values as a request would bring them: an array of the spec's type, a list for text in one dimension."""
    if spec.datatype != "BYTES":
        found = np.asarray(values, dtype=object)
        return np.where(found == None, np.nan, found).astype(signatures.numpy_type(spec))  # noqa: E711 - by element
    if spec.logical == "binary":
        values = [None if v is None else base64.b64decode(v) for v in values]
    elif spec.logical == "json":
        values = [json.dumps(v) for v in values]
    if len(spec.shape) == 1:
        return [v if v is None or isinstance(v, bytes) else str(v) for v in values]
    return np.asarray(values, dtype=object)


def _example(folder: Path, info: Mapping[str, Any], signature: Signature) -> Mapping[str, Any] | None:
    """The stored example's first rows; None, with a note in the log, where it is neither a table nor an array."""
    path = (folder / str(info.get("artifact_path"))).resolve()
    try:
        if folder.resolve() not in path.parents or path.stat().st_size > _MAX_EXAMPLE:
            return None
        found = _columns(json.loads(path.read_bytes()), signature)
        return {s.name: typed(s, found[s.name][:_ROWS]) for s in signature.inputs if s.name in found}
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as e:
        log.info("the stored example cannot be used to warm up: %r", e)
        return None


def _columns(content: Any, signature: Signature) -> dict[str, Any]:
    names = [spec.name for spec in signature.inputs]
    if isinstance(content, dict) and "data" in content:
        given = [str(name) for name in content.get("columns", range(len(content["data"][0])))]
        known = given if set(given) <= set(names) else names
        return {name: [row[i] for row in content["data"]] for i, name in enumerate(known)}
    if isinstance(content, dict) and "inputs" in content:
        content = content["inputs"]
    if isinstance(content, dict):
        return {name: value if isinstance(value, list) else [value] for name, value in content.items()}
    return {names[0]: content if isinstance(content, list) else [content]}
