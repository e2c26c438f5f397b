"""From a checked request to the model's inputs: given values where there are any, looked-up ones for the rest.

Pure but for the lookup it is handed. A key that is unknown, or a missing value where the model forbids it, is
refused with the field and the row.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import numpy as np

from rayplat.errors import InvalidInput, PartFailed
from rayplat.serve.ports import LoadedVersion, Rows
from rayplat.serve.request import InferRequest, Values
from rayplat.types import TensorSpec


def columns(loaded: LoadedVersion, request: InferRequest, at: datetime) -> dict[str, Values]:
    """``request.rows`` values for each input of the model, as of ``at``. Blocks for the lookup."""
    found = dict(request.inputs)
    wanted = [spec for spec in loaded.signature.inputs if spec.name not in found]
    if not wanted or request.entity is None:
        return found
    if loaded.features is None:
        raise InvalidInput(f"inputs.{wanted[0].name}", "missing: this model looks nothing up, send every feature")
    rows = loaded.features.read(request.entity, at, request.columns)
    _all_found(loaded.signature.keys, request.entity, rows)
    for spec in wanted:
        values = rows.columns.get(spec.name)
        if values is None:
            part = f"version {loaded.version} of model {loaded.model!r}"
            raise PartFailed(part, f"none of its feature views gives {spec.name!r}")
        _not_missing(spec, values, request.entity, rows)
        found[spec.name] = values
    return found


def _all_found(keys: tuple[str, ...], entity: list[Any], rows: Rows) -> None:
    found = np.asarray(rows.found, dtype=bool)
    if found.all():
        return
    row = int(np.flatnonzero(~found)[0])
    name = ", ".join(keys)
    raise InvalidInput(f"inputs.{name}[{row}]", f"unknown {name} {_shown(entity[row])}{_lacking(rows, row)}")


def _not_missing(spec: TensorSpec, values: Any, entity: list[Any], rows: Rows) -> None:
    if spec.nullable:
        return
    if spec.datatype == "BYTES":
        missing = np.flatnonzero([value is None for value in values])
    else:
        missing = np.flatnonzero(np.isnan(np.asarray(values, dtype=np.float64)))
    if not len(missing):
        return
    row = int(missing[0])
    reason = f"the model needs it, and it is missing for {_shown(entity[row])}{_lacking(rows, row)}"
    raise InvalidInput(f"inputs.{spec.name}[{row}]", reason)


def _shown(key: Any) -> str:
    return repr(key[:80] if isinstance(key, str) else key)


def _lacking(rows: Rows, row: int) -> str:
    """Which feature views have nothing for a row, and why: missing, expired, or in the future at that moment."""
    lacking = [f"{view} {states[row]}" for view, states in rows.status.items() if states[row] != "present"]
    return f" (feature views: {', '.join(lacking)})" if lacking else ""
