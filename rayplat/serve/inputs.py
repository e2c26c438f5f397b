"""From a checked request to the model's columns: given values where there are any, looked-up ones for the rest.

Pure but for the lookup it is handed. A key that is unknown, or a missing value where the model forbids it, is
refused with the field and the row.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import numpy as np

from rayplat.errors import InvalidInput, PartFailed
from rayplat.serve.ports import LoadedVersion, Rows
from rayplat.serve.protocols.v2 import InferRequest
from rayplat.types import FeatureSpec


def columns(loaded: LoadedVersion, request: InferRequest, at: datetime) -> dict[str, Any]:
    """One column of ``request.rows`` values per feature of the model, as of ``at``."""
    given = request.overrides
    wanted = [feature for feature in loaded.spec.features if feature.name not in given]
    if not wanted or request.entity is None:
        return dict(given)
    if loaded.features is None:
        raise InvalidInput(f"inputs.{wanted[0].name}", "missing: this model looks nothing up, send every feature")
    rows = loaded.features.read(request.entity, at, request.columns)
    _all_found(loaded.spec.entity, request.entity, rows)
    found: dict[str, Any] = dict(given)
    for feature in wanted:
        values = rows.columns.get(feature.name)
        if values is None:
            part = f"version {loaded.version} of model {loaded.model!r}"
            raise PartFailed(part, f"none of its feature views gives {feature.name!r}")
        _not_missing(feature, values, request.entity, rows)
        found[feature.name] = values
    return found


def _all_found(entity: str, keys: list[str], rows: Rows) -> None:
    found = np.asarray(rows.found, dtype=bool)
    if found.all():
        return
    row = int(np.flatnonzero(~found)[0])
    raise InvalidInput(f"inputs.{entity}[{row}]", f"unknown {entity} {keys[row][:80]!r}{_lacking(rows, row)}")


def _not_missing(feature: FeatureSpec, values: Any, keys: list[str], rows: Rows) -> None:
    if feature.nullable:
        return
    if feature.kind == "numeric":
        missing = np.flatnonzero(np.isnan(np.asarray(values, dtype=np.float64)))
    else:
        missing = np.flatnonzero([value is None for value in values])
    if not len(missing):
        return
    row = int(missing[0])
    reason = f"the model needs it, and it is missing for {keys[row][:80]!r}{_lacking(rows, row)}"
    raise InvalidInput(f"inputs.{feature.name}[{row}]", reason)


def _lacking(rows: Rows, row: int) -> str:
    """Which feature views have nothing for a row, and why: missing, expired, or in the future at that moment."""
    lacking = [f"{view} {states[row]}" for view, states in rows.status.items() if states[row] != "present"]
    return f" (feature views: {', '.join(lacking)})" if lacking else ""
