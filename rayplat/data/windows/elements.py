"""What a window is put together from: each tile either by its state or by its events, in order of key and time.

A tile that holds an end of a window is taken apart into its events, any other stands as one element; a window is then
one run of elements. States and events give the same result, for states merge without loss (see `exact`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from rayplat.data.windows.columns import Floats, Ints, Texts
from rayplat.data.windows.distinct import Hashes
from rayplat.data.windows.moments import of_events
from rayplat.data.windows.plan import Clock

Flags = npt.NDArray[np.bool_]
_SPAN = 2**62


@dataclass(frozen=True)
class Line:
    """Times of keys as one sorted integer each, ``width`` places a key: by microseconds since ``first``, or by rank
    among ``ranks`` where that takes more than 62 bits."""

    places: Ints
    first: int
    width: int
    ranks: Ints | None

    @staticmethod
    def of(codes: Ints, times: Ints, *, ordered: bool = True) -> Line:
        if len(times) == 0:
            return Line(np.empty(0, np.int64), 0, 2, None)
        first, last = int(times.min()), int(times.max())
        line = Line(times, first, last - first + 2, None)
        if (int(codes.max()) + 1) * line.width >= _SPAN:
            ranks = np.unique(times)
            line = Line(times, 0, len(ranks) + 1, ranks)
        places = line._place(codes, times)
        return Line(places if ordered else np.sort(places), line.first, line.width, line.ranks)

    def before(self, codes: Ints, moments: Ints) -> Ints:
        """How many lie at or before each key and moment; all of the keys before it count. 0 for code -1."""
        return np.searchsorted(self.places, self._place(codes, moments), "right")

    def _place(self, codes: Ints, moments: Ints) -> Ints:
        if self.ranks is not None:
            return codes * self.width + np.searchsorted(self.ranks, moments, "right")
        return codes * self.width + np.minimum(np.maximum(moments - (self.first - 1), 0), self.width - 1)


@dataclass(frozen=True)
class RawPart:
    """The events of the tiles that are taken apart: how many each has, their times and ``(columns, events)`` values."""

    counts: Ints
    times: Ints
    values: Floats


@dataclass(frozen=True)
class StatePart:
    """The states of the other tiles: ``n (columns, tiles)``, the parts by name (rows as in `Clock.having`), and by
    column the offsets and values of distinct sets, the offsets, hashes and levels of sketches."""

    n: Ints
    states: Mapping[str, Floats]
    distinct: Mapping[int, tuple[Ints, Floats]] = field(default_factory=dict)
    sketch: Mapping[int, tuple[Ints, Hashes, Ints]] = field(default_factory=dict)


@dataclass(frozen=True)
class Elements:
    """The elements of one clock in order: ``codes``, ``times`` (of a tile: its start) and what each contributes.

    ``whole`` marks tiles that stand as one. ``states`` has the parts of `PARTS` but ``distinct`` and ``sketch``, which
    are in ``state`` at the elements ``state_at``; ``values`` are those of events, NaN for whole tiles.
    """

    codes: Ints
    times: Ints
    whole: Flags
    n: Ints
    states: Mapping[str, Floats]
    values: Floats
    texts: tuple[Texts | None, ...]
    state: StatePart | None
    state_at: Ints

    @property
    def line(self) -> Line:
        return Line.of(self.codes, self.times)


def assemble(
    clock: Clock,
    tiles: tuple[Ints, Ints, Flags],
    raw: RawPart,
    state: StatePart | None,
    texts: tuple[Texts | None, ...],
) -> Elements:
    """``tiles`` are their key codes, starts, and which are taken apart (``raw``; the others are ``state``, None where
    there are none), in order of key and start."""
    codes, starts, apart = tiles
    valid = ~np.isnan(raw.values)
    single = of_events(clock, raw.values, valid)
    single["last"] = raw.values[list(clock.having("last"))]
    if state is None:
        of_raw = np.repeat(codes, raw.counts)
        whole = np.zeros(len(of_raw), np.bool_)
        nowhere = np.empty(0, np.int64)
        return Elements(of_raw, raw.times, whole, valid, single, raw.values, texts, None, nowhere)
    sizes = np.ones(len(codes), np.int64)
    sizes[apart] = raw.counts
    owner = np.repeat(np.arange(len(codes)), sizes)
    whole = ~apart[owner]
    at, among = np.flatnonzero(whole), np.flatnonzero(~whole)
    times = starts[owner]
    times[among] = raw.times
    n = np.empty((len(valid), len(owner)), np.int64)
    n[:, at], n[:, among] = state.n, valid
    values = np.full(n.shape, np.nan)
    values[:, among] = raw.values
    mixed: dict[str, Floats] = {}
    for name, parts in state.states.items():
        mixed[name] = np.zeros((len(parts), len(owner)))
        mixed[name][:, at] = parts
        if name in single:
            mixed[name][:, among] = single[name]
    return Elements(codes[owner], times, whole, n, mixed, values, texts, state, at)
