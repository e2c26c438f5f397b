"""Parity of a registered model version: its logged feature vectors against the offline join.

Brings together what siblings know: the registry which bytes a version is, its bundle which views it reads, the
inference log what it was given. The comparison itself is `rayplat.data.parity`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.compute as pc

from rayplat.artifacts import bundle
from rayplat.data import parity
from rayplat.data.tables.scan import Scan
from rayplat.errors import InvalidInput, NotFound
from rayplat.registry.record import versions
from rayplat.serve.log.schema import ANSWERED, TABLE
from rayplat.services.verbs import Context
from rayplat.types import ModelSpec, ParityReport

MOST_VECTORS = 1_000_000
_COLUMNS = ("entity", "event_time", "received_at", "numeric", "categorical")


@dataclass(frozen=True)
class Sample:
    """Which logged vectors are compared: those with ``start <= event time < end``, at most ``limit``, the newest."""

    start: datetime | None = None
    end: datetime | None = None
    limit: int = 100_000

    def __post_init__(self) -> None:
        if not 1 <= self.limit <= MOST_VECTORS:
            raise InvalidInput("limit", f"{self.limit} is not between 1 and {MOST_VECTORS}")
        if self.start is not None and self.end is not None and _utc(self.start) >= _utc(self.end):
            raise InvalidInput("end", f"{self.end.isoformat()} is not after the start {self.start.isoformat()}")

    def rows(self, model: str, version: int) -> pc.Expression:
        """True for the rows of the log that were looked up for a version in the time asked for."""
        wanted = (pc.field("model") == model) & (pc.field("version") == version) & pc.field("entity").is_valid()
        if self.start is not None:
            wanted &= pc.field("event_time") >= pa.scalar(_utc(self.start), pa.timestamp("us", tz="UTC"))
        if self.end is not None:
            wanted &= pc.field("event_time") < pa.scalar(_utc(self.end), pa.timestamp("us", tz="UTC"))
        return wanted


def measure(context: Context, model: str, version: int, sample: Sample, tolerance: float) -> ParityReport:
    """Raises `NotFound` for the version, for one without logged vectors, and for a view that was never built;
    `Conflict` where its views are applied in other versions only."""
    if not 0 <= tolerance < 1:
        raise InvalidInput("tolerance", f"{tolerance} is no relative difference of at least 0 and below 1")
    registered = context.registry.read(versions.get, model, version)
    spec = bundle.spec_of(context.artifacts, registered.digest)
    if not spec.views:
        raise InvalidInput("model", f"version {version} of {model!r} looks nothing up: there is nothing to compare")
    views = [context.features.declaration(name, digest) for name, digest in spec.views.items()]
    vectors = _logged(context, model, version, sample)
    found = parity.measure(context.tables, _values(spec, vectors), views, tolerance)
    return ParityReport(model, version, vectors.num_rows, found.mismatched, tolerance, found.features, found.pins)


# --- inside ---------------------------------------------------------------------------------------


def _logged(context: Context, model: str, version: int, sample: Sample) -> pa.Table:
    rows = sample.rows(model, version)
    parts: list[pa.Table] = []
    if TABLE in context.tables.names():
        scan = context.tables.scan(TABLE)
        if "status" in scan.schema.names:  # a failed request's values were never all looked up
            rows &= pc.field("status").is_null() | (pc.field("status") == ANSWERED)
        for day in _newest_first(scan.prune(rows)):
            parts.append(day.table(list(_COLUMNS), rows))
            if sum(part.num_rows for part in parts) >= sample.limit:
                break
    found = pa.concat_tables(parts) if parts else None
    if found is None or not found.num_rows:
        hint = "serve it and send it requests that look features up, as the champion, a challenger or by its number"
        raise NotFound("logged feature vectors", f"{model}:{version}", hint)
    return found.sort_by([("received_at", "descending")]).slice(0, sample.limit)


def _newest_first(scan: Scan) -> Iterator[Scan]:
    """The parts of the log by day, so that no more days are read than the newest vectors fill."""
    days: dict[str, Scan] = {}
    for file in scan.files:
        day = str(file.partition.get("date") or "")
        files = days[day].files if day in days else ()
        days[day] = Scan(scan.place, scan.schema, (*files, file), scan.layout)
    for day in sorted(days, reverse=True):
        yield days[day]


def _values(spec: ModelSpec, vectors: pa.Table) -> parity.Logged:
    kinds = {"numeric": list[str](), "categorical": list[str]()}
    for feature in spec.features:
        kinds[feature.kind].append(feature.name)
    found = {name: column for kind, names in kinds.items() for name, column in _unfolded(vectors, kind, names)}
    ordered = {feature.name: found[feature.name] for feature in spec.features}
    return parity.Logged(spec.entity, vectors["entity"].to_pylist(), vectors["event_time"], ordered)


def _unfolded(vectors: pa.Table, kind: str, names: list[str]) -> list[tuple[str, pa.ChunkedArray]]:
    return list(parity.unfold(vectors[kind], names).items())


def _utc(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
