"""The monitor on real tables and artifacts: what was logged, compared with a baseline, joined with labels."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from rayplat.artifacts.store import ArtifactStore
from rayplat.data.labels import LabelSource, match
from rayplat.data.tables import Tables
from rayplat.errors import InvalidInput, NotFound, SchemaMismatch
from rayplat.monitor import profiles
from rayplat.monitor.actor import INFERENCE_LOG, Monitor
from rayplat.settings import Settings

START = datetime(2013, 11, 1, tzinfo=UTC)
END = START + timedelta(days=7)
TIME = pa.timestamp("us", tz="UTC")
CARRIERS = ("UA", "DL", "AA")


def features(rng: np.random.Generator, n: int, shift: float = 0.0) -> dict[str, Any]:
    return {"temp": rng.normal(15 - 8 * shift, 8, n), "wind": rng.gamma(2, 5, n), "carrier": rng.choice(CARRIERS, n)}


def log(rng: np.random.Generator, n: int, version: int, shift: float = 0.0, first: int = 0) -> pa.Table:
    """Rows as the inference-log writer stores them; every tenth has no wind, none has the key then."""
    columns = features(rng, n, shift)
    numeric = [
        [("temp", t)] + ([("wind", w)] if i % 10 else [])
        for i, (t, w) in enumerate(zip(columns["temp"], columns["wind"], strict=True))
    ]
    moments = [START + (END - START) * (i / n) for i in range(n)]
    return pa.table(
        {
            "request_id": [f"r{first + i}" for i in range(n)],
            "row": pa.array([0] * n, pa.int32()),
            "received_at": pa.array([datetime(2026, 1, 1, tzinfo=UTC)] * n, TIME),
            "event_time": pa.array(moments, TIME),
            "model": ["flight-delay"] * n,
            "version": pa.array([version] * n, pa.int64()),
            "entity": [f"f{first + i}" for i in range(n)],
            "numeric": pa.array(numeric, pa.map_(pa.string(), pa.float64())),
            "categorical": pa.array([[("carrier", c)] for c in columns["carrier"]], pa.map_(pa.string(), pa.string())),
            "prediction": pa.array(rng.beta(2, 6, n)),
        }
    )


@pytest.fixture
def baseline(settings: Settings) -> str:
    rng = np.random.default_rng(1)
    columns = features(rng, 5000)
    columns["wind"] = np.where(np.arange(5000) % 10, columns["wind"], np.nan)
    data = profiles.baseline_profile(pa.table(columns), list(columns), rng.beta(2, 6, 5000))
    return ArtifactStore.of(settings).put_bytes(data, "profile").digest


@pytest.fixture
def tables(settings: Settings) -> Tables:
    """A log with 800 rows of version 1 and 700 of version 2, whose temperatures are lower."""
    rng = np.random.default_rng(2)
    found = Tables(settings.tables_uri)
    found.create(INFERENCE_LOG, log(rng, 800, version=1))
    found.append(INFERENCE_LOG, log(rng, 700, version=2, shift=0.6, first=800))
    return found


@pytest.fixture
def labels(tables: Tables) -> str:
    """Labels of all 1500 but every fiftieth, which never arrived; each known two hours after its moment."""
    late: list[bool | None] = [i % 3 == 0 if i % 50 else None for i in range(1500)]
    known = [START + timedelta(minutes=6 * i, hours=2) for i in range(1500)]
    rows = {"flight": [f"f{i}" for i in range(1500)], "late": late, "known_at": pa.array(known, TIME)}
    tables.create("flight_labels", pa.table(rows))
    return "flight_labels"


@pytest.fixture
def monitor(settings: Settings, tables: Tables) -> Monitor:
    return Monitor(settings)


def test_each_version_gets_its_own_verdict(monitor: Monitor, baseline: str) -> None:
    first = monitor.report("flight-delay", 1, baseline, START, END)
    second = monitor.report("flight-delay", 2, baseline, START, END)
    assert (first.rows, first.verdict, second.rows, second.verdict) == (800, "stable", 700, "drift")
    assert [c.column for c in second.columns if c.drifted] == ["temp"]
    assert {c.column for c in first.columns} == {"temp", "wind", "carrier"}
    assert first.prediction is not None
    assert first.quality is None
    assert monitor.versions("flight-delay", START, END) == {1: 800, 2: 700}


def test_the_window_is_event_time_and_its_end_is_open(monitor: Monitor, baseline: str) -> None:
    half = START + (END - START) / 2
    report = monitor.report("flight-delay", 1, baseline, START, half)
    assert (report.rows, report.verdict) == (400, "not enough rows")
    assert monitor.report("flight-delay", 1, baseline, END, END + timedelta(days=1)).rows == 0


def with_columns(rows: pa.Table, status: list[int], role: list[str]) -> pa.Table:
    return rows.append_column("status", pa.array(status, pa.int32())).append_column("role", pa.array(role))


def test_failures_and_copies_for_shadows_do_not_count(settings: Settings, baseline: str, labels: str) -> None:
    tables, rng = Tables(settings.tables_uri), np.random.default_rng(5)
    failed = log(rng, 300, version=1, shift=5.0, first=2000)
    failed = failed.set_column(failed.schema.get_field_index("prediction"), "prediction", pa.nulls(300, pa.float64()))
    tables.append(INFERENCE_LOG, with_columns(failed, [503] * 300, ["primary"] * 300), evolve=True)
    shadowed = log(rng, 900, version=1, shift=5.0, first=3000)
    tables.append(INFERENCE_LOG, with_columns(shadowed, [200] * 900, ["shadow"] * 900))
    answered = log(rng, 100, version=1, first=800)
    tables.append(INFERENCE_LOG, with_columns(answered, [200] * 100, ["canary"] * 100))
    monitor = Monitor(settings)
    found = monitor.report("flight-delay", 1, baseline, START, END, labels)
    assert (found.rows, found.verdict) == (900, "stable")
    assert found.quality is not None
    assert found.quality.predictions == 900
    assert monitor.versions("flight-delay", START, END) == {1: 900, 2: 700}


def test_of_a_redacted_column_nothing_is_said(settings: Settings, baseline: str, tables: Tables) -> None:
    rows = log(np.random.default_rng(6), 800, version=7)
    shown = [[("carrier", "UA"), ("temp", "<redacted>")]] * 800
    maps = pa.array(shown, pa.map_(pa.string(), pa.string()))
    tables.append(INFERENCE_LOG, rows.set_column(rows.schema.get_field_index("categorical"), "categorical", maps))
    found = Monitor(settings).report("flight-delay", 7, baseline, START, END)
    assert {c.column for c in found.columns} == {"wind", "carrier"}


def test_a_feature_that_is_no_longer_sent_is_drift(monitor: Monitor, tables: Tables, settings: Settings) -> None:
    rng = np.random.default_rng(3)
    columns = features(rng, 2000) | {"gone": rng.normal(size=2000)}
    data = profiles.baseline_profile(pa.table(columns), list(columns), rng.beta(2, 6, 2000))
    digest = ArtifactStore.of(settings).put_bytes(data, "profile").digest
    report = monitor.report("flight-delay", 1, digest, START, END)
    gone = report.columns[0]
    assert (gone.column, gone.statistic, gone.value, gone.drifted) == ("gone", "null_rate", 1.0, True)


def test_labels_that_have_arrived_give_live_quality(monitor: Monitor, baseline: str, labels: str) -> None:
    found = monitor.report("flight-delay", 1, baseline, START, END, labels).quality
    assert found is not None
    assert (found.predictions, found.labelled, found.unlabelled) == (800, 784, 16)
    assert found.positive_rate == pytest.approx(1 / 3, abs=0.02)
    assert found.auc == pytest.approx(0.5, abs=0.06)  # labels and scores have nothing to do with each other


def test_only_labels_known_by_then_count(monitor: Monitor, baseline: str, labels: str) -> None:
    source = LabelSource(labels, key="flight", label="late")
    asof = START + timedelta(hours=12)  # the label of flight i is known after 2 h and 6 i minutes
    found = monitor.report("flight-delay", 1, baseline, START, END, source, asof).quality
    assert found is not None
    assert found.labelled == 101 - 3
    assert found.auc is None


def test_the_last_known_label_of_a_key_counts(monitor: Monitor, baseline: str, tables: Tables) -> None:
    n = 800
    rows = {
        "key": [f"f{i}" for i in range(n)] * 2,
        "label": pa.array([1] * n + [0] * n, pa.int8()),
        "known_at": pa.array([END + timedelta(hours=1)] * n + [END] * n, TIME),
    }
    tables.create("corrected", pa.table(rows))
    found = monitor.report("flight-delay", 1, baseline, START, END, "corrected").quality
    assert found is not None
    assert found.positive_rate == 1.0


def test_requests_without_a_key_have_no_label() -> None:
    entities = pa.chunked_array([pa.array(["a", None], pa.string())])
    rows = pa.table({"key": ["a", None], "label": [1, 1], "known_at": pa.array([START, START], TIME)})
    found = match(entities, rows, LabelSource("t", "key", "label"), END)
    assert found[0] == 1.0
    assert np.isnan(found[1])


def test_reports_survive_a_restart(settings: Settings, monitor: Monitor, baseline: str, labels: str) -> None:
    assert monitor.reports("flight-delay") == []
    first = monitor.report("flight-delay", 1, baseline, START, END, labels)
    second = monitor.report("flight-delay", 2, baseline, START, END)
    again = Monitor(settings)
    assert again.reports("flight-delay") == [second, first]
    assert again.reports(limit=1) == [second]
    assert again.reports("another") == []
    assert again.heartbeat()["part"] == "monitor"


def test_version_may_be_left_out_only_where_there_is_one(monitor: Monitor, tables: Tables, baseline: str) -> None:
    with pytest.raises(InvalidInput, match="versions 1, 2"):
        monitor.report("flight-delay", None, baseline, START, END)
    tables.append(
        INFERENCE_LOG, log(np.random.default_rng(4), 600, version=5).set_column(4, "model", [["other"] * 600])
    )
    assert monitor.report("other", None, baseline, START, END).version == 5


def test_bad_input_is_named_and_nothing_is_stored(monitor: Monitor, tables: Tables, baseline: str) -> None:
    with pytest.raises(InvalidInput, match="without a baseline profile"):
        monitor.report("flight-delay", 1, None, START, END)
    with pytest.raises(InvalidInput, match="before it starts"):
        monitor.report("flight-delay", 1, baseline, END, START)
    with pytest.raises(InvalidInput, match="time zone"):
        monitor.report("flight-delay", 1, baseline, START.replace(tzinfo=None), END)
    with pytest.raises(NotFound):
        monitor.report("flight-delay", 1, "sha256:" + "0" * 64, START, END)
    with pytest.raises(NotFound):
        monitor.report("flight-delay", 1, baseline, START, END, "no_such_table")
    tables.create("unfit", pa.table({"a": ["x"], "b": [1], "c": [2], "known_at": pa.array([START], TIME)}))
    with pytest.raises(SchemaMismatch, match=r"several \(b, c\) that could be the label"):
        monitor.report("flight-delay", 1, baseline, START, END, "unfit")
    with pytest.raises(SchemaMismatch, match="known_at"):
        monitor.report("flight-delay", 1, baseline, START, END, INFERENCE_LOG)
    with pytest.raises(SchemaMismatch, match="has no column late"):
        monitor.report("flight-delay", 1, baseline, START, END, LabelSource("unfit", key="a", label="late"))
    assert monitor.reports() == []


def test_without_a_log_there_is_nothing_to_report(settings: Settings, baseline: str) -> None:
    with pytest.raises(NotFound, match="inference_log"):
        Monitor(settings).report("flight-delay", 1, baseline, START, END)
