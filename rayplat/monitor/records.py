"""Reports as rows of the Delta table ``drift_metrics``, and back. Pure.

One row for each statistic of each column, each quality metric and the verdict, so that any of them is a time series;
`reports` puts the same reports together again, so nothing else has to be kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from datetime import datetime
from typing import Any

import pyarrow as pa

from rayplat.types import ColumnDrift, DriftReport, QualityReport

TABLE = "drift_metrics"

_TIME = pa.timestamp("us", tz="UTC")
SCHEMA = pa.schema(
    [
        ("report_id", pa.string()),
        ("at", _TIME),
        ("model", pa.string()),
        ("version", pa.int64()),
        ("window_start", _TIME),
        ("window_end", _TIME),
        ("rows", pa.int64()),
        ("baseline", pa.string()),
        ("log_version", pa.int64()),
        ("kind", pa.string()),
        ("decisive", pa.bool_()),
        ("column", pa.string()),
        ("statistic", pa.string()),
        ("value", pa.float64()),
        ("threshold", pa.float64()),
        ("n_baseline", pa.int64()),
        ("n_window", pa.int64()),
        ("drifted", pa.bool_()),
        ("note", pa.string()),
    ]
)
_COLUMN, _PREDICTION, _QUALITY, _VERDICT = "column", "prediction", "quality", "verdict"
_METRICS = tuple(f.name for f in fields(QualityReport) if f.name != "version")
_COUNTS = ("predictions", "labelled", "unlabelled")


def rows(
    report: DriftReport, statistics: Sequence[ColumnDrift], report_id: str, at: datetime, log_version: int
) -> pa.Table:
    """The rows of one report. ``statistics`` is everything computed, the report's own columns among it;
    ``log_version`` is the version of the inference log that was read."""
    common: dict[str, Any] = {
        "report_id": report_id,
        "at": at,
        "model": report.model,
        "version": report.version,
        "window_start": report.window_start,
        "window_end": report.window_end,
        "rows": report.rows,
        "baseline": report.baseline,
        "log_version": log_version,
        "decisive": False,
    }
    decisive = {*report.columns, report.prediction}
    found: list[dict[str, Any]] = []
    for s in statistics:
        kind = _PREDICTION if report.prediction and s.column == report.prediction.column else _COLUMN
        values = {f.name: getattr(s, f.name) for f in fields(ColumnDrift)}
        found.append(common | values | {"kind": kind, "decisive": s in decisive})
    if report.quality:
        for name in _METRICS:
            value = getattr(report.quality, name)
            found.append(common | {"kind": _QUALITY, "statistic": name, "value": value})
    found.append(common | {"kind": _VERDICT, "statistic": _VERDICT, "note": report.verdict})
    return pa.Table.from_pylist(found, schema=SCHEMA)


def reports(table: pa.Table) -> list[DriftReport]:
    """The reports whose rows ``table`` holds, newest first."""
    grouped: dict[str, list[dict[str, Any]]] = {}
    for row in table.to_pylist():
        grouped.setdefault(row["report_id"], []).append(row)
    whole = [found for found in grouped.values() if any(row["kind"] == _VERDICT for row in found)]
    return [_report(found) for found in sorted(whole, key=lambda found: found[0]["at"], reverse=True)]


def _report(found: list[dict[str, Any]]) -> DriftReport:
    decisive = [row for row in found if row["decisive"]]
    columns = [_drift(row) for row in decisive if row["kind"] == _COLUMN]
    prediction = [_drift(row) for row in decisive if row["kind"] == _PREDICTION]
    quality = {row["statistic"]: row["value"] for row in found if row["kind"] == _QUALITY}
    verdict = next(row["note"] for row in found if row["kind"] == _VERDICT)
    first = found[0]
    return DriftReport(
        model=first["model"],
        version=first["version"],
        window_start=first["window_start"],
        window_end=first["window_end"],
        rows=first["rows"],
        baseline=first["baseline"],
        columns=tuple(sorted(columns, key=lambda c: (c.drifted, c.value / max(c.threshold, 1e-9)), reverse=True)),
        prediction=prediction[0] if prediction else None,
        quality=_quality(first["version"], quality) if quality else None,
        verdict=verdict,
    )


def _drift(row: dict[str, Any]) -> ColumnDrift:
    return ColumnDrift(**{f.name: row[f.name] for f in fields(ColumnDrift)})


def _quality(version: int, values: dict[str, float | None]) -> QualityReport:
    counts = {name: int(values.get(name) or 0) for name in _COUNTS}
    metrics = {name: values.get(name) for name in _METRICS if name not in _COUNTS}
    return QualityReport(version=version, **counts, **metrics)  # type: ignore[arg-type]
