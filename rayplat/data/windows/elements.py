"""What a window is put together from: each tile either by its state or by its events, in order of key and time.

A tile that holds an end of a window is taken apart into its events, any other stands as one element; a window is then
one run of elements. States and events give the same result, for states merge without loss (see `exact`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from rayplat.data.windows.columns import Floats, Ints, Texts
from rayplat.data.windows.distinct import Hashes
from rayplat.data.windows.moments import of_events as event_states
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
    """The states of the other tiles: ``words (rows, tiles)`` with the rows of `Clock.rows`, and by column the offsets
    and values of distinct sets, the offsets, hashes and levels of sketches."""

    words: Floats
    distinct: Mapping[int, tuple[Ints, Floats]] = field(default_factory=dict)
    sketch: Mapping[int, tuple[Ints, Hashes, Ints]] = field(default_factory=dict)


@dataclass(frozen=True)
class Elements:
    """The elements of one clock in order: ``codes``, ``times`` (of a tile: its start) and what each contributes.

    ``states`` has the parts of `PARTS` but ``distinct`` and ``sketch``. ``raw`` and ``state`` are what this was made
    from (``state`` None where every tile is taken apart), at the elements ``raw_at`` and ``state_at``. Where there are
    states, ``words (rows, elements + 1)`` holds ``n`` and all of ``states`` by `Clock.rows`; its last column adds
    nothing to any of them.
    """

    codes: Ints
    times: Ints
    n: npt.NDArray[Any]
    states: Mapping[str, Floats]
    texts: tuple[Texts | None, ...]
    raw: RawPart
    raw_at: Ints
    state: StatePart | None
    state_at: Ints
    words: Floats | None = None

    def whole_until(self, tile_us: int) -> Ints:
        """The last microsecond of each tile that stands as one; the oldest time there is for single events."""
        until = np.full(len(self.codes), np.iinfo(np.int64).min)
        until[self.state_at] = self.times[self.state_at] + (tile_us - 1)
        return until

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
    single = event_states(clock, raw.values, valid)
    single["last"] = raw.values[list(clock.having("last"))]
    if state is None:
        of_raw, nowhere = np.repeat(codes, raw.counts), np.empty(0, np.int64)
        return Elements(of_raw, raw.times, valid, single, texts, raw, np.arange(len(of_raw)), None, nowhere)
    sizes = np.ones(len(codes), np.int64)
    sizes[apart] = raw.counts
    ends = np.cumsum(sizes)
    whole = ~apart
    at, among = ends[whole] - 1, spans((ends - sizes)[apart], raw.counts)
    size = int(ends[-1])

    def mixed(of_tiles: Ints, of_events: Ints) -> Ints:
        found = np.empty(size, np.int64)
        found[at], found[among] = of_tiles, of_events
        return found

    of_events = padded(clock, {"n": valid, **single})
    words = np.empty((clock.width, size + 1))
    words[:, at], words[:, among], words[:, -1] = state.words, of_events[:, :-1], of_events[:, -1]
    states = {name: words[rows, :-1] for name, rows in clock.rows.items()}
    order = mixed(codes[whole], np.repeat(codes[apart], raw.counts)), mixed(starts[whole], raw.times)
    return Elements(*order, states.pop("n"), states, texts, raw, among, state, at, words)


def padded(clock: Clock, parts: Mapping[str, npt.NDArray[Any]]) -> Floats:
    """``parts`` by `Clock.rows` as one matrix, with a last column that adds nothing; second parts of sums that are
    not there are zero."""
    words = np.zeros((clock.width, parts["n"].shape[1] + 1))
    for name, rows in clock.rows.items():
        if name in parts:
            words[rows, :-1] = parts[name]
    for name, nothing in (("min", np.inf), ("max", -np.inf)):
        if name in clock.rows:
            words[clock.rows[name], -1] = nothing
    return words


def spans(starts: Ints, counts: Ints) -> Ints:
    """The numbers ``starts[i] … starts[i] + counts[i] - 1`` of all i."""
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    found: Ints = np.arange(total) + np.repeat(starts - (ends - counts), counts)
    return found
