"""Counting distinct values in windows from where each value occurs.

A value is in a run of elements iff an occurrence of it there has no earlier one in the run. For a few runs the
occurrences in each are looked at; for many, an occurrence at ``t`` counts from ``t`` until ``t + length`` or the
value's next occurrence, whichever is sooner, so that the count at ``T`` is entries less exits up to ``T``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from rayplat.data.windows.columns import Floats, Ints
from rayplat.data.windows.distinct import LEVELS, SKETCH, Hashes, at_level, value_hashes
from rayplat.data.windows.elements import Elements, Line

_LATEST = np.iinfo(np.int64).max // 4


@dataclass(frozen=True)
class Occurrences:
    """Where values occur, in order of key and time: key codes, times, the occurrence of the same key and value
    ``before`` each (-1: none), and ``first[i]``, the number of occurrences in the elements before ``i``.

    ``hashes`` and ``levels`` (one for each element) are there for sketches alone.
    """

    codes: Ints
    times: Ints
    before: Ints
    first: Ints
    hashes: Hashes | None
    levels: Ints | None

    @staticmethod
    def of(elements: Elements, column: int, kind: str) -> Occurrences:
        """The occurrences of ``column`` from its distinct sets or, of kind ``sketch``, its sketches."""
        e = elements
        of_raw = e.raw.values[column]
        valid = ~np.isnan(of_raw)
        sizes = np.zeros(len(e.codes), np.int64)
        sizes[e.raw_at] = valid
        values: Any = of_raw[valid]  # doubles, or the hashes of a sketch
        if kind == "sketch":
            values = value_hashes(values, e.texts[column])
        levels = np.zeros(len(sizes), np.int64) if kind == "sketch" else None
        if e.state is not None:
            offsets, kept = e.state.distinct[column] if kind == "distinct" else e.state.sketch[column][:2]
            if levels is not None:
                levels[e.state_at] = e.state.sketch[column][2]
            sizes[e.state_at] = np.diff(offsets)
            of_tile = np.zeros(len(sizes), np.bool_)
            of_tile[e.state_at] = True
            of_tile = np.repeat(of_tile, sizes)
            merged = np.empty(len(of_tile), values.dtype)
            merged[of_tile], merged[~of_tile] = kept, values
            values = merged
        owner = np.repeat(np.arange(len(sizes)), sizes)
        first = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
        hashes = values if kind == "sketch" else None
        return Occurrences(e.codes[owner], e.times[owner], _before(e.codes[owner], values), first, hashes, levels)

    def count(self, codes: Ints, moments: Ints, length_us: int | None, run: tuple[Ints, Ints]) -> Floats:
        """The distinct values in each window: ``run`` are its first element and the one after its last. Without a
        length that all share, each run is gone through for itself."""
        start, end = run
        if self.hashes is None or self.levels is None:
            return self._exact(codes, moments, length_us, run).astype(np.float64)
        level = self._least_level(start, end)
        found = np.zeros(len(start))
        waiting = np.arange(len(start))
        for j in range(LEVELS):
            due = level[waiting] <= j
            if due.any():
                some, rows = self._of_level(j), waiting[due]
                kept = some._exact(codes[rows], moments[rows], length_us, (start[rows], end[rows]))
                found[rows] = np.ldexp(kept.astype(np.float64), j)
                waiting = np.concatenate([waiting[~due], rows[kept > SKETCH]])
            if len(waiting) == 0:
                break
        return found

    def _exact(self, codes: Ints, moments: Ints, length_us: int | None, run: tuple[Ints, Ints]) -> Ints:
        start, end = self.first[run[0]], self.first[run[1]]
        sizes = end - start
        total, many = int(sizes.sum()), len(self.codes)
        if length_us is None or total <= 8 * many or total <= 1 << 12:
            owner = np.repeat(np.arange(len(sizes)), sizes)
            place = np.arange(total) + np.repeat(start - (np.cumsum(sizes) - sizes), sizes)
            new = self.before[place] < start[owner]
            return np.bincount(owner[new], minlength=len(sizes))
        exits = np.full(many, _LATEST)
        again = np.flatnonzero(self.before >= 0)
        exits[self.before[again]] = self.times[again]
        exits = np.minimum(exits, self.times + length_us)
        return end - Line.of(self.codes, exits, ordered=False).before(codes, moments)

    def _of_level(self, level: int) -> Occurrences:
        """The occurrences whose hash is of ``level`` or above."""
        if level == 0 or self.hashes is None:
            return self
        keep = at_level(self.hashes, level)
        count = np.concatenate([np.zeros(1, np.int64), np.cumsum(keep)])
        before = self.before[keep]
        before = np.where(before >= 0, count[np.maximum(before, 0)], -1)
        return Occurrences(self.codes[keep], self.times[keep], before, count[self.first], self.hashes[keep], None)

    def _least_level(self, start: Ints, end: Ints) -> Ints:
        """The highest level among the sketches in each run: below it they lack values."""
        found = np.zeros(len(start), np.int64)
        if self.levels is None or not self.levels.any():
            return found
        for j in range(1, int(self.levels.max()) + 1):
            upto = np.concatenate([np.zeros(1, np.int64), np.cumsum(self.levels >= j)])
            found[upto[end] > upto[start]] = j
        return found


def _before(codes: Ints, values: Floats | Hashes) -> Ints:
    """The place of the last equal key and value before each (-1: none)."""
    order = np.lexsort((values, codes))
    same = (codes[order[1:]] == codes[order[:-1]]) & (values[order[1:]] == values[order[:-1]])
    before = np.full(len(codes), -1, np.int64)
    before[order[1:][same]] = order[:-1][same]
    return before
