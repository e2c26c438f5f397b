"""The monitor: reads the inference log, compares with a baseline, joins labels, stores the report.

A plain class; the platform wraps it as the detached actor ``rayplat-monitor``. It keeps nothing in memory: reports
are rows of ``drift_metrics``, so a restart loses none. It does not know how the log is written, nor Ray.
"""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rayplat import logs
from rayplat.artifacts.store import ArtifactStore
from rayplat.data import labels
from rayplat.data.labels import LabelSource
from rayplat.data.tables import Tables
from rayplat.errors import AlreadyExists, InvalidInput
from rayplat.monitor import drift, performance, profiles, records
from rayplat.monitor.summary import CATEGORICAL, ColumnSummary
from rayplat.settings import Settings
from rayplat.types import DriftReport, QualityReport, TableVersion

INFERENCE_LOG = "inference_log"
_READ = ["event_time", "model", "version", "entity", "numeric", "categorical", "prediction"]
_ANSWERED, _SHADOW, _REDACTED = 200, "shadow", "<redacted>"  # as the log has them

logger = logging.getLogger(__name__)


class Monitor:
    """Reports on the versions of models that answered requests."""

    def __init__(self, settings: Settings) -> None:
        logs.set_up_in_actor()
        self._tables = Tables(settings.tables_uri, settings.data.storage_options)
        self._artifacts = ArtifactStore.of(settings)
        self._rules = drift.DriftRules(min_rows=settings.monitor.min_rows)

    def heartbeat(self) -> dict[str, Any]:
        """That this process is alive, and which one it is."""
        return {"part": "monitor", "pid": os.getpid(), "at": datetime.now(UTC)}

    def report(
        self,
        model: str,
        version: int | None,
        baseline: str | None,
        start: datetime,
        end: datetime,
        label_source: LabelSource | str | None = None,
        asof: datetime | None = None,
    ) -> DriftReport:
        """Compare what one version was asked and answered in ``start <= event time < end`` with its training.

        ``baseline`` is the digest of the profile that was stored with the version. ``version`` None means the only
        one that answered in the window. ``label_source`` names the table of labels (or describes its columns); only
        labels known at ``asof`` (default: now) count. The report is appended to ``drift_metrics``. Raises
        `InvalidInput` for an empty window, a version without baseline or several versions; `NotFound` for a missing
        table or profile.
        """
        if baseline is None:
            raise InvalidInput("baseline", f"version {version} of {model} was registered without a baseline profile")
        before = profiles.read(self._artifacts.get_bytes(baseline))
        log = self._tables.version(INFERENCE_LOG)
        window = self._window(log, model, version, start, end)
        if version is None:
            version = _only_version(window)
        before = visible(before, window)
        table = unpack(window, before)
        compared = drift.compare(before, profiles.read(profiles.profile(table)), self._rules, profiles.PREDICTION)
        quality = self._quality(version, window, label_source, asof) if label_source else None
        found = DriftReport(
            model, version, start, end, len(window), baseline, compared.columns, compared.prediction, quality,
            compared.verdict,
        )  # fmt: skip
        report_id = secrets.token_hex(8)
        self._store(records.rows(found, compared.statistics, report_id, datetime.now(UTC), log.version))
        drifted = [column.column for column in found.columns if column.drifted]
        logger.info(
            "report %s of %s version %d: %s on %d rows, drifted: %s",
            *(report_id, model, version, found.verdict, found.rows, ", ".join(drifted) or "none"),
            extra={"report_id": report_id, "model": model, "version": version, "table_version": log.version},
        )
        return found

    def reports(self, model: str | None = None, limit: int = 50) -> list[DriftReport]:
        """The reports of one model, or of all, newest first."""
        if records.TABLE not in self._tables.names():
            return []
        where = None if model is None else pc.field("model") == model
        return records.reports(self._tables.read(records.TABLE, where=where))[:limit]

    def versions(self, model: str, start: datetime, end: datetime) -> dict[int, int]:
        """How many rows each version answered in ``start <= event time < end``."""
        log = self._tables.version(INFERENCE_LOG)
        counted = pc.value_counts(self._window(log, model, None, start, end).column("version"))
        return {int(row["values"]): int(row["counts"]) for row in counted.to_pylist()}

    def _window(self, log: TableVersion, model: str, version: int | None, start: datetime, end: datetime) -> pa.Table:
        if start.tzinfo is None or end.tzinfo is None:
            raise InvalidInput("window", "start and end need a time zone, for example 2013-11-01T00:00:00Z")
        if start >= end:
            raise InvalidInput("window", f"ends at {end.isoformat()}, before it starts at {start.isoformat()}")
        time = pc.field("event_time")
        where = (time >= _scalar(start)) & (time < _scalar(end)) & (pc.field("model") == model)
        if version is not None:
            where &= pc.field("version") == version
        return self._tables.read(log, columns=_READ, where=where & self._counted(log))

    def _counted(self, log: TableVersion) -> pc.Expression:
        """True for rows that somebody was answered with: no failures, no copies for a shadow. Rows of a log from
        before it had these columns are answers all."""
        there = set(self._tables.scan(log).schema.names)
        found = pc.scalar(True)
        if "status" in there:
            found &= pc.field("status").is_null() | (pc.field("status") == _ANSWERED)
        if "role" in there:
            found &= pc.field("role").is_null() | (pc.field("role") != _SHADOW)
        return found

    def _quality(
        self, version: int, window: pa.Table, source: LabelSource | str, asof: datetime | None
    ) -> QualityReport:
        info = self._tables.info(source if isinstance(source, str) else source.table)
        if isinstance(source, str):
            source = labels.find_source(source, info.columns)
        labels.check(source, info.columns)
        arrived = self._tables.read(info.latest, columns=[source.key, source.label, source.known_at])
        matched = labels.match(window.column("entity"), arrived, source, asof or datetime.now(UTC))
        scores = window.column("prediction").to_numpy()
        return performance.quality(version, scores, matched, self._rules.min_rows)

    def _store(self, rows: pa.Table) -> None:
        if records.TABLE not in self._tables.names():
            try:
                self._tables.create(records.TABLE, rows)
                return
            except AlreadyExists:  # another report was first
                pass
        self._tables.append(records.TABLE, rows)


