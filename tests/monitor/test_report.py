"""Reports as text and JSON, and as rows of a table and back."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from datetime import UTC, datetime

import pyarrow as pa
import pytest
from rich.console import Console

from rayplat.monitor import records, report
from rayplat.types import ColumnDrift, DriftReport, QualityReport

AT = datetime(2013, 11, 8, 12, tzinfo=UTC)
WIND = ColumnDrift("wind_speed", "null_rate", 0.16, 0.05, 9000, 1400, True, "nulls 0.0% → 16.0%")
TEMP = ColumnDrift("temp", "wasserstein_sd", 0.1, 0.2, 9000, 1400, False, "mean 15 → 14")
SCORE = ColumnDrift("prediction", "psi", 0.5, 0.25, 9000, 1400, True, "mean 0.2 → 0.3")
QUALITY = QualityReport(2, 1400, 1361, 39, 0.725, 0.494, 0.24, 0.25, 0.031)
REPORT = DriftReport(
    model="flight-delay",
    version=2,
    window_start=datetime(2013, 11, 1, tzinfo=UTC),
    window_end=AT,
    rows=1400,
    baseline="sha256:" + "ab" * 32,
    columns=(WIND, TEMP),
    prediction=SCORE,
    quality=QUALITY,
    verdict="drift",
)
EXTRA = replace(TEMP, statistic="psi", value=0.01)


def text(found: DriftReport, width: int = 100) -> str:
    console = Console(width=width, record=True, force_terminal=True, file=io.StringIO())
    console.print(report.render(found))
    return console.export_text()


def test_a_report_shows_verdict_columns_prediction_and_quality() -> None:
    shown = text(REPORT)
    for part in ("flight-delay version 2", "1 of 2 features moved, and so did the predictions", "1,400 requests"):
        assert part in shown
    for part in ("nulls 0.0% → 16.0%", "mean 15 → 14", "ROC AUC 0.725", "39 have none", "2013-11-01 00:00"):
        assert part in shown
    marked = [line for line in shown.splitlines() if "▲" in line]
    assert [("prediction" in marked[0]), ("wind_speed" in marked[1]), len(marked)] == [True, True, 2]


@pytest.mark.parametrize("width", [80, 100, 160])
def test_a_report_fits_its_terminal(width: int) -> None:
    lines = text(replace(REPORT, columns=(replace(WIND, note="x" * 300), TEMP)), width).splitlines()
    assert max(map(len, lines)) == width
    assert len(lines) == len(text(REPORT, width).splitlines())


def test_few_rows_are_said_without_a_count_of_columns() -> None:
    shown = text(replace(REPORT, verdict="not enough rows", quality=replace(QUALITY, auc=None, log_loss=None)))
    assert "not enough rows" in shown
    assert "features moved" not in shown
    assert "ROC AUC" not in shown


def test_json_is_plain() -> None:
    plain = json.loads(json.dumps(report.to_json(REPORT), allow_nan=False))
    assert plain["window_end"] == "2013-11-08T12:00:00+00:00"
    assert plain["columns"][0]["drifted"] is True
    assert plain["quality"]["auc"] == 0.725


@pytest.mark.parametrize(
    "found", [REPORT, replace(REPORT, quality=None), replace(REPORT, prediction=None, columns=(), verdict="stable")]
)
def test_rows_make_the_same_report_again(found: DriftReport) -> None:
    statistics = [*found.columns, EXTRA] + ([found.prediction] if found.prediction else [])
    stored = records.rows(found, statistics, "r1", AT, 7)
    assert stored.schema == records.SCHEMA
    assert records.reports(stored) == [found]


def test_reports_come_newest_first_and_only_whole() -> None:
    older = records.rows(REPORT, [WIND, TEMP, SCORE], "r1", AT, 7).to_pylist()
    newer = records.rows(replace(REPORT, version=3), [WIND, TEMP, SCORE], "r2", AT.replace(hour=13), 8).to_pylist()
    torn = [row for row in older if row["kind"] != "verdict"]
    stored = [*older, *newer, *(row | {"report_id": "r0"} for row in torn)]
    table = pa.Table.from_pylist(stored, schema=records.SCHEMA)
    assert [r.version for r in records.reports(table)] == [3, 2]
