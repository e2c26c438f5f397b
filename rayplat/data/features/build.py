"""Building a feature view: from its source at a pinned version to its feature table, on Ray Data.

The feature table has the join key, ``event_time`` and the features, sorted by time within each file, so that
advancing the online store reads a few row groups. Windows need all events of a key in one place (`exchange`).
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rayplat.data.features import FeatureView
from rayplat.data.point_in_time import micros
from rayplat.data.point_in_time.exchange import by_key
from rayplat.data.windows import change_points
from rayplat.resources import require_resources
from rayplat.types import TableVersion

if TYPE_CHECKING:
    from ray.data import Dataset

    from rayplat.data.tables import Tables

PARTITIONS = 4
_TIME = pa.timestamp("us", tz="UTC")


def build(
    tables: Tables, view: FeatureView, source: int | datetime | None = None, *, run_id: str | None = None
) -> TableVersion:
    """Compute all rows of ``view`` and commit them as a new version of its table.

    ``source`` is the version of the source table (None: the latest). Raises `NotFound` for the source and
    `SchemaMismatch` for a column it lacks; `Unschedulable` within 10 s where not even one task of a CPU fits.
    """
    pinned = tables.version(view.source, source)
    require_resources(f"building the feature view {view.name!r}", [{"CPU": 1}])
    rows = tables.dataset(pinned, columns=view.source_columns)
    if view.windows:
        rows = by_key(rows, view.entity.join_key, PARTITIONS)
        rows = _mapped(rows, partial(windowed, view=view))
    else:
        rows = _mapped(rows, partial(selected, view=view))
    noted = {"view": view.name, "view_digest": view.digest(), "source": f"{pinned.table}@{pinned.version}"}
    return tables.overwrite(view.table, rows, run_id=run_id, metadata=noted, replace_schema=True)


def _mapped(rows: Dataset, function: Callable[[Any], Any]) -> Dataset:
    """``function`` on whole blocks as Arrow tables."""
    return rows.map_batches(function, batch_format="pyarrow", batch_size=None)


def selected(rows: pa.Table, view: FeatureView) -> pa.Table:
    """The rows of a view of plain fields."""
    named = {view.entity.join_key: rows[view.entity.join_key], "event_time": rows[view.event_time].cast(_TIME)}
    for column in view.columns:
        named[column.name] = rows[column.name].cast(_arrow(column.dtype))
    return _by_time(pa.table(named), view)


def windowed(rows: pa.Table, view: FeatureView) -> pa.Table:
    """The rows of a view of windows; ``rows`` must hold all events of each key that is in it."""
    return change_points(rows, view.entity.join_key, view.event_time, view.windows)


def _by_time(rows: pa.Table, view: FeatureView) -> pa.Table:
    """Sorted by time; rows of one moment keep their order. Rows without a key or a moment are left out."""
    known = rows.filter(pc.and_(rows[view.entity.join_key].is_valid(), rows["event_time"].is_valid()))
    return known.take(pa.array(np.argsort(micros(known["event_time"]), kind="stable")))


def _arrow(dtype: str) -> pa.DataType:
    return _TIME if dtype.startswith("timestamp") else pa.type_for_alias(dtype)
