"""A second small declared world: visits with composite keys, nulls, ties and late writes."""

from __future__ import annotations

from datetime import timedelta

import pyarrow as pa

from rayplat.data.features import Derived, Entity, FeatureView, Field, Window, col
from tests.data.declared import START, TIME

SHOP = Entity("visit", ("shop", "user"), ("int64", "string"))
SPENT = FeatureView(
    "spent",
    SHOP,
    "visits",
    "seen",
    fields=(Field("amount", "double"), Field("twice", "double")),
    created="written",
    where=col("amount") != 3,
    derived=(Derived("twice", col("amount") * 2, "double"),),
)
HOURS = FeatureView(
    "hours",
    SHOP,
    "visits",
    "seen",
    windows=(
        Window("n_1h", "amount", "count", timedelta(hours=1)),
        Window("mean_3h", "amount", "mean", timedelta(hours=3)),
        Window("kinds_3h", "kind", "distinct_count", timedelta(hours=3), "written"),
    ),
    where=col("amount") != 3,
)


def visits(numbers: list[int], first_id: int = 0) -> pa.Table:
    """One row per number, which decides keys, moment and values; ``id`` is the row's own."""
    at = [START + timedelta(minutes=7 * (n % 50)) for n in numbers]
    return pa.table(
        {
            "id": pa.array([first_id + i for i in range(len(numbers))], pa.int64()),
            "shop": pa.array([n % 3 for n in numbers], pa.int64()),
            "user": pa.array([None if n % 11 == 0 else f"u{n % 2}" for n in numbers], pa.string()),
            "seen": pa.array([None if n % 13 == 0 else t for n, t in zip(numbers, at, strict=True)], TIME),
            "written": pa.array([t + timedelta(minutes=n % 90) for n, t in zip(numbers, at, strict=True)], TIME),
            "amount": pa.array(
                [None if n % 17 == 0 else float("nan") if n % 19 == 0 else n % 7 / 3 for n in numbers], pa.float64()
            ),
            "kind": pa.array([None if n % 5 == 0 else f"k{n % 4}" for n in numbers], pa.string()),
        }
    )


def as_set(rows: pa.Table) -> list[str]:
    return sorted(repr(sorted(row.items())) for row in rows.to_pylist())