def visible(baseline: Mapping[str, ColumnSummary], window: pa.Table) -> dict[str, ColumnSummary]:
    """The columns of ``baseline`` that the log shows: of a redacted one nothing can be said."""
    found = _map_columns(window.column("categorical"), [name for name in baseline if name != profiles.PREDICTION])
    hidden = {name for name, values in found.items() if pc.any(pc.equal(values, _REDACTED)).as_py()}
    return {name: summary for name, summary in baseline.items() if name not in hidden}


def unpack(window: pa.Table, baseline: Mapping[str, ColumnSummary]) -> pa.Table:
    """One column per column of ``baseline`` from the maps of the log, and the prediction; absent keys are null."""
    columns: dict[str, Any] = {profiles.PREDICTION: window.column("prediction")}
    names = [name for name in baseline if name != profiles.PREDICTION]
    for kind, of_kind in (("categorical", True), ("numeric", False)):
        wanted = [name for name in names if (baseline[name].kind == CATEGORICAL) == of_kind]
        columns |= _map_columns(window.column(kind), wanted)
    return pa.table(columns)


def _map_columns(column: pa.ChunkedArray, names: list[str]) -> dict[str, pa.Array]:
    """The values of each name in a column of maps, as arrays of the column's length."""
    maps = column.combine_chunks()
    offsets = maps.offsets.to_numpy()
    inner = slice(int(offsets[0]), int(offsets[-1])) if len(offsets) else slice(0, 0)
    keys = maps.keys.slice(inner.start, inner.stop - inner.start)
    items = maps.items.slice(inner.start, inner.stop - inner.start)
    parents = np.repeat(np.arange(len(maps)), np.diff(offsets))
    found = {}
    for name in names:
        mask = pc.equal(keys, name).to_numpy(zero_copy_only=False)
        position = np.full(len(maps), -1, dtype=np.int64)
        position[parents[mask]] = np.flatnonzero(mask)
        found[name] = items.take(pa.array(position, mask=position < 0))
    return found


def _only_version(window: pa.Table) -> int:
    versions = sorted(window.column("version").unique().to_pylist())
    if len(versions) != 1:
        seen = ", ".join(map(str, versions)) or "none"
        raise InvalidInput("version", f"say which: in this window the log holds answers of versions {seen}")
    return int(versions[0])


def _scalar(moment: datetime) -> pa.Scalar:
    return pa.scalar(moment, pa.timestamp("us", tz="UTC"))
