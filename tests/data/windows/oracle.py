"""Windows by definition, one event after the other, and generated events to try them on."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa

from rayplat.data.windows import Fetched, PackedTile, TilePlan, Window, answer, needed

TIME = pa.timestamp("us", tz="UTC")
START = datetime(2024, 3, 1, tzinfo=UTC)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)

LENGTHS = (timedelta(minutes=3), timedelta(hours=6), timedelta(days=2))
NUMERIC = ("count", "sum", "mean", "min", "max", "stddev", "last", "distinct_count", "approx_distinct_count")
TEXTUAL = ("count", "last", "distinct_count", "approx_distinct_count")


def plan(tile: timedelta | None = None) -> TilePlan:
    """Two key columns, two clocks, numbers and text, every function, three lengths."""
    windows = [
        Window(f"{column}_{function}_{i}", column, function, length, clock, _dtype(column, function))
        for column, functions, clock in (("x", NUMERIC, None), ("word", TEXTUAL, None), ("y", NUMERIC, "seen"))
        for function in functions
        for i, length in enumerate(LENGTHS)
    ]
    return TilePlan(("who", "group"), "at", tuple(windows), tile)


def _dtype(column: str, function: str) -> str | None:
    return "string" if column == "word" and function == "last" else None


def events(rows: int, seed: int = 0, *, step_s: int = 60) -> pa.Table:
    """Three days of events with nulls, NaN and many ties."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=rows).round(2) * 10.0 ** rng.integers(-3, 4, rows)
    x[rng.random(rows) < 0.05] = np.nan
    at = rng.integers(0, 3 * 86_400 // step_s, rows) * step_s * 1_000_000 + us(START)
    return pa.table(
        {
            "who": pa.array([f"k{i}" for i in rng.integers(0, 3, rows)], mask=rng.random(rows) < 0.03),
            "group": pa.array(rng.integers(0, 2, rows), mask=rng.random(rows) < 0.03),
            "at": pa.array(at, TIME, mask=rng.random(rows) < 0.03),
            "seen": pa.array(at + rng.integers(0, 7_200, rows) * 1_000_000, TIME, mask=rng.random(rows) < 0.1),
            "x": pa.array(x),
            "y": pa.array(rng.integers(-9, 9, rows), mask=rng.random(rows) < 0.1),
            "word": pa.array([f"w{i}" for i in rng.integers(0, 40, rows)], mask=rng.random(rows) < 0.1),
        }
    )


def us(moment: datetime) -> int:
    return (moment - EPOCH) // MICROSECOND


class Definition:
    """What each window of ``plan`` is, from all rows; approximate counts are taken to be exact."""

    def __init__(self, plan: TilePlan, rows: pa.Table) -> None:
        self._events: dict[tuple[Any, ...], list[tuple[datetime, Any]]] = defaultdict(list)
        self._clock = {window.name: plan.clock_of(window) for window in plan.windows}
        streams = {(plan.clock_of(window), window.column) for window in plan.windows}
        for row in rows.to_pylist():
            key = tuple(row[k] for k in plan.keys)
            for clock, column in streams:
                value = row[column]
                if row[clock] is not None and value is not None and value == value:
                    self._events[key, clock, column].append((row[clock], value))

    def value(self, window: Window, key: tuple[Any, ...], at: datetime | None) -> Any:
        if at is None or None in key:
            return None
        events = self._events[key, self._clock[window.name], window.column]
        earliest = at - window.length
        return of_events(window.function, [event for event in events if earliest < event[0] <= at])


def of_events(function: str, known: Sequence[tuple[datetime, Any]]) -> Any:
    values = [value for _, value in known]
    if function == "count":
        return len(values)
    if function in ("distinct_count", "approx_distinct_count"):
        return len(set(values))
    if function == "sum":
        return math.fsum(values)
    if not values or (function == "stddev" and len(values) < 2):
        return None
    if function == "last":
        return max(known)[1]
    whole = {"mean": lambda v: math.fsum(v) / len(v), "min": min, "max": max, "stddev": statistics.stdev}
    return whole[function](values)


def same(found: Any, expected: Any, rel: float = 1e-9) -> bool:
    if found is None or expected is None or isinstance(found, str):
        return bool(found == expected)
    return bool(found == expected or abs(found - expected) <= rel * abs(expected))


class Shelf:
    """An online store by the book: packed tiles and pending events by (key, clock, start)."""

    def __init__(self, plan: TilePlan, packed: Sequence[PackedTile]) -> None:
        self.plan = plan
        self.tiles: dict[tuple[Any, ...], PackedTile] = {(t.key, t.clock, t.start_us): t for t in packed}
        self.pending: dict[tuple[Any, ...], bytes] = {}

    def fetch(self, keys: Sequence[tuple[Any, ...]], moments_us: Sequence[int]) -> Fetched:
        """Only what `needed` names."""
        by_key = defaultdict(list)
        for place in {**self.tiles, **self.pending}:
            by_key[place[0]].append(place)
        entries: list[tuple[Any, ...]] = []
        for row, (key, at) in enumerate(zip(keys, moments_us, strict=True)):
            wanted = needed(self.plan, at)
            for place in by_key[key]:
                _, clock, start = place
                if not wanted.first_start <= start <= wanted.last_start:
                    continue
                tile, waiting = self.tiles.get(place), self.pending.get(place)
                events = tile.events if tile and (start in wanted.end_starts or waiting) else None
                entries.append((row, clock, start, tile.moments if tile else None, events, waiting))
        return Fetched(*([list(c) for c in zip(*entries, strict=True)] if entries else [[] for _ in range(6)]))

    def answer(self, keys: Sequence[tuple[Any, ...]], moments_us: Sequence[int]) -> dict[str, list[Any]]:
        """By window one value for each key and moment; None for null."""
        found = answer(self.plan, self.fetch(keys, moments_us), moments_us)
        return {name: [None if value != value else value for value in list(values)] for name, values in found.items()}
