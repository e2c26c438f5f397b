"""Rows of a batch scoring job with the features that were known at their moments, by the views of the model.

The same point-in-time join as in training sets, part by part and in the input's order; values that the table itself
holds under a feature's name are not used.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from rayplat.data.features import EVENT_TIME, FeatureView, OnRequestView, View
from rayplat.data.features.operations import arrow_type
from rayplat.data.features.sides import side
from rayplat.data.point_in_time.plan import join_on_cluster
from rayplat.serve.batch_scoring.scorer import ROW, Task

if TYPE_CHECKING:
    from rayplat.data.tables.scan import Scan

_TIME = pa.timestamp("us", tz="UTC")


def stored(views: Sequence[View]) -> list[FeatureView]:
    """The views that have a table."""
    return [view for view in views if isinstance(view, FeatureView)]


def inputs(views: Sequence[View]) -> tuple[str, ...]:
    """The columns that features computed on request need of the table."""
    found = (field.name for view in views if isinstance(view, OnRequestView) for field in view.inputs)
    return tuple(dict.fromkeys(found))


def blocks(task: Task, parts: range) -> list[Any]:
    """References to the rows of ``parts`` with their features, one table for each part, in order."""
    import ray

    plan = task.plan
    entity = str(plan.entity)
    needed = [*plan.request.keys, entity, *inputs(task.views)]
    if plan.request.event_time:
        needed.append(plan.request.event_time)
    views = stored(task.views)
    dtypes = {key: dtype for view in views for key, dtype in zip(view.keys, view.entity.dtypes, strict=True)}
    read: Any = ray.remote(num_cpus=1)(_rows)
    scan, moment = ray.put(task.scan), plan.request.event_time or plan.started_at
    spine = [
        read.remote(scan, plan.span(part), list(dict.fromkeys(needed)), moment, (entity, dtypes.get(entity, "string")))
        for part in parts
    ]
    sides = [side(view, task.tables.scan(plan.views[view.name])) for view in views]
    return list(join_on_cluster(spine, sides, event_time=EVENT_TIME, ordered=True).blocks)


def _rows(
    scan: Scan, span: tuple[int, int], columns: list[str], moment: str | datetime, key: tuple[str, str]
) -> pa.Table:
    """One part of the input as a spine: its moments, keys of the declared type, and where each row stands."""
    rows = scan.slice(*span, columns)
    name, dtype = key
    at = rows.column_names.index(name)
    rows = rows.set_column(at, name, rows[name].cast(arrow_type(dtype)))
    if isinstance(moment, str):
        times: Any = rows[moment].cast(_TIME)
    else:
        times = pa.repeat(pa.scalar(moment, _TIME), rows.num_rows)
    if EVENT_TIME in rows.column_names:
        rows = rows.set_column(rows.column_names.index(EVENT_TIME), EVENT_TIME, times)
    else:
        rows = rows.append_column(EVENT_TIME, times)
    return rows.append_column(ROW, pa.array(np.arange(span[0], span[0] + rows.num_rows)))
