"""The value of every window at any moment: the one evaluation that backfill, refresh, push and online reads share.

A window ``(T - length, T]`` is a run of `Elements`: whole tiles in its body, single events at its two ends. Sums come
from exact running sums, extremes from runs of doubled length, the last value from its place, distinct values from
their occurrences (see `occurrences`). Nothing later than ``T`` is in the run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rayplat.data.windows.elements import Elements
from rayplat.data.windows.exact import Floats, Ints, Pair, Prefixes, prefixes, spread
from rayplat.data.windows.moments import last_values
from rayplat.data.windows.occurrences import Occurrences
from rayplat.data.windows.window import Clock, Window
from rayplat.errors import InvalidInput

_BLOCK = 1 << 15


@dataclass(frozen=True)
class Runs:
    """Where windows lie: for ``lengths`` one after the other and all keys and moments in each, the window's first
    element and the one after its last."""

    codes: Ints
    moments: Ints
    lengths: tuple[int, ...]
    start: Ints
    end: Ints


class ClockValues:
    """The values of one clock's windows over ``elements``; ``tile_us`` is the tiles' length."""

    def __init__(self, clock: Clock, elements: Elements, tile_us: int) -> None:
        self._clock, self._elements, self._tile_us = clock, elements, tile_us
        self._line = elements.line
        counts = np.zeros((len(elements.n), elements.n.shape[1] + 1), np.int64)
        np.cumsum(elements.n, axis=1, out=counts[:, 1:])
        self._counts = counts
        self._sums: dict[str, _Sums] = {}
        self._last: tuple[Floats, Ints] | None = None
        self._occurrences: dict[tuple[int, str], Occurrences] = {}

    def at(self, codes: Ints, moments: Ints) -> dict[str, Floats]:
        """By window name its value for each key code (-1: no such key) and moment; NaN stands for null."""
        found: dict[str, Floats] = {}
        ends = self._ends(codes, moments)
        for windows in _alike(self._clock.windows):
            lengths = tuple(sorted({w.length_us for w in windows}))
            starts = [self._ends(codes, moments - length) for length in lengths]
            runs = Runs(codes, moments, lengths, np.concatenate(starts), np.tile(ends, len(lengths)))
            found |= self._group(windows, runs)
        return found

    def _ends(self, codes: Ints, moments: Ints) -> Ints:
        """The number of elements up to each moment, which must not lie within a whole tile."""
        ends = self._line.before(codes, moments)
        e = self._elements
        if e.state is not None and len(e.codes):
            last = np.maximum(ends - 1, 0)
            cut = e.whole[last] & (e.codes[last] == codes) & (e.times[last] + self._tile_us > moments + 1) & (ends > 0)
            if cut.any():
                at = int(e.times[last][cut][0])
                raise InvalidInput(
                    "tiles", f"a window ends within the tile at {at} microseconds: its events are needed"
                )
        return ends

    def _group(self, windows: Sequence[Window], runs: Runs) -> dict[str, Floats]:
        """Windows that ask the same of each length: every part is made once for all columns and lengths."""
        clock, size = self._clock, len(runs.codes)
        columns = sorted({clock.columns.index(w.column) for w in windows})
        rows = {name: _rows(clock, name, windows) for name in ("sum", "squares", "min", "max", "last")}
        count = {j: self._counts[j].take(runs.end) - self._counts[j].take(runs.start) for j in columns}
        total = self._summed("sum", rows["sum"], runs)
        square = self._summed("squares", rows["squares"], runs)
        low, high = self._extremes(rows["min"], rows["max"], runs)
        last = self._latest(rows["last"], runs)
        found: dict[str, Floats] = {}
        spreads: dict[int, Floats] = {}
        for w in windows:
            j, i = clock.columns.index(w.column), runs.lengths.index(w.length_us)
            if w.function == "count":
                whole = count[j].astype(np.float64)
            elif w.function in ("sum", "mean"):
                whole = total[j][0]
                if w.function == "mean":
                    whole = np.where(count[j] > 0, whole / np.maximum(count[j], 1), np.nan)
            elif w.function == "stddev":
                if j not in spreads:
                    spreads[j] = spread(count[j], total[j], square[j], high[j] - low[j])
                whole = spreads[j]
            elif w.function in ("min", "max"):
                extreme = (low if w.function == "min" else high)[j]
                whole = np.where(count[j] > 0, extreme, np.nan)
            elif w.function == "last":
                whole = last[j]
            else:
                found[w.name] = self._distinct(j, w, runs, slice(i * size, (i + 1) * size))
                continue
            found[w.name] = whole[i * size : (i + 1) * size]
        return found

    def _summed(self, name: str, columns: Sequence[int], runs: Runs) -> dict[int, Pair]:
        if not columns:
            return {}
        if name not in self._sums:
            self._sums[name] = _Sums.of(self._elements.states[name], self._elements.states.get(f"{name}_lo"))
        having = self._clock.having(name)
        hi, lo = self._sums[name].between([having.index(j) for j in columns], runs.start, runs.end)
        return {j: (hi[row], lo[row]) for row, j in enumerate(columns)}

    def _extremes(
        self, low: Sequence[int], high: Sequence[int], runs: Runs
    ) -> tuple[dict[int, Floats], dict[int, Floats]]:
        """Smallest and largest of each run; runs of a power of two are doubled level by level in place."""
        if not low and not high:
            return {}, {}
        states, clock = self._elements.states, self._clock
        parts = [states["min"][[clock.having("min").index(j) for j in low]]] if low else []
        parts += [-states["max"][[clock.having("max").index(j) for j in high]]] if high else []
        found = smallest(np.concatenate(parts), runs.start, runs.end)
        lows = {j: found[row] for row, j in enumerate(low)}
        return lows, {j: -found[len(low) + row] for row, j in enumerate(high)}

    def _latest(self, columns: Sequence[int], runs: Runs) -> dict[int, Floats]:
        if not columns:
            return {}
        e = self._elements
        if self._last is None:
            same = np.zeros(len(e.codes), np.bool_)
            same[1:] = (e.codes[1:] == e.codes[:-1]) & (e.times[1:] == e.times[:-1])
            self._last = last_values(e.states["last"], same)
        values, place = self._last
        found = {}
        for j in columns:
            row = self._clock.having("last").index(j)
            padded = np.append(place[row], -1)
            at = np.where(runs.end > runs.start, padded[runs.end - 1], -1)
            latest = np.append(values[row], np.nan)[at]
            found[j] = np.where(at >= runs.start, latest, np.nan)
        return found

    def _distinct(self, column: int, window: Window, runs: Runs, part: slice) -> Floats:
        kind = "distinct" if window.function == "distinct_count" else "sketch"
        if (column, kind) not in self._occurrences:
            self._occurrences[column, kind] = Occurrences.of(self._elements, column, kind)
        counted = self._occurrences[column, kind]
        return counted.count(runs.codes, runs.moments, window.length_us, (runs.start[part], runs.end[part]))


@dataclass(frozen=True)
class _Sums:
    """Running sums of pairs; the second parts are terms of their own (``step`` 2) unless all are zero."""

    sums: Prefixes
    step: int

    @staticmethod
    def of(hi: Floats, lo: Floats | None) -> _Sums:
        if lo is None or not lo.any():
            return _Sums(prefixes(hi), 1)
        return _Sums(prefixes(np.stack([hi, lo], axis=2).reshape(len(hi), -1)), 2)

    def between(self, rows: Sequence[int], start: Ints, end: Ints) -> Pair:
        sums = self.sums.rows(rows)
        if len(start) <= _BLOCK:
            return sums.between(start * self.step, end * self.step)
        hi, lo = np.empty((len(rows), len(start))), np.empty((len(rows), len(start)))
        for at in range(0, len(start), _BLOCK):  # blocks that stay in the processor's cache
            block = slice(at, at + _BLOCK)
            hi[:, block], lo[:, block] = sums.between(start[block] * self.step, end[block] * self.step)
        return hi, lo


def smallest(values: Floats, start: Ints, end: Ints) -> Floats:
    """The smallest of ``values[:, start:end]`` for each run, infinite for empty ones.

    A run is covered by two overlapping runs of the largest power of two that fits (a sparse table, of which only one
    level is held at a time).
    """
    found = np.full((len(values), len(start)), np.inf)
    level = np.frexp((end - start).astype(np.float64))[1] - 1
    for k in range(int(level.max(initial=-1)) + 1):
        if k:
            half = 1 << (k - 1)
            values = np.minimum(values[:, :-half], values[:, half:])
        at = np.flatnonzero(level == k)
        if len(at):
            found[:, at] = np.minimum(values.take(start[at], axis=1), values.take(end[at] - (1 << k), axis=1))
    return found


def _rows(clock: Clock, state: str, windows: Sequence[Window]) -> list[int]:
    """The columns for which ``windows`` need ``state``."""
    return [j for j in clock.having(state) if any(state in w.needs and clock.columns[j] == w.column for w in windows)]


def _alike(windows: Sequence[Window]) -> list[list[Window]]:
    """Windows grouped so that within a group every length is asked for the same functions of the same columns."""
    of_length: dict[int, list[Window]] = {}
    for w in windows:
        of_length.setdefault(w.length_us, []).append(w)
    groups: dict[frozenset[tuple[str, str]], list[Window]] = {}
    for same in of_length.values():
        groups.setdefault(frozenset((w.function, w.column) for w in same), []).extend(same)
    return list(groups.values())
