"""Trailing-window aggregates as step functions of time. Pure numpy and Arrow: knows no table, store or Ray.

A window ``(T - length, T]`` over events changes its value only when an event enters (at its own time ``t``)
or leaves (at ``t + length``). So the whole function of ``T`` is stored by its change points: one row per key
and change time with all windows of the view evaluated there, and an as-of join on those rows gives the exact
value of every window at any moment. A row at ``t`` depends on events up to ``t`` alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rayplat.errors import InvalidInput

FUNCTIONS = ("count", "sum", "mean")

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Window:
    """One feature: ``function`` of ``column`` over the trailing ``length``.

    ``event_time`` is the column that says when the value became known; None takes the view's own.
    Null and NaN values are no events: ``count`` counts the others. An empty window has count 0, sum 0, mean null.
    """

    name: str
    column: str
    function: str
    length: timedelta
    event_time: str | None = None

    def __post_init__(self) -> None:
        if self.function not in FUNCTIONS:
            raise InvalidInput(f"window {self.name}", f"function {self.function!r} is none of {', '.join(FUNCTIONS)}")
        if self.length <= timedelta(0):
            raise InvalidInput(f"window {self.name}", f"length must be positive, got {self.length}")


def change_points(rows: pa.Table, key: str, event_time: str, windows: Sequence[Window]) -> pa.Table:
    """The step functions of ``windows``, one row per key and moment of change.

    ``rows`` holds the events; ``key`` is their join key (null keys are left out). Returns columns ``key``,
    ``event_time`` (``timestamp[us, tz=UTC]``), then one float32 column per window, sorted by key and time.
    """
    dictionary = pc.dictionary_encode(rows[key]).combine_chunks()
    if isinstance(dictionary, pa.ChunkedArray):  # combine_chunks keeps an empty column chunked
        dictionary = pa.DictionaryArray.from_arrays(pa.array([], pa.int32()), pa.array([], rows.schema.field(key).type))
    codes = dictionary.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    sources = dict.fromkeys((w.event_time or event_time, w.column) for w in windows)
    streams = _Stream.read(rows, codes, list(sources))
    lengths: dict[_Events, set[int]] = {}
    for w in windows:
        lengths.setdefault(streams[w.event_time or event_time, w.column].events, {0}).add(_micros(w.length))
    order = _Order.of(lengths, len(dictionary.dictionary))
    at_code, at_time = order.moments(lengths)
    columns: dict[str, Any] = {
        key: dictionary.dictionary.take(pa.array(at_code)),
        "event_time": pa.array(at_time, pa.timestamp("us", tz="UTC")),
    }
    bounds = {
        (events, back): np.searchsorted(
            order.place(events.codes, events.times), order.place(at_code, at_time - back), "right"
        )
        for events, shifts in lengths.items()
        for back in shifts
    }
    for w in windows:
        stream = streams[w.event_time or event_time, w.column]
        start, end = bounds[stream.events, _micros(w.length)], bounds[stream.events, 0]
        columns[w.name] = stream.evaluate(w.function, start, end)
    return pa.table(columns)


@dataclass(frozen=True, eq=False)
class _Events:
    """When something happened to which key, sorted by key code and time; equal only to itself."""

    codes: Ints
    times: Ints


@dataclass(frozen=True)
class _Stream:
    """The values of one column at ``events``. ``sums[i]`` is the sum of the first ``i`` values less ``offset``
    each: an integer near the mean, so integers stay exact and others lose little."""

    events: _Events
    sums: Floats
    offset: float

    @staticmethod
    def read(rows: pa.Table, codes: Ints, sources: list[tuple[str, str]]) -> dict[tuple[str, str], _Stream]:
        """One stream per (time column, value column). Columns that are null in the same rows share their events."""
        found: dict[tuple[str, str], _Stream] = {}
        shared: dict[tuple[str, bytes], tuple[Ints, _Events]] = {}
        for time_column, column in sources:
            times = rows[time_column].cast(pa.timestamp("us", tz="UTC")).cast(pa.int64())
            values = rows[column].cast(pa.float64()).to_numpy()
            keep = (codes >= 0) & ~np.isnan(values) & times.is_valid().to_numpy()
            same = (time_column, np.packbits(keep).tobytes())
            if same not in shared:
                time, code = times.fill_null(0).to_numpy()[keep], codes[keep]
                order = np.lexsort((time, code))
                shared[same] = order, _Events(code[order], time[order])
            order, events = shared[same]
            kept = values[keep]
            offset = float(np.round(kept.mean())) if len(kept) else 0.0
            sums = np.concatenate([[0.0], np.cumsum(kept[order] - offset)])
            found[time_column, column] = _Stream(events, sums, offset)
        return found

    def evaluate(self, function: str, start: Ints, end: Ints) -> pa.Array:
        """The window of each point, whose events are ``start`` to ``end`` (excluded)."""
        count = (end - start).astype(np.float64)
        if function == "count":
            return pa.array(count.astype(np.float32))
        total = self.sums[end] - self.sums[start] + count * self.offset
        if function == "sum":
            return pa.array(total.astype(np.float32))
        empty = count == 0
        return pa.array((total / np.where(empty, 1.0, count)).astype(np.float32), mask=empty)


@dataclass(frozen=True)
class _Order:
    """Puts (key code, time) pairs in order by one integer: times count in the largest ``unit`` that divides all of
    them. Where that does not fit into 63 bits, they enter by their rank among ``ranks`` instead."""

    first: int
    unit: int
    width: int
    ranks: Ints | None

    @staticmethod
    def of(lengths: Mapping[_Events, set[int]], keys: int) -> _Order:
        times = [events.times for events in lengths if len(events.times)]
        if not times:
            return _Order(0, 1, 1, None)
        longest = max(max(shifts) for shifts in lengths.values())
        first = min(int(t.min()) for t in times) - longest - 1
        last = max(int(t.max()) for t in times) + longest
        steps = [int(np.gcd.reduce(t - times[0][0])) for t in times] + [
            s for shifts in lengths.values() for s in shifts
        ]
        unit = math.gcd(*steps) or 1
        width = (last - first) // unit + 2
        if keys * width < 2**62:
            return _Order(first - (first - int(times[0][0])) % unit, unit, width, None)
        ranks = np.unique(np.concatenate([e.times + s for e, shifts in lengths.items() for s in shifts]))
        return _Order(0, 1, len(ranks) + 1, ranks)

    def place(self, codes: Ints, times: Ints) -> Ints:
        at = (times - self.first) // self.unit if self.ranks is None else np.searchsorted(self.ranks, times, "right")
        placed: Ints = codes * self.width + at
        return placed

    def moments(self, lengths: Mapping[_Events, set[int]]) -> tuple[Ints, Ints]:
        """Key codes and times of every change, each once, in order."""
        placed = [self.place(e.codes, e.times + s) for e, shifts in lengths.items() for s in shifts]
        points = np.sort(np.concatenate([np.empty(0, np.int64), *placed]))
        points = points[np.diff(points, prepend=-1) > 0]
        codes, at = np.divmod(points, self.width)
        return codes, self.first + at * self.unit if self.ranks is None else self.ranks[at - 1]


def _micros(length: timedelta) -> int:
    return length // timedelta(microseconds=1)
