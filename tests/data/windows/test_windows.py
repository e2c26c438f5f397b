"""Change points: an as-of lookup must give the exact window at any moment."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from rayplat.data.point_in_time import FeatureRows, join
from rayplat.data.windows import Window, change_points
from rayplat.errors import InvalidInput

TIME = pa.timestamp("us", tz="UTC")
START = datetime(2013, 1, 1, tzinfo=UTC)
BASE = int(START.timestamp()) * 1_000_000
MINUTE = 60_000_000
WINDOWS = (
    Window("n", "delay", "count", timedelta(minutes=30)),
    Window("total", "delay", "sum", timedelta(hours=2)),
    Window("mean", "delay", "mean", timedelta(hours=2)),
    Window("late", "arrival", "mean", timedelta(minutes=45), "arrived"),
)


def events(rows: int, step: int, seed: int = 3) -> pa.Table:
    rng = np.random.default_rng(seed)
    at = rng.integers(0, 600 * MINUTE // step, rows) * step + BASE
    arrived = at + rng.integers(30, 90, rows) * MINUTE // step * step
    null = rng.random(rows)
    delay = rng.integers(-20, 90, rows).astype(float)
    delay[null < 0.02] = np.nan
    return pa.table(
        {
            "key": pa.array([f"k{i}" for i in rng.integers(0, 6, rows)], mask=rng.random(rows) < 0.03),
            "at": pa.array(at, TIME, mask=rng.random(rows) < 0.03),
            "arrived": pa.array(arrived, TIME, mask=rng.random(rows) < 0.1),
            "delay": pa.array(delay, mask=(null > 0.02) & (null < 0.05)),
            "arrival": rng.integers(-20, 90, rows),
        }
    )


def by_definition(rows: list[dict], key: str, at: datetime, window: Window) -> float | None:  # type: ignore[type-arg]
    known = window.event_time or "at"
    values = [
        float(r[window.column])
        for r in rows
        if r["key"] == key and r[known] is not None and at - window.length < r[known] <= at
        and r[window.column] is not None and not np.isnan(r[window.column])
    ]  # fmt: skip
    if window.function == "count":
        return float(len(values))
    if window.function == "sum":
        return sum(values)
    return sum(values) / len(values) if values else None


@pytest.mark.parametrize("step", [MINUTE, 1], ids=["minutes", "microseconds"])
def test_equals_the_definition_at_any_moment(step: int) -> None:
    table = events(400, step)
    points = change_points(table, "key", "at", WINDOWS)
    edges = [t for row in points.select(["event_time"]).to_pylist() for t in (row["event_time"],)]
    rng = np.random.default_rng(5)
    chosen = [
        edges[i] + timedelta(microseconds=int(d))
        for i, d in zip(rng.integers(0, len(edges), 200), [-1, 0] * 100, strict=True)
    ]
    spine = pa.table({"key": [f"k{i % 6}" for i in range(200)], "event_time": pa.array(chosen, TIME)})
    found = join(spine, [FeatureRows(points, "key", tuple(w.name for w in WINDOWS))]).to_pylist()
    rows = table.to_pylist()
    for row in found:
        if row["n"] is None:  # before the first event of this key
            continue
        for window in WINDOWS:
            expected = by_definition(rows, row["key"], row["event_time"], window)
            assert row[window.name] == (None if expected is None else pytest.approx(expected, rel=1e-6)), window.name


def test_one_row_per_key_and_moment_in_order_of_time() -> None:
    points = change_points(events(400, MINUTE), "key", "at", WINDOWS)
    pairs = list(zip(points["key"].to_pylist(), points["event_time"].to_pylist(), strict=True))
    assert len(set(pairs)) == len(pairs)
    assert [t for _, t in pairs] == sorted(t for _, t in pairs)
    assert points.schema.field("mean").type == pa.float32()


def test_the_future_changes_nothing_before_it() -> None:
    table = events(400, MINUTE)
    now = START + timedelta(hours=5)
    planted = pa.table(
        {
            "key": ["k0"] * 50,
            "at": pa.array([now + timedelta(minutes=i) for i in range(1, 51)], TIME),
            "arrived": pa.array([now + timedelta(minutes=i) for i in range(1, 51)], TIME),
            "delay": [1e6] * 50,
            "arrival": pa.array([10**6] * 50, pa.int64()),
        }
    )
    before = change_points(table, "key", "at", WINDOWS)
    after = change_points(pa.concat_tables([table, planted]), "key", "at", WINDOWS)

    def known(points: pa.Table) -> list[dict]:  # type: ignore[type-arg]
        return [row for row in points.to_pylist() if row["event_time"] <= now]

    assert known(after) == known(before)
    assert len(known(before)) > 100


def test_no_events_no_rows() -> None:
    empty = change_points(events(5, MINUTE).slice(0, 0), "key", "at", WINDOWS)
    assert empty.num_rows == 0
    assert empty.column_names == ["key", "event_time", "n", "total", "mean", "late"]


def test_bad_windows_are_refused() -> None:
    with pytest.raises(InvalidInput, match="median"):
        Window("w", "x", "median", timedelta(hours=1))
    with pytest.raises(InvalidInput, match="positive"):
        Window("w", "x", "sum", timedelta(0))
