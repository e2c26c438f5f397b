"""Feature parity: were the values that a model was given online those that the offline join gives at that moment?

Logged online feature vectors are replayed through the point-in-time join at their log times and compared feature by
feature. What differs is train/serve skew: rows that came late, a stale online store, two definitions of one name.
Method: the online/offline consistency measure of Chronon (chronon.ai, "Online Offline Consistency"). Knows tables
and declarations; who logged the vectors and what is decided on the report is not known here.

What a request sent itself is not replayed: features computed from request columns, which no log keeps, count as not
compared; a looked-up feature that a request overrode looks like any other in a log, and is a mismatch here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rayplat.data.features import FeatureView, OnRequestView, View
from rayplat.data.features.notes import built
from rayplat.data.features.operations import arrow_type
from rayplat.data.features.sides import kernel, side
from rayplat.data.features.transforms import on_request, with_defaults
from rayplat.data.online.values import normal_key
from rayplat.data.point_in_time.plan import join_on_cluster
from rayplat.errors import InvalidInput, SchemaMismatch
from rayplat.types import FeatureParity, TableVersion

if TYPE_CHECKING:
    from rayplat.data.tables import Tables

TOLERANCE = 1e-9
EXAMPLES = 5
AT = "__at"  # the moments of a replay: no feature has this name
IN_PROCESS_BYTES = 64 << 20  # of Parquet that can matter; more is joined on the cluster
_MOST_KEYS = 10_000

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Logged:
    """Vectors that were looked up online: the request's join key ``key`` (values, as text or integers), the moments
    ``at`` (timestamps), and the values by feature, all of one length."""

    key: str
    keys: Sequence[str | int | None]
    at: pa.ChunkedArray
    values: Mapping[str, pa.ChunkedArray]


@dataclass(frozen=True)
class Measured:
    """``features`` in the order asked for; ``mismatched`` vectors differ in at least one; ``pins`` were read."""

    features: tuple[FeatureParity, ...]
    mismatched: int
    pins: tuple[TableVersion, ...]


def measure(tables: Tables, logged: Logged, views: Sequence[View], tolerance: float = TOLERANCE) -> Measured:
    """``logged`` replayed through ``views`` as they are built now, and compared feature by feature.

    Raises `NotFound` for a view that was never built, `InvalidInput` for a view that nothing leads to.
    """
    offline, pins = replay(tables, logged, views)
    known = [name for name in logged.values if name in offline.column_names]
    online = pa.table({logged.key: pa.array([None if k is None else str(k) for k in logged.keys]), AT: logged.at})
    for name in known:
        online = online.append_column(name, logged.values[name])
    found, anywhere = compare(online, offline, known, logged.key, AT, tolerance)
    by_name = {feature.feature: feature for feature in found}
    features = tuple(by_name.get(name, FeatureParity(name, 0, 0)) for name in logged.values)
    return Measured(features, int(anywhere.sum()), pins)


def replay(tables: Tables, logged: Logged, views: Sequence[View]) -> tuple[pa.Table, tuple[TableVersion, ...]]:
    """What the point-in-time join gives for ``logged``, row by row, and the versions it read: one column per feature
    that can be computed without a request. Tables of which little can matter are joined in this process."""
    ordered = in_lookup_order(views, (logged.key,))
    stored = [view for view in ordered if isinstance(view, FeatureView)]
    pinned = {view.name: built(tables, view) for view in stored}
    spine = pa.table({logged.key: _keys(logged, stored), AT: logged.at.cast(pa.timestamp("us", tz="UTC"))})
    rows = _joined(tables, spine, stored, pinned)
    for view in stored:
        rows = with_defaults(view, rows)
    for asked in (view for view in ordered if isinstance(view, OnRequestView)):
        if not asked.inputs and set(asked.needs) <= set(rows.column_names):
            columns = {name: rows[name] for name in rows.column_names}
            for name, column in on_request(asked, columns, rows.num_rows).items():
                rows = rows.append_column(name, column)
    return rows, tuple(pinned.values())


def in_lookup_order(views: Sequence[View], keys: Sequence[str]) -> list[View]:
    """``views`` so that each has its keys from the request (``keys``) or from a view before it."""
    known, waiting, ordered = set(keys), list(views), list[View]()
    inputs = {field.name for view in views if isinstance(view, OnRequestView) for field in view.inputs}
    while waiting:
        ready = [v for v in waiting if known | inputs >= set(v.keys if isinstance(v, FeatureView) else v.needs)]
        if not ready:
            names = ", ".join(view.name for view in waiting)
            raise InvalidInput("views", f"nothing leads from {', '.join(keys)} to {names}")
        ordered += ready
        known.update(name for view in ready for name in view.feature_names)
        waiting = [view for view in waiting if view not in ready]
    return ordered


def compare(
    online: pa.Table, offline: pa.Table, features: Sequence[str], key: str, at: str, tolerance: float = TOLERANCE
) -> tuple[list[FeatureParity], Bools]:
    """Feature by feature: ``online[i]`` against ``offline[i]``, the same key and moment. Numbers are equal within the
    relative ``tolerance``, null and NaN both mean missing, everything else is compared exactly. Also the rows
    (bool [n]) that differ in at least one feature. Raises `SchemaMismatch` for a column that one side lacks."""
    if online.num_rows != offline.num_rows:
        raise InvalidInput("vectors", f"{online.num_rows} online rows against {offline.num_rows} offline")
    anywhere = np.zeros(online.num_rows, np.bool_)
    found = []
    for name in features:
        for which, table in (("online", online), ("offline", offline)):
            if name not in table.column_names:
                raise SchemaMismatch(name, f"the {which} vectors have no such feature")
        differ = _differ(online[name], offline[name], tolerance)
        anywhere |= differ
        examples = tuple(
            {
                "key": online[key][i].as_py(),
                "at": _plain(online[at][i].as_py()),
                "online": _plain(online[name][i].as_py()),
                "offline": _plain(offline[name][i].as_py()),
            }
            for i in np.flatnonzero(differ)[:EXAMPLES].tolist()
        )
        found.append(FeatureParity(name, online.num_rows, int(differ.sum()), examples))
    return found, anywhere


def unfold(maps: pa.ChunkedArray, names: Sequence[str]) -> dict[str, pa.ChunkedArray]:
    """The values of ``names`` in a map column, one column per name; null where a row's map lacks it."""
    return {name: pc.map_lookup(maps, query_key=name, occurrence="first") for name in names}


