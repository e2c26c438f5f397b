"""Makes the tables of this repository below ``data/tables``, with times that end now: `python make_data.py`.

Run it again and the tables get new versions. Feast counts a view's ttl from the clock, so the dates are of today.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
from features import ACTIVITY

from rayplat.data.features.build import rows_of
from rayplat.data.tables import Tables

DRIVERS, HOURS = 20, 72


def driver_stats(now: datetime) -> pa.Table:
    """One row per driver and hour, known a minute after it was measured."""
    random = np.random.default_rng(7)
    rows = DRIVERS * HOURS
    hour = np.repeat(np.arange(HOURS), DRIVERS)
    measured = [now - timedelta(hours=int(HOURS - 1 - h), minutes=5) for h in hour]
    return pa.table(
        {
            "driver_id": pa.array(np.tile(np.arange(DRIVERS), HOURS) + 1001, pa.int64()),
            "measured": pa.array(measured, pa.timestamp("us", "UTC")),
            "written": pa.array([at + timedelta(minutes=1) for at in measured], pa.timestamp("us", "UTC")),
            "conv_rate": random.random(rows),
            "acc_rate": random.random(rows),
            "trips_today": pa.array(random.integers(0, 40, rows), pa.int64()),
        }
    )


def trips(now: datetime) -> pa.Table:
    """The last day's trips: events, of which windows are made."""
    random = np.random.default_rng(11)
    rows = 4_000
    ends = np.sort(random.integers(0, 24 * 3600, rows))
    return pa.table(
        {
            "driver_id": pa.array(random.integers(1001, 1001 + DRIVERS, rows), pa.int64()),
            "ended": pa.array([now - timedelta(seconds=int(24 * 3600 - s)) for s in ends], pa.timestamp("us", "UTC")),
            "fare": np.round(random.gamma(3.0, 6.0, rows), 2),
        }
    )


def main(folder: Path) -> None:
    now = datetime.now(UTC)
    tables = Tables(str(folder / "data" / "tables"))
    made = {"driver_stats": driver_stats(now), "trips": trips(now)}
    for name, rows in made.items():
        tables.overwrite(name, rows, replace_schema=True)
    tables.overwrite(ACTIVITY.table, rows_of(ACTIVITY, made["trips"]), replace_schema=True)
    for name in tables.names():
        sys.stdout.write(f"{name}: {tables.version(name).row_count} rows\n")


if __name__ == "__main__":
    main(Path(__file__).parent)
