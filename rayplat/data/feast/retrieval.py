"""Answering a retrieval: the point-in-time join or the rows of a range, here in this process or on the cluster.

Small questions start no Ray: the kernel answers them in this process. Where the files and entity rows together are
larger than ``in_process_bytes``, tasks read, rename and join them, and the answer stays on the cluster as blocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc
from feast.feature_view import DUMMY_ENTITY_ID, DUMMY_ENTITY_VAL

from rayplat.data.feast.entities import Entities
from rayplat.data.feast.limits import Limits, size_of
from rayplat.data.feast.parquet import ParquetFiles
from rayplat.data.feast.views import ViewRead, as_time, between
from rayplat.data.point_in_time import AsOf
from rayplat.data.tables.scan import Scan

if TYPE_CHECKING:
    from ray import ObjectRef


class Question(Protocol):
    """What a `RetrievalJob` answers, as often as it is asked, always from the same pinned files."""

    @property
    def limits(self) -> Limits: ...

    @property
    def here(self) -> bool:
        """Whether it is small enough for this process."""
        ...

    def table(self) -> pa.Table:
        """The answer in this process."""
        ...

    def blocks(self) -> list[ObjectRef[pa.Table]]:
        """The answer as blocks on the cluster."""
        ...


@dataclass(frozen=True)
class History:
    """The features of ``views`` for each of the ``entities`` at its own moment, in their order: a feature named like
    one of their columns is left out. ``known_by``: only feature rows that were created by then."""

    entities: Entities
    views: tuple[ViewRead, ...]
    known_by: bool
    limits: Limits

    @property
    def here(self) -> bool:
        rows = self.entities.rows
        if not isinstance(rows, pa.Table):
            return False
        total = int(rows.nbytes) + sum(size_of(self.part(view)) for view in self.views)
        return total <= self.limits.in_process_bytes

    def part(self, view: ViewRead) -> Scan | ParquetFiles:
        """The files of a view that can matter."""
        return _pruned(view.scan, view.within(*self.entities.span))

    def table(self) -> pa.Table:
        if not self.here:
            from rayplat.data.feast import cluster

            return cluster.gathered(self.blocks())
        known = self.entities.rows
        assert isinstance(known, pa.Table)
        moments = known[self.entities.event_time]
        for view in self.views:
            read = self.part(view).table(view.columns(), view.within(*self.entities.span))
            answers = view.kernel(self.known_by).prepare(view.shown(read))
            found = answers.features(view.asked(known), moments)
            for column, name in view.names.items():
                if name not in known.column_names:
                    known = known.append_column(name, filled(found[column], view.defaults.get(name)))
        return known

    def blocks(self) -> list[ObjectRef[pa.Table]]:
        from rayplat.data.feast import cluster

        return cluster.history(self)


@dataclass(frozen=True)
class Pull:
    """Rows of ``scan`` whose event time lies from ``first`` to ``last`` (ends included; None: open). With ``latest``
    only the newest of each key, ties going to the newest created, then to the later row; rows without a key or event
    time are then left out."""

    scan: Scan | ParquetFiles
    keys: tuple[str, ...]
    columns: tuple[str, ...]
    event_time: str
    created: str | None
    first: datetime | None
    last: datetime | None
    latest: bool
    limits: Limits

    @property
    def here(self) -> bool:
        return size_of(self.part) <= self.limits.in_process_bytes

    @property
    def where(self) -> pc.Expression | None:
        return between(self.scan.schema.field(self.event_time), self.first, self.last)

    @property
    def part(self) -> Scan | ParquetFiles:
        """The files that can matter."""
        return _pruned(self.scan, self.where)

    def table(self) -> pa.Table:
        if not self.here:
            from rayplat.data.feast import cluster

            return cluster.gathered(self.blocks())
        return self.read(self.part)

    def blocks(self) -> list[ObjectRef[pa.Table]]:
        from rayplat.data.feast import cluster

        return cluster.pull(self)

    def read(self, part: Scan | ParquetFiles) -> pa.Table:
        """The answer as far as the files of ``part`` hold it."""
        return self.chosen(part.table(self.columns, self.where))

    def chosen(self, read: pa.Table) -> pa.Table:
        """The newest rows among ``read`` where they are asked for; views without entities get Feast's key."""
        if not self.keys and DUMMY_ENTITY_ID not in read.column_names:
            read = read.append_column(DUMMY_ENTITY_ID, pa.chunked_array([pa.repeat(DUMMY_ENTITY_VAL, read.num_rows)]))
        if not self.latest:
            return read
        as_time(read[self.event_time], self.event_time)
        keys = self.keys or (DUMMY_ENTITY_ID,)
        return AsOf(keys, (), self.event_time, created=self.created).carry(read, 0)


def filled(values: pa.ChunkedArray, default: Any) -> pa.ChunkedArray:
    """``values`` without nulls where there is a default."""
    return values if default is None else values.fill_null(default)


def _pruned(scan: Scan | ParquetFiles, where: pc.Expression | None) -> Scan | ParquetFiles:
    return scan if where is None else scan.prune(where)
