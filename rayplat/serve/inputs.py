"""From a checked request to the model's inputs: given values where there are any, looked-up ones for the rest.

Pure but for the lookup it is handed. A key that is unknown, or a missing value where the model forbids it, is
refused with the field and the row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import accumulate
from typing import Any

import numpy as np

from rayplat.errors import InvalidInput, PartFailed, RayplatError
from rayplat.serve.ports import LoadedVersion, Rows
from rayplat.serve.request import InferRequest, Values
from rayplat.types import TensorSpec


@dataclass(frozen=True)
class _Part:
    """Some of the rows that were read (`ports.Rows`)."""

    columns: Mapping[str, Any]
    found: Any
    status: Mapping[str, Sequence[str]]


def columns(
    loaded: LoadedVersion, asked: Sequence[tuple[InferRequest, datetime]]
) -> list[dict[str, Values] | RayplatError]:
    """Of each request, as of its moment: ``rows`` values for each input of the model, or what it is refused for.

    Blocks for one lookup of them all: where requests bring ``columns``, they bring those of the same names. Raises what
    keeps the store from answering."""
    if loaded.features is None:
        return [_assembled(loaded, request, None) for request, _ in asked]
    keys = [key for request, _ in asked for key in request.entity or ()]
    moments: datetime | list[datetime] = asked[0][1]
    given: Mapping[str, Sequence[Any]] = asked[0][0].columns
    if len(asked) > 1:
        moments = [at for request, at in asked for _ in request.entity or ()]
        given = {name: [value for request, _ in asked for value in request.columns[name]] for name in given}
    try:
        rows = loaded.features.read(keys, moments, given)
    except InvalidInput as e:
        if len(asked) == 1:
            return [e]
        return [found for one in asked for found in columns(loaded, [one])]  # which of them it is, and its row
    if len(asked) == 1:
        return [_assembled(loaded, asked[0][0], rows)]
    ends = list(accumulate(len(request.entity or ()) for request, _ in asked))
    return [
        _assembled(loaded, request, _part(rows, slice(end - len(request.entity or ()), end)))
        for (request, _), end in zip(asked, ends, strict=True)
    ]


def _part(rows: Rows, which: slice) -> Rows:
    columns = {name: values[which] for name, values in rows.columns.items()}
    status = {name: states[which] for name, states in rows.status.items()}
    return _Part(columns, rows.found[which], status)


def _assembled(loaded: LoadedVersion, request: InferRequest, rows: Rows | None) -> dict[str, Values] | RayplatError:
    found = dict(request.inputs)
    wanted = [spec for spec in loaded.signature.inputs if spec.name not in found]
    if not wanted or request.entity is None:
        return found
    try:
        if rows is None:
            raise InvalidInput(f"inputs.{wanted[0].name}", "missing: this model looks nothing up, send every feature")
        _all_found(loaded.signature.keys, request.entity, rows)
        for spec in wanted:
            values = rows.columns.get(spec.name)
            if values is None:
                part = f"version {loaded.version} of model {loaded.model!r}"
                raise PartFailed(part, f"none of its feature views gives {spec.name!r}")
            _not_missing(spec, values, request.entity, rows)
            found[spec.name] = values
    except RayplatError as e:
        return e
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
