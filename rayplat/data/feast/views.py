"""The feature views of a retrieval, resolved and pinned: files, join keys, columns, ttl. Knows Feast's views and
references; the join itself is `point_in_time`'s.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from feast.feature_view import DUMMY_ENTITY_ID, FeatureView
from feast.repo_config import RepoConfig
from feast.utils import _get_requested_feature_views_to_features_dict

from rayplat.data.feast import rows
from rayplat.data.feast.online_store import DECLARATION_TAG
from rayplat.data.feast.parquet import ParquetFiles
from rayplat.data.features import FeatureView as Declared
from rayplat.data.point_in_time import AsOf, Kernel
from rayplat.data.tables.scan import Scan
from rayplat.errors import InvalidInput, NotFound, SchemaMismatch

ONLY = "__only"  # the key of views without entities: one value for all rows

_NAIVE = pa.timestamp("us")
_TIME = pa.timestamp("us", tz="UTC")


@dataclass(frozen=True)
class ViewRead:
    """One view of a retrieval. ``keys`` and ``features`` map columns of the entity rows and of the result to the
    source's columns; ``event_time`` and ``created`` are columns of the source. ``declaration``: where it was declared
    here."""

    name: str
    scan: Scan | ParquetFiles
    keys: Mapping[str, str]
    features: Mapping[str, str]
    event_time: str
    created: str | None
    ttl: timedelta | None
    declaration: Declared | None

    @property
    def windowed(self) -> bool:
        """Whether the source holds tiles of windows rather than rows to be found as of a moment."""
        return self.declaration is not None and bool(self.declaration.windows)

    @property
    def on(self) -> tuple[str, ...]:
        """The columns of the entity rows that hold the kernel's keys."""
        return tuple(self.keys) or (ONLY,)

    @property
    def is_direct(self) -> bool:
        """Whether the kernel takes the source's rows as they are."""
        times = [self.event_time, *([self.created] if self.created else [])]
        return bool(self.keys) and all(pa.types.is_timestamp(self.scan.schema.field(name).type) for name in times)

    def kernel(self, known_by: bool) -> Kernel:
        """What answers moments from the rows of `shown`. ``known_by``: only rows created by then, where that is
        known."""
        if self.declaration is not None and self.declaration.windows:
            from rayplat.data.windows import TileKernel

            plan, wanted = self.declaration.plan, set(self.features.values())
            windows = tuple(window for window in plan.windows if window.name in wanted)
            return TileKernel(replace(plan, windows=windows, tile=plan.tile_length))
        keys, names = tuple(self.keys.values()) or (ONLY,), tuple(self.features.values())
        return AsOf(keys, names, self.event_time, self.ttl, self.created, known_by and self.created is not None)

    def columns(self) -> list[str]:
        """What has to be read of the source."""
        return [name for name in self.kernel(False).columns if name != ONLY]

    def within(self, first: datetime | None, last: datetime | None) -> pc.Expression | None:
        """Source rows that matter for moments from ``first`` to ``last``, ends included; None: all of them."""
        if first is None or last is None:
            return pc.scalar(False)
        latest = last if last == _LATEST else last + timedelta(microseconds=1)  # moments may be finer than that
        if self.windowed:
            return self.kernel(False).wanted(first, latest)
        since = first - self.ttl if self.ttl is not None and first - _EARLIEST > self.ttl else None
        return between(self.scan.schema.field(self.event_time), since, latest)

    def shown(self, found: pa.Table) -> pa.Table:
        """Source rows as the kernel takes them: times are timestamps, a view without entities has a key."""
        if not self.keys:
            found = found.append_column(ONLY, only(found.num_rows))
        for name in (self.event_time, self.created):
            if name:
                found = found.set_column(found.column_names.index(name), name, as_time(found[name], name))
        return found

    def asked(self, known: pa.Table) -> pa.Table:
        """The keys of rows in the kernel's names."""
        if not self.keys:
            return pa.table({ONLY: only(known.num_rows)})
        return pa.table({column: known[key] for key, column in self.keys.items()})

    @property
    def names(self) -> dict[str, str]:
        """The kernel's features and what the result calls them."""
        return {column: name for name, column in self.features.items()}

    @property
    def defaults(self) -> dict[str, Any]:
        """What stands for a missing value, by the result's names; only where one is declared."""
        declared = {} if self.declaration is None else self.declaration.defaults
        return {name: declared[column] for name, column in self.features.items() if column in declared}


