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

from rayplat.data.windows.window import Window

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


def change_points(rows: pa.Table, key: str, event_time: str, windows: Sequence[Window]) -> pa.Table:
    """The step functions of ``windows``, one row per key and moment of change.

    ``rows`` holds the events; ``key`` is their join key (null keys are left out). Returns columns ``key``,
    ``event_time`` (``timestamp[us, tz=UTC]``), then one float32 column per window, sorted by time.
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
    line = _Line.of(lengths, len(dictionary.dictionary))
    points = line.changes(lengths)
    at_code, at_time = line.split(points)
    by_time = np.argsort(at_time * len(dictionary.dictionary) + at_code)
    columns: dict[str, Any] = {
        key: dictionary.dictionary.take(pa.array(at_code[by_time])),
        "event_time": pa.array(line.moments(at_time[by_time]), pa.timestamp("us", tz="UTC")),
    }
    placed = {events: line.place(events.codes, events.times) for events in lengths}
    bounds = {
        (events, back): np.searchsorted(placed[events], line.before(points, back), "right")
        for events, shifts in lengths.items()
        for back in shifts
    }
    for w in windows:
        stream = streams[w.event_time or event_time, w.column]
        start, end = bounds[stream.events, _micros(w.length)], bounds[stream.events, 0]
        columns[w.name] = stream.evaluate(w.function, start, end, by_time)
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

    def evaluate(self, function: str, start: Ints, end: Ints, order: Ints) -> pa.Array:
        """The window of each point, whose events are ``start`` to ``end`` (excluded); in ``order``."""
        count = end - start
        if function == "count":
            return pa.array(count.astype(np.float32)[order])
        total = self.sums[end] - self.sums[start] + count * self.offset
        if function == "sum":
            return pa.array(total.astype(np.float32)[order])
        mean = (total / np.maximum(count, 1)).astype(np.float32)
        return pa.array(mean[order], mask=(count == 0)[order])


@dataclass(frozen=True)
class _Line:
    """All keys' times on one line of integers, key after key, ``width`` places each. A place is a multiple of
    ``unit``, the largest that divides all times and lengths; where that takes more than 62 bits, a place is a rank
    among ``ranks`` instead."""

    first: int
    unit: int
    width: int
    ranks: Ints | None

    @staticmethod
    def of(lengths: Mapping[_Events, set[int]], keys: int) -> _Line:
        times = [events.times for events in lengths if len(events.times)]
        if not times:
            return _Line(0, 1, 1, None)
        origin, shifts = int(times[0][0]), {s for found in lengths.values() for s in found}
        unit = math.gcd(*(int(np.gcd.reduce(t - origin)) for t in times), *shifts)
        first = origin - -(-(origin - min(int(t.min()) for t in times) + max(shifts)) // unit) * unit
        width = (max(int(t.max()) for t in times) + max(shifts) - first) // unit + 1
        if keys * width < 2**62:
            return _Line(first, unit, width, None)
        ranks = np.unique(np.concatenate([e.times + s for e, found in lengths.items() for s in found]))
        return _Line(0, 1, len(ranks) + 1, ranks)

    def place(self, codes: Ints, times: Ints) -> Ints:
        at = (times - self.first) // self.unit if self.ranks is None else np.searchsorted(self.ranks, times, "right")
        placed: Ints = codes * self.width + at
        return placed

    def split(self, points: Ints) -> tuple[Ints, Ints]:
        codes, at = np.divmod(points, self.width)
        return codes, at

    def moments(self, at: Ints) -> Ints:
        return self.first + at * self.unit if self.ranks is None else self.ranks[at - 1]

    def before(self, points: Ints, back: int) -> Ints:
        """The points ``back`` microseconds earlier; never so far as to reach the key before."""
        if self.ranks is None:
            return points - back // self.unit
        codes, at = self.split(points)
        return self.place(codes, self.ranks[at - 1] - back)

    def changes(self, lengths: Mapping[_Events, set[int]]) -> Ints:
        """Every place at which an event enters or leaves a window, once, in order."""
        placed = [self.place(e.codes, e.times + s) for e, shifts in lengths.items() for s in shifts]
        points = np.sort(np.concatenate([np.empty(0, np.int64), *placed]))
        return points[np.diff(points, prepend=-1) > 0]


def _micros(length: timedelta) -> int:
    return length // timedelta(microseconds=1)
