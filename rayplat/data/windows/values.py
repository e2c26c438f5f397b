"""The value of every window at any moment: the one evaluation that backfill, refresh, push and online reads share.

A window ``(T - length, T]`` is a run of `Elements`: whole tiles in its body, single events at its two ends. Sums come
from exact running sums, extremes from runs of doubled length, the last value from its place, distinct values from
their occurrences. Nothing later than ``T`` is in the run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from rayplat.data.windows.elements import Elements, padded
from rayplat.data.windows.exact import Floats, Ints, Nested, Pair, Prefixes, direct, prefixes, spread
from rayplat.data.windows.moments import last_values
from rayplat.data.windows.occurrences import Occurrences
from rayplat.data.windows.plan import Clock, Group
from rayplat.errors import InvalidInput

_BLOCK = 1 << 15
_DISTINCT = ("distinct_count", "approx_distinct_count")
_SHORT = 1 << 20  # elements
_FEW = 1 << 10  # moments, up to which one pass over all windows is cheaper than only what each length needs


@dataclass(frozen=True)
class Runs:
    """Where windows lie: for each length (the first axis) the first element at each moment, and for each moment the
    one after the last."""

    codes: Ints
    moments: Ints
    starts: Ints
    ends: Ints

    @cached_property
    def flat(self) -> tuple[Ints, Ints]:
        """First elements and ends of all lengths, one length after the other."""
        return self.starts.reshape(-1), np.broadcast_to(self.ends, self.starts.shape).reshape(-1)

    @property
    def few(self) -> bool:
        return len(self.ends) <= _FEW

    @cached_property
    def short(self) -> bool:
        """Whether each run can be gone through for itself."""
        return self.few and int((self.ends - self.starts).sum()) <= _SHORT

    @cached_property
    def nested(self) -> Nested:
        return Nested.of(self.starts, self.ends)

    def each(self) -> Iterator[Runs]:
        """One length at a time, where all together would take too much memory."""
        if self.few:
            yield self
        else:
            for start in self.starts:
                yield Runs(self.codes, self.moments, start[None], self.ends)


class ClockValues:
    """The values of one clock's windows over ``elements``; ``tile_us`` is the tiles' length."""

    def __init__(self, clock: Clock, elements: Elements, tile_us: int) -> None:
        self._clock, self._elements = clock, elements
        self._line = elements.line
        self._whole_until = None if elements.state is None else elements.whole_until(tile_us)
        self._sums: dict[str, _Sums] = {}
        self._occurrences: dict[tuple[int, str], Occurrences] = {}

    def at(self, codes: Ints, moments: Ints) -> dict[str, Floats]:
        """By window name its value for each key code (-1: no such key) and moment; NaN stands for null."""
        found: dict[str, Floats] = {}
        for group in (self._clock.together,) if len(codes) <= _FEW else self._clock.alike:
            bounds = self._ends(codes, moments - group.backs_us)
            found |= self._group(group, Runs(codes, moments, bounds[1:], bounds[0]))
        return found

    @cached_property
    def _words(self) -> Floats:
        """`Elements.words`, where all are single events too."""
        e, clock = self._elements, self._clock
        return padded(clock, {"n": e.n, **e.states}) if e.words is None else e.words

    @cached_property
    def _counts(self) -> Ints:
        n = self._elements.n
        counts = np.zeros((len(n), n.shape[1] + 1), np.int64)
        np.cumsum(n, axis=1, dtype=np.int64, out=counts[:, 1:])
        return counts

    def _ends(self, codes: Ints, moments: Ints) -> Ints:
        """The number of elements up to each moment, which must not lie within a whole tile."""
        ends = self._line.before(codes, moments)
        e = self._elements
        if self._whole_until is not None:
            last = np.maximum(ends - 1, 0)
            cut = (self._whole_until[last] > moments) & (e.codes[last] == codes) & (ends > 0)
            if cut.any():
                at = int(e.times[last][cut][0])
                raise InvalidInput(
                    "tiles", f"a window ends within the tile at {at} microseconds: its events are needed"
                )
        return ends

    def _group(self, group: Group, runs: Runs) -> dict[str, Floats]:
        """Every part is made once for all columns and lengths that need it."""
        low, high = self._extremes(group, runs)
        found: dict[str, Floats] = {}
        for first, part in enumerate(runs.each()):
            here = slice(first * part.starts.size, (first + 1) * part.starts.size)
            rows = self._rows(group, part, low[:, here], high[:, here])
            last = first + len(part.starts)
            found |= {
                name: rows[what][i - first] for name, what, i in group.places if first <= i < last and what in rows
            }
        for name, (function, column), i in () if runs.few else group.places:
            if function in _DISTINCT:
                counted = self._distinct(self._clock.columns.index(column), function)
                run = runs.starts[i], runs.ends
                found[name] = counted.count(runs.codes, runs.moments, group.lengths_us[i], run)
        return found

    def _rows(self, group: Group, runs: Runs, low: Floats, high: Floats) -> dict[tuple[str, str], Floats]:
        """By function and column its values ``(lengths, moments)``."""
        start, end = runs.flat
        if runs.short:
            count: npt.NDArray[Any] = runs.nested.reduce(np.add, self._words[self._clock.rows["n"]], 0.0)
        else:
            count = self._counts.take(end, axis=1) - self._counts.take(start, axis=1)
        state = {name: list(columns) for name, columns in group.of_state.items()}
        total, square = self._moments(state, runs)
        empty = count == 0
        found: dict[tuple[str, str], Floats] = {}
        for function, columns in group.of_function.items():
            own = list(columns)
            if function == "count":
                values = count[own].astype(np.float64)
            elif function in ("sum", "mean"):
                values = total[0][_at(own, state["sum"])]
                if function == "mean":
                    values = np.where(empty[own], np.nan, values / np.maximum(count[own], 1))
            elif function == "stddev":
                own_sum, own_square = _at(own, state["sum"]), _at(own, state["squares"])
                span = high[_at(own, state["max"])] - low[_at(own, state["min"])]
                sums = (total[0][own_sum], total[1][own_sum])
                values = spread(count[own], sums, (square[0][own_square], square[1][own_square]), span)
            elif function in ("min", "max"):
                extreme = (low if function == "min" else high)[_at(own, state[function])]
                values = np.where(empty[own], np.nan, extreme)
            elif function == "last":
                values = self._latest(own, start, end)
            elif runs.few:
                values = self._counted(own, function, runs)
            else:  # each window by itself: see `_group`
                continue
            values = values.reshape(len(own), *runs.starts.shape)
            found |= {(function, self._clock.columns[j]): values[row] for row, j in enumerate(own)}
        return found

    def _moments(self, columns: Mapping[str, list[int]], runs: Runs) -> tuple[Pair, Pair]:
        """Sums and sums of squares; in short runs all in one go."""
        of_clock = self._clock.of_sums
        if runs.short and of_clock is not None:
            rows, first, second = of_clock
            if found := direct(self._words[rows], first, second, runs.nested):
                cut = len(self._clock.having("sum"))
                return (found[0][:cut], found[1][:cut]), (found[0][cut:], found[1][cut:])
        return self._summed("sum", columns.get("sum", []), runs), self._summed(
            "squares", columns.get("squares", []), runs
        )

    def _summed(self, name: str, columns: Sequence[int], runs: Runs) -> Pair:
        if not columns:
            return np.empty((0, 0)), np.empty((0, 0))
        hi, lo = self._elements.states[name], self._elements.states.get(f"{name}_lo")
        if name not in self._sums:
            self._sums[name] = _Sums.of(hi, lo)
        having = self._clock.having(name)
        return self._sums[name].between([having.index(j) for j in columns], *runs.flat)

    def _extremes(self, group: Group, runs: Runs) -> Pair:
        """Smallest and largest of each run, for the columns of the group that need them."""
        if runs.short:
            return self._extreme(np.minimum, "min", np.inf, runs), self._extreme(np.maximum, "max", -np.inf, runs)
        states, clock = self._elements.states, self._clock
        low, high = group.of_state.get("min", ()), group.of_state.get("max", ())
        parts = [states["min"][_at(low, clock.having("min"))]] if low else []
        parts += [-states["max"][_at(high, clock.having("max"))]] if high else []
        if not parts:
            return np.empty((0, 0)), np.empty((0, 0))
        found = smallest(np.concatenate(parts), *runs.flat)
        return found[: len(low)], -found[len(low) :]

    def _extreme(self, how: np.ufunc, name: str, nothing: float, runs: Runs) -> Floats:
        rows = self._clock.rows.get(name)
        return np.empty((0, 0)) if rows is None else runs.nested.reduce(how, self._words[rows], nothing)

    @cached_property
    def _last(self) -> tuple[Floats, Ints]:
        e = self._elements
        same = np.zeros(len(e.codes), np.bool_)
        same[1:] = (e.codes[1:] == e.codes[:-1]) & (e.times[1:] == e.times[:-1])
        return last_values(e.states["last"], same)

    def _latest(self, columns: Sequence[int], start: Ints, end: Ints) -> Floats:
        values, place = self._last
        having = self._clock.having("last")
        rows = np.array([having.index(j) for j in columns])[:, None]
        if place.shape[1] == 0:
            return np.full((len(columns), len(end)), np.nan)
        at = place[rows, end - 1]
        return np.where((at >= start) & (end > start), values[rows, at], np.nan)

    def _counted(self, columns: Sequence[int], function: str, runs: Runs) -> Floats:
        codes, moments = (np.tile(x, len(runs.starts)) for x in (runs.codes, runs.moments))
        counted = (self._distinct(j, function) for j in columns)
        return np.array([occurrences.count(codes, moments, None, runs.flat) for occurrences in counted])

    def _distinct(self, column: int, function: str) -> Occurrences:
        kind = "distinct" if function == "distinct_count" else "sketch"
        if (column, kind) not in self._occurrences:
            self._occurrences[column, kind] = Occurrences.of(self._elements, column, kind)
        return self._occurrences[column, kind]


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


def _at(columns: Sequence[int], among: Sequence[int]) -> Sequence[int] | slice:
    """Where ``columns`` stand in ``among``: all of them without a copy."""
    return slice(None) if len(columns) == len(among) else [among.index(j) for j in columns]