def views_read(
    config: RepoConfig, views: Sequence[FeatureView], refs: Sequence[str], on_demand: Sequence[Any], full_names: bool
) -> list[ViewRead]:
    """The views that ``refs`` (``view:feature``) ask for, pinned now. Raises `NotFound` for a feature that a view
    does not have."""
    wanted, _ = _get_requested_feature_views_to_features_dict(list(refs), list(views), list(on_demand))
    return [view_read(config, view, names, full_names) for view, names in wanted.items()]


def view_read(config: RepoConfig, view: FeatureView, names: Sequence[str], full_names: bool) -> ViewRead:
    """One view's ``names``, pinned now."""
    source = view.batch_source
    if source is None:
        raise InvalidInput(f"feature view {view.name}", "has no batch source, so it has no history")
    there = {feature.name for feature in view.features}
    for name in names:
        if name not in there:
            raise NotFound("feature", f"{view.name}:{name}", f"the view has {', '.join(sorted(there))}")
    own = declared(view)
    renamed = {new: old for old, new in source.field_mapping.items()}
    aliases = view.projection.join_key_map or {}
    keys = [column.name for column in view.entity_columns if column.name != DUMMY_ENTITY_ID]
    shown = view.projection.name_alias or view.name
    found = ViewRead(
        name=view.projection.name_to_use(),  # type: ignore[no-untyped-call]
        scan=rows.scan(rows.locate(config, source)),
        keys={aliases.get(key, key): renamed.get(key, key) for key in keys},
        features={f"{shown}__{n}" if full_names else n: renamed.get(n, n) for n in dict.fromkeys(names)},
        event_time=renamed.get(source.timestamp_field, source.timestamp_field),
        created=renamed.get(source.created_timestamp_column, source.created_timestamp_column) or None,
        ttl=(view.ttl or None) if own is None else own.ttl,
        declaration=own,
    )
    _refuse_missing(view.name, found)
    return found


def declared(view: FeatureView) -> Declared | None:
    """The view as it was declared here; None for one that only Feast knows."""
    text = (view.tags or {}).get(DECLARATION_TAG)
    return None if text is None else Declared.from_dict(json.loads(text))


def _refuse_missing(name: str, view: ViewRead) -> None:
    for column in view.columns():
        if column not in view.scan.schema.names:
            has = ", ".join(view.scan.schema.names)
            raise SchemaMismatch(column, f"the source of feature view {name!r} has no such column; it has {has}")


# --- times ----------------------------------------------------------------------------------------

_EARLIEST, _LATEST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)


def between(column: pa.Field, first: datetime | None, last: datetime | None) -> pc.Expression | None:
    """``first <= column <= last`` for a timestamp column of any unit and zone; None where nothing is ruled out, which
    is also the answer for a column that is no timestamp: using it casts or refuses it."""
    if not pa.types.is_timestamp(column.type):
        return None
    where = None
    for end, low in ((first, True), (last, False)):
        if end is None:
            continue
        moment = pa.scalar(utc(end), _TIME).cast(pa.timestamp("us", column.type.tz) if column.type.tz else _NAIVE)
        bound = moment.cast(column.type, safe=False)
        cut = bound.cast(moment.type).as_py() < moment.as_py()  # coarser than the moment: its unit has no such time
        at = pc.field(column.name)
        part = (at > bound if cut else at >= bound) if low else at <= bound
        where = part if where is None else where & part
    return where


def as_time(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    """``column`` if it holds timestamps, of any unit (without a zone they are UTC); dates are their first moment.
    Raises `SchemaMismatch` for anything else."""
    if pa.types.is_timestamp(column.type):
        return column
    if pa.types.is_date(column.type):
        return column.cast(_NAIVE)
    raise SchemaMismatch(name, f"a timestamp is needed, the source has {column.type}")


def micros_utc(times: pa.ChunkedArray) -> pa.ChunkedArray:
    """Timestamps as microseconds in UTC; what is finer is cut off."""
    return times.cast(pa.timestamp("us", times.type.tz), safe=False).cast(_TIME)


def utc(moment: datetime) -> datetime:
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


def only(count: int) -> pa.ChunkedArray:
    """The key of views without entities."""
    return pa.chunked_array([pa.repeat(pa.scalar(0, pa.int8()), count)])
