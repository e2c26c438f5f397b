"""Tiles as bytes for the online stores, and windows of a few keys from fetched bytes.

A tile has two blobs: ``moments``, its state, and ``events``, what it is made of. A request at ``T`` needs the moments
of every tile that begins in ``[first_start, last_start]`` and the events only of those that hold an end of a window,
and of those with pending events (see `needed` and `pending`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import compress, repeat
from operator import is_not, itemgetter
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rayplat.data.windows.blobs import EVENTS, HEAD, MOMENTS, Blobs, Writer, ranked
from rayplat.data.windows.columns import Floats, Ints, Texts, doubles
from rayplat.data.windows.elements import Elements, RawPart, StatePart, assemble
from rayplat.data.windows.evaluate import state_part
from rayplat.data.windows.exact import as_ieee
from rayplat.data.windows.pending import read_held
from rayplat.data.windows.plan import CLOCK, TILE_START, TIMES, Clock, TilePlan, plain, raw
from rayplat.data.windows.values import ClockValues
from rayplat.data.windows.window import MICROSECOND, MOMENT
from rayplat.errors import InvalidInput

Flags = npt.NDArray[np.bool_]


class PackedTile(NamedTuple):
    """One row of the tile table as an online store keeps it; ``start_us`` in microseconds since the epoch."""

    key: tuple[Any, ...]
    clock: str
    start_us: int
    moments: bytes
    events: bytes


class Needed(NamedTuple):
    """What a request needs: moments of tiles from ``first_start`` to ``last_start``, events of ``end_starts``
    (ascending), all tile starts in microseconds."""

    first_start: int
    last_start: int
    end_starts: tuple[int, ...]


@dataclass(frozen=True)
class Fetched:
    """Fetched tiles, one entry each in every sequence: ``row`` is the number of the request's key, None stands for
    bytes that were not fetched or are not there. Any order, each tile once; those that are not needed do no harm."""

    row: Sequence[int] | Ints
    clock: Sequence[str]
    start_us: Sequence[int] | Ints
    moments: Sequence[bytes | None]
    events: Sequence[bytes | None]
    pending: Sequence[bytes | None]


def needed(plan: TilePlan, moment_us: int) -> Needed:
    """The tiles that answer ``plan`` at ``moment_us``."""
    tile = plan.tile_us
    starts = {moment_us // tile * tile}
    starts |= {(moment_us - length) // tile * tile for clock in plan.clocks for length in clock.lengths_us}
    first = (moment_us - plan.longest // MICROSECOND) // tile * tile
    return Needed(first, moment_us // tile * tile, tuple(sorted(starts)))


def pack(plan: TilePlan, tiles: pa.Table) -> list[PackedTile]:
    """Every row of a tile table as bytes."""
    packed: list[PackedTile] = []
    tiles = plain(tiles)
    for clock in plan.clocks:
        rows = tiles.filter(pc.equal(tiles[CLOCK], clock.name))
        keys = zip(*(rows[key].to_pylist() for key in plan.keys), strict=True)
        starts = rows[TILE_START].cast(MOMENT).cast(pa.int64()).to_pylist()
        texts, mask = _texts(clock, rows)
        blobs = zip(keys, starts, _moments(clock, rows, texts, mask), _events(clock, rows, texts, mask), strict=True)
        packed += [PackedTile(key, clock.name, start, moments, events) for key, start, moments, events in blobs]
    return packed


def answer(plan: TilePlan, fetched: Fetched, moments_us: Sequence[int]) -> dict[str, Floats | list[str | None]]:
    """By window name one value for each moment: doubles (NaN stands for null; times in microseconds, truth values 0
    and 1), or texts. Raises `Corrupt` for bytes of other windows, `InvalidInput` where events are missing."""
    rows, moments = np.arange(len(moments_us)), np.asarray(moments_us, np.int64)
    found: dict[str, Floats | list[str | None]] = {}
    with as_ieee():
        for clock in plan.clocks:
            mine = fetched
            if fetched.clock.count(clock.name) < len(fetched.clock):
                mine = _chosen(fetched, [i for i, name in enumerate(fetched.clock) if name == clock.name])
            elements = _elements(clock, mine)
            values = ClockValues(clock, elements, plan.tile_us).at(rows, moments)
            found |= values
            for w in clock.windows_of_text:
                texts = elements.texts[clock.columns.index(w.column)]
                found[w.name] = texts.take(values[w.name]).to_pylist() if texts else [None] * len(rows)
    return found


def _texts(clock: Clock, rows: pa.Table) -> tuple[Texts | None, int]:
    """All texts in ``rows``, and the columns that are text as bits."""
    mask, found = 0, []
    for j, column in enumerate(clock.columns):
        if pa.types.is_string(rows.schema.field(raw(column)).type.value_type):
            mask |= 1 << j
            found.append(pc.list_flatten(rows[raw(column)]))
    return (Texts.of(found) if mask else None), mask


def _moments(clock: Clock, rows: pa.Table, texts: Texts | None, mask: int) -> list[bytes]:
    of_column = tuple(texts if mask >> j & 1 else None for j in range(len(clock.columns)))
    state = state_part(clock, rows, of_column)
    writer = Writer(MOMENTS, len(clock.columns), rows.num_rows, mask, texts)
    ones = np.ones(rows.num_rows, np.int64)
    writer.events(_width(clock))
    numbers = clock.width - len(clock.having("last"))
    writer.words(state.words[:numbers])
    for row, j in enumerate(clock.having("last"), numbers):
        writer.lists(ones, state.words[row], text=bool(mask >> j & 1))
    distinct, sketch = clock.having("distinct"), clock.having("sketch")
    sizes = {("d", j): np.diff(state.distinct[j][0]) for j in distinct} | {
        ("s", j): np.diff(state.sketch[j][0]) for j in sketch
    }
    for counts in sizes.values():
        writer.lists(ones, counts.astype(np.float64))
    for j in sketch:
        writer.lists(ones, state.sketch[j][2].astype(np.float64))
    for j in distinct:
        writer.lists(sizes["d", j], state.distinct[j][1], text=bool(mask >> j & 1))
    for j in sketch:
        writer.lists(sizes["s", j], state.sketch[j][1].view(np.float64))
    return writer.finish()


def _width(clock: Clock) -> int:
    """The words that the state of each tile has beside sets and texts."""
    return clock.width + len(clock.having("distinct")) + 2 * len(clock.having("sketch"))


def _events(clock: Clock, rows: pa.Table, texts: Texts | None, mask: int) -> list[bytes]:
    writer = Writer(EVENTS, len(clock.columns), rows.num_rows, mask, texts)
    counts = pc.list_value_length(rows[TIMES]).to_numpy().astype(np.int64)
    writer.events(counts)
    writer.lists(counts, pc.list_flatten(rows[TIMES]).cast(MOMENT).cast(pa.int64()).to_numpy().view(np.float64))
    for j, column in enumerate(clock.columns):
        is_text = bool(mask >> j & 1)
        writer.lists(counts, doubles(pc.list_flatten(rows[raw(column)]), texts if is_text else None), text=is_text)
    return writer.finish()


def _elements(clock: Clock, fetched: Fetched) -> Elements:
    """What was fetched of one clock; tiles of which there is nothing are left out."""
    codes, starts = np.asarray(fetched.row, np.int64), np.asarray(fetched.start_us, np.int64)
    if not ((codes[1:] > codes[:-1]) | ((codes[1:] == codes[:-1]) & (starts[1:] > starts[:-1]))).all():
        order = np.lexsort((starts, codes))
        fetched, codes, starts = _chosen(fetched, order.tolist()), codes[order], starts[order]
        if ((codes[1:] == codes[:-1]) & (starts[1:] == starts[:-1])).any():
            raise InvalidInput("fetched tiles", f"one of {clock.name} is there twice for the same key")
    apart = _there(fetched.events)
    with_events, with_pending = np.flatnonzero(apart), np.empty(0, np.int64)
    if fetched.pending.count(None) < len(fetched.pending):
        waiting = _there(fetched.pending)
        with_pending, apart = np.flatnonzero(waiting), apart | waiting
    whole = ~apart
    if fetched.moments.count(None):
        whole &= _there(fetched.moments)
    blobs: list[Any] = list(compress(fetched.moments, whole.tolist()))
    state = _States.read(clock, blobs)
    events = [e for e in map(fetched.events.__getitem__, with_events.tolist()) if e is not None]
    pending = [p for p in map(fetched.pending.__getitem__, with_pending.tolist()) if p is not None]
    held = read_held(events, pending, len(clock.columns), state.texts)
    held = replace(held, owner=np.concatenate([with_events, with_pending])[held.owner])
    if pending:
        held = held.effective()
    counts = np.bincount(held.owner, minlength=len(codes))[apart]
    mask = held.mask | state.mask
    texts = tuple(held.texts if mask >> j & 1 else None for j in range(len(clock.columns)))
    if len(blobs) + int(apart.sum()) < len(codes):
        there = apart | whole
        codes, starts, apart = codes[there], starts[there], apart[there]
    parts = state.part(held.texts) if blobs else None
    return assemble(clock, (codes, starts, apart), RawPart(counts, held.times, held.values), parts, texts)


def _there(blobs: Sequence[bytes | None]) -> Flags:
    return np.fromiter(map(is_not, blobs, repeat(None)), np.bool_, len(blobs))


def _chosen(fetched: Fetched, at: Sequence[int]) -> Fetched:
    if len(at) < 2:
        return Fetched(*([values[i] for i in at] for values in _sequences(fetched)))
    pick = itemgetter(*at)
    return Fetched(*(pick(values) for values in _sequences(fetched)))


def _sequences(fetched: Fetched) -> tuple[Any, ...]:
    return fetched.row, fetched.clock, fetched.start_us, fetched.moments, fetched.events, fetched.pending


@dataclass(frozen=True)
class _States:
    """The states of tiles as fetched; ``fixed`` are the words that every blob has, texts by number."""

    clock: Clock
    blobs: Blobs
    fixed: Floats
    texts: list[str]
    before: Ints

    @staticmethod
    def read(clock: Clock, moments: Sequence[bytes]) -> _States:
        blobs = Blobs.read(moments, MOMENTS, len(clock.columns))
        fixed = blobs.fixed(_width(clock))
        if not blobs.mask:
            return _States(clock, blobs, fixed, [], np.empty(0, np.int64))
        sketches = len(clock.having("sketch"))
        sets = len(clock.having("distinct")) + 2 * sketches
        lists = fixed[len(fixed) - sets : len(fixed) - sketches].sum(axis=0)
        return _States(clock, blobs, fixed, *blobs.texts(HEAD + len(fixed) + lists.astype(np.int64)))

    @property
    def mask(self) -> int:
        return self.blobs.mask

    def part(self, texts: Texts | None) -> StatePart:
        """The states with texts as ranks in ``texts``, which holds all of them."""
        clock, words = self.clock, self.fixed[: self.clock.width]
        ranks = texts.ranks(pa.array(self.texts, pa.string())) if texts else np.empty(0)
        if self.mask:
            words = words.copy()
            for row, j in enumerate(clock.having("last"), clock.width - len(clock.having("last"))):
                if self.mask >> j & 1:
                    words[row] = ranked(words[row], self.before, ranks)
        distinct, sketch = clock.having("distinct"), clock.having("sketch")
        sizes = self.fixed[clock.width :].astype(np.int64)
        levels, place, sets, sketches = sizes[len(distinct) + len(sketch) :], HEAD + len(self.fixed), {}, {}
        starts = np.full(len(self.blobs.starts), place)
        for row, j in enumerate(distinct):
            values = self.blobs.run(starts, sizes[row])
            if self.mask >> j & 1:
                values = ranked(values, np.repeat(self.before, sizes[row]), ranks)
            sets[j] = np.append(0, np.cumsum(sizes[row])), values
            starts = starts + sizes[row]
        for row, j in enumerate(sketch):
            size = sizes[len(distinct) + row]
            sketches[j] = np.append(0, np.cumsum(size)), self.blobs.run(starts, size).view(np.uint64), levels[row]
            starts = starts + size
        return StatePart(words, sets, sketches)
