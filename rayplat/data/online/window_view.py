"""Reading a view of windows at the request's own moment: from tiles, the events at their ends, and pushed events.

The store is asked for the tiles that the longest window touches; `rayplat.data.windows` evaluates them, as it does for
training. So a value is exact at any moment, between materializations too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rayplat.data.features import FeatureView
from rayplat.data.online.states import MISSING, PRESENT, UNKEPT
from rayplat.data.online.store import FoundTiles, OnlineStore, TilesOf
from rayplat.data.online.tile_rows import HORIZON, read_horizon
from rayplat.data.windows import Fetched, answer, needed


@dataclass(frozen=True)
class Asked:
    """What was asked of the store for some keys and moments. ``questions`` are the distinct (key, moment) among them;
    ``places`` has for each row the number of its question, -1 for a row without a key."""

    questions: list[tuple[bytes, int]]
    places: list[int]
    tiles: list[TilesOf]


class WindowReader:
    """One version of a view of windows."""

    def __init__(self, view: FeatureView) -> None:
        self._id, self._plan, self._columns = view.id, view.plan, view.columns
        self._clocks = [clock.name for clock in self._plan.clocks]
        self._lengths = {window.name: window.length_us for window in view.windows}
        self._longest = max(self._lengths.values())

    def ask(self, keys: Sequence[bytes | None], moments: Sequence[int]) -> Asked:
        """The first question is how far back the view is kept, then come clock by clock those of each key."""
        found: dict[tuple[bytes, int], int] = {}
        places = [
            -1 if key is None else found.setdefault((key, at), len(found))
            for key, at in zip(keys, moments, strict=True)
        ]
        tile, tiles = self._plan.tile_us, [TilesOf(self._id, *HORIZON[:2], HORIZON[2], HORIZON[2], ())]
        spans = {at: needed(self._plan, at) for at in {at for _, at in found}}
        for key, at in found:
            first, last, ends = spans[at]
            numbers = tuple(start // tile for start in ends)
            tiles += [TilesOf(self._id, key, c, first // tile, last // tile, numbers) for c in range(len(self._clocks))]
        return Asked(list(found), places, tiles)

    def answer(self, asked: Asked, found: Sequence[FoundTiles]) -> tuple[list[str], list[list[Any]]]:
        """The state of each row and the values by column. A key without events has what empty windows give."""
        horizon, per = read_horizon(found[0]), len(self._clocks)
        moments = [at for _, at in asked.questions]
        of_question = (found[1 + i * per : 1 + (i + 1) * per] for i in range(len(moments)))
        known = [any(f.moments or f.pushed for f in clocks) for clocks in of_question]
        values = answer(self._plan, self._fetched(found[1:]), moments) if moments else {}
        states = [PRESENT if there else MISSING for there in known]
        for i, at in enumerate(moments):
            if horizon is not None and at - self._longest < horizon - 1:
                states[i] = UNKEPT
        columns = []
        for column in self._columns:
            plain = _plain(values.get(column.name, []), column.dtype)
            if UNKEPT in states:
                back = self._lengths[column.name]
                plain = [None if at - back < (horizon or at) - 1 else v for at, v in zip(moments, plain, strict=True)]
            columns.append([None if place < 0 else plain[place] for place in asked.places])
        return [MISSING if place < 0 else states[place] for place in asked.places], columns

    def _fetched(self, found: Sequence[FoundTiles]) -> Fetched:
        per, tile_us = len(self._clocks), self._plan.tile_us
        counts: list[int] = []
        clock: list[str] = []
        start: list[int] = []
        moments: list[bytes | None] = []
        events: list[bytes | None] = []
        pending: list[bytes | None] = []
        for i, answered in enumerate(found):
            base, pushed = answered.moments, answered.pushed
            numbers = [*base, *(tile for tile in pushed if tile not in base)] if pushed else list(base)
            counts.append(len(numbers))
            clock += [self._clocks[i % per]] * len(numbers)
            start += numbers
            moments += map(base.get, numbers) if pushed else base.values()
            events += map(answered.events.get, numbers)
            pending += map(pushed.get, numbers) if pushed else [None] * len(numbers)
        row = np.repeat(np.arange(len(found)) // per, counts)
        return Fetched(row, clock, np.array(start, np.int64) * tile_us, moments, events, pending)


def read_windows(
    store: OnlineStore, view: FeatureView, keys: Sequence[bytes | None], moments: Sequence[int]
) -> tuple[list[str], list[list[Any]]]:
    """The state of each key at its moment (microseconds), and the values by column."""
    reader = WindowReader(view)
    asked = reader.ask(keys, moments)
    return reader.answer(asked, store.read([], asked.tiles)[1])


def _plain(values: Any, dtype: str) -> list[Any]:
    """Evaluated values as plain ones; NaN stands for null."""
    if not isinstance(values, np.ndarray):
        return list(values)
    made: list[Any] = values.tolist()
    if dtype == "double":
        return [None if value != value else value for value in made]
    as_type = bool if dtype == "bool" else int
    return [None if value != value else as_type(value) for value in made]
