"""One advance of a view: which events of its feature table come new, late or go."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from rayplat.data.online.store import OnlineStore
from rayplat.data.tables.scan import Scan
from rayplat.types import TableVersion


class Overlapped(Exception):
    """Another advance of the view ended meanwhile: what both wrote is mixed, the view is to be rebuilt."""


@dataclass(frozen=True)
class Step:
    """What one advance has to do: take the events of ``source`` in (``after``, ``until``], those of ``late`` up to
    ``after``, and take ``gone`` back. ``after`` None: from the beginning. ``keep`` is how far beyond the longest window
    tiles are kept, ``seen`` the cursor that it goes on from."""

    source: TableVersion
    after: datetime | None
    until: datetime
    fresh: bool = False
    keep_pushed: bool = False
    late: Scan | pa.Table | None = None
    gone: pa.Table | None = None
    keep: timedelta = timedelta(0)
    seen: Mapping[str, Any] | None = None

    def late_parts(self, columns: list[str], where: pc.Expression) -> Iterator[pa.Table]:
        """The late rows for which ``where`` is true."""
        if isinstance(self.late, pa.Table):
            yield self.late.select(columns).filter(where)
        elif self.late is not None:
            yield from self.late.prune(where).batches(columns, where)

    def require_alone(self, store: OnlineStore, view: str) -> None:
        """Raises `Overlapped` where another advance of the view ended since this one began."""
        if not self.fresh and store.cursor(view) != self.seen:
            raise Overlapped(view)

    @property
    def cursor(self) -> dict[str, Any]:
        upto = self.until.isoformat()
        return {"table_id": self.source.table_id, "version": self.source.version, "upto": upto}