# --- inside ---------------------------------------------------------------------------------------


def _keys(logged: Logged, views: Sequence[FeatureView]) -> pa.Array:
    """The keys as the type that the views declare; null where there is none."""
    own = [dict(zip(view.keys, view.entity.dtypes, strict=True)) for view in views]
    dtype = next((found[logged.key] for found in own if logged.key in found), "string")
    parts = [normal_key(key, (logged.key,), (dtype,)) for key in logged.keys]
    return pa.array([None if part is None else part[0] for part in parts], arrow_type(dtype))


def _joined(
    tables: Tables, spine: pa.Table, views: Sequence[FeatureView], pinned: Mapping[str, TableVersion]
) -> pa.Table:
    ends = pc.min_max(spine[AT])
    first, last = ends["min"].as_py(), ends["max"].as_py()
    if first is None:
        return spine
    scans = {view.name: tables.scan(pinned[view.name]).prune(kernel(view).wanted(first, last)) for view in views}
    if sum(file.size_bytes for scan in scans.values() for file in scan.files) > IN_PROCESS_BYTES:
        import ray

        joined = join_on_cluster(spine, [side(view, scans[view.name]) for view in views], event_time=AT)
        return pa.concat_tables(ray.get(joined.blocks))
    for view in views:
        wanted = kernel(view).wanted(first, last) & _some(spine, view.keys)
        rows = scans[view.name].table(list(kernel(view).columns), wanted)
        found = kernel(view).prepare(rows).features(spine.select(list(view.keys)), spine[AT])
        for name in (name for name in found.column_names if name not in spine.column_names):
            spine = spine.append_column(name, found[name])
    return spine


def _some(spine: pa.Table, keys: Sequence[str]) -> pc.Expression:
    """True for rows of the spine's keys, where these are few."""
    wanted = pc.scalar(True)
    for key in keys:
        values = pc.unique(spine[key]).drop_null()
        if len(values) <= _MOST_KEYS:
            wanted = wanted & pc.field(key).isin(values)
    return wanted


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value


def _differ(online: pa.ChunkedArray, offline: pa.ChunkedArray, tolerance: float) -> Bools:
    if _is_number(online.type) and _is_number(offline.type):
        ours, theirs = _numbers(online), _numbers(offline)
        missing = np.isnan(ours) & np.isnan(theirs)
        with np.errstate(invalid="ignore", over="ignore"):
            scale = np.maximum(np.abs(ours), np.abs(theirs))
            close = np.isfinite(scale) & (np.abs(ours - theirs) <= tolerance * scale)
        found: Bools = ~(missing | close | (ours == theirs))
        return found
    same = pc.equal(online.cast(pa.string()), offline.cast(pa.string())).fill_null(False)
    both = pc.and_(online.is_null(), offline.is_null())
    differ: Bools = pc.invert(pc.or_(same, both)).to_numpy()
    return differ


def _is_number(dtype: pa.DataType) -> bool:
    kinds = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_timestamp)
    return any(kind(dtype) for kind in kinds)


def _numbers(column: pa.ChunkedArray) -> npt.NDArray[np.float64]:
    plain = column.cast(pa.int64()) if pa.types.is_timestamp(column.type) else column
    found: npt.NDArray[np.float64] = plain.cast(pa.float64()).to_numpy()
    return found
