"""Feature parity: were the values that a model was given online those that the offline join gives at that moment?

Logged online feature vectors are replayed through the point-in-time join at their log times and compared feature by
feature. What differs is train/serve skew: rows that came late, a stale online store, two definitions of one name.
Method: the online/offline consistency measure of Chronon (chronon.ai, "Online Offline Consistency"). Knows tables
and declarations; who logged the vectors and what is decided on the report is not known here.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rayplat.errors import InvalidInput, SchemaMismatch
from rayplat.types import FeatureParity

TOLERANCE = 1e-9
EXAMPLES = 5

Bools = npt.NDArray[np.bool_]


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
        for side, table in (("online", online), ("offline", offline)):
            if name not in table.column_names:
                raise SchemaMismatch(name, f"the {side} vectors have no such feature")
        differ = _differ(online[name], offline[name], tolerance)
        anywhere |= differ
        examples = tuple(
            {
                "key": online[key][i].as_py(),
                "at": online[at][i].as_py(),
                "online": online[name][i].as_py(),
                "offline": offline[name][i].as_py(),
            }
            for i in np.flatnonzero(differ)[:EXAMPLES].tolist()
        )
        found.append(FeatureParity(name, online.num_rows, int(differ.sum()), examples))
    return found, anywhere


def unfold(maps: pa.ChunkedArray, names: Sequence[str]) -> dict[str, pa.ChunkedArray]:
    """The values of ``names`` in a map column, one column per name; null where a row's map lacks it."""
    return {name: pc.map_lookup(maps, query_key=name, occurrence="first") for name in names}


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
