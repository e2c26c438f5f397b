"""Labels that arrive later, matched to predictions by the entity's key. Pure: works on Arrow tables in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rayplat.errors import SchemaMismatch
from rayplat.types import Column

KNOWN_AT = "known_at"


@dataclass(frozen=True)
class LabelSource:
    """Where labels come from: a table with the entity's key, the label (0, 1, boolean; null: there will be none)
    and the time from which it was known."""

    table: str
    key: str
    label: str
    known_at: str = KNOWN_AT


def find_source(table: str, columns: Sequence[Column], label: str | None = None) -> LabelSource:
    """The roles of the columns of ``table``: ``known_at`` by name; ``label`` (where not given) and ``key`` by name, or
    else the only boolean or integer column and the only string column. Raises `SchemaMismatch` naming what is missing.
    """
    names = {column.name for column in columns}
    if KNOWN_AT not in names:
        raise SchemaMismatch("labels", f"table {table!r} needs a timestamp column {KNOWN_AT!r}")
    roles = {"label": ("bool", "int8", "int32", "int64"), "key": ("string", "large_string", "string_view")}
    found = {} if label is None else {"label": label}
    for role, dtypes in roles.items():
        if role in found:
            continue
        fitting = [role] if role in names else [column.name for column in columns if column.dtype in dtypes]
        if len(fitting) != 1:
            what = f"has several ({', '.join(fitting)})" if fitting else "has none"
            raise SchemaMismatch("labels", f"table {table!r} {what} that could be the {role}: name one column {role!r}")
        found[role] = fitting[0]
    return LabelSource(table, found["key"], found["label"])


def check(source: LabelSource, columns: Sequence[Column]) -> None:
    """Nothing, or `SchemaMismatch` naming the columns of ``source`` that the table lacks."""
    names = {column.name for column in columns}
    missing = [name for name in (source.key, source.label, source.known_at) if name not in names]
    if missing:
        raise SchemaMismatch("labels", f"table {source.table!r} has no column {', '.join(missing)}")


def match(
    entities: pa.ChunkedArray,
    labels: pa.Table,
    source: LabelSource,
    asof: datetime,
    *,
    after: pa.Array | None = None,
) -> npt.NDArray[np.float64]:
    """The label of each entity as a number or NaN, from the rows of ``labels`` known at ``asof``. Where a key has
    several, the one known last counts, also when it is null. An entity of null (the request brought its own
    features) has no label. ``after``, a moment for each entity: a label that was known before it is no outcome of it.
    """
    try:
        keys = labels.column(source.key).cast(pa.string())
        values = labels.column(source.label).cast(pa.float64())
        known_at = labels.column(source.known_at).cast(pa.timestamp("us", tz="UTC"))
    except pa.ArrowInvalid as e:
        raise SchemaMismatch("labels", f"table {source.table!r}: {e}") from e
    arrived = pc.less_equal(known_at, pa.scalar(asof, known_at.type))
    rows = pa.table({"key": keys, "label": values, "known_at": known_at})
    rows = rows.filter(pc.and_(arrived, pc.is_in(keys, entities.drop_null().unique()))).sort_by("known_at")
    known = {key: (label, at) for key, label, at in zip(*(column.to_pylist() for column in rows.columns), strict=True)}
    moments = [None] * len(entities) if after is None else after.to_pylist()
    found = [_label(known.get(entity), at) for entity, at in zip(entities.to_pylist(), moments, strict=True)]
    return np.asarray([np.nan if label is None else label for label in found], dtype=np.float64)


def _label(known: tuple[float | None, datetime] | None, after: datetime | None) -> float | None:
    if known is None or (after is not None and known[1] < after):
        return None
    return known[0]
