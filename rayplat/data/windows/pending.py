"""Events pushed to the online store ahead of the tiles that will hold them.

An event is its key, clock, moment and values. A pushed event is kept beside its tile with a *target*: how many equal
events the tile held when it was pushed, plus the pushes. What counts is the larger of the tile's own number and the
target, so an event is neither lost before the tile is written anew nor counted twice after.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rayplat.data.windows.blobs import EVENTS, HEAD, PENDING, Blobs, Writer, rank_all, ranked
from rayplat.data.windows.columns import Floats, Ints, Texts


def push(base: bytes | None, pending: bytes | None, pushed: bytes) -> bytes:
    """The pending events of one tile after a push: ``base`` are the events of the stored tile and ``pushed`` those of
    the push, each as in `PackedTile.events`; ``pending`` is what was there. Raises `Corrupt` for other bytes."""
    columns = _columns(pushed)
    events = [blob for blob in (base, pushed) if blob is not None]
    held = read_held(events, [pending] if pending else [], columns)
    of_push = held.owner == len(events) - 1
    pushes, base_count = np.where(of_push, held.base, 0), np.where(of_push, 0, held.base)
    one = np.zeros_like(held.owner)
    rows = Held(one, held.times, held.values, base_count, held.target, pushes, held.texts, held.mask).grouped()
    target = np.where(rows.pushes > 0, np.maximum(rows.base, rows.target) + rows.pushes, rows.target)
    return _write(rows, target, target > 0)


@dataclass(frozen=True)
class Held:
    """Events and their tile (``owner``): how many of each it has (``base``), the ``target`` of pending ones and
    the ``pushes``. ``values`` are ``(columns, events)``; ``texts`` stand behind the ranks of the columns in
    ``mask``."""

    owner: Ints
    times: Ints
    values: Floats
    base: Ints
    target: Ints
    pushes: Ints
    texts: Texts | None
    mask: int

    def grouped(self) -> Held:
        """Equal events of a tile as one."""
        if len(self.times) == 0:
            return self
        order = np.lexsort((*self.values[::-1], self.times, self.owner))
        owner, times, values = self.owner[order], self.times[order], self.values[:, order]
        new = np.ones(len(order), np.bool_)
        a, b = values[:, 1:], values[:, :-1]
        alike = ((a == b) | (np.isnan(a) & np.isnan(b))).all(axis=0)
        new[1:] = ~(alike & (owner[1:] == owner[:-1]) & (times[1:] == times[:-1]))
        heads = np.flatnonzero(new)
        base, pushes = (np.add.reduceat(x[order], heads) for x in (self.base, self.pushes))
        target = np.maximum.reduceat(self.target[order], heads)
        return Held(owner[heads], times[heads], values[:, heads], base, target, pushes, self.texts, self.mask)

    def effective(self) -> Held:
        """Every event as often as it counts, in order of tile and time."""
        rows = self.grouped()
        often = np.maximum(rows.base, rows.target)
        at = np.repeat(np.arange(len(often)), often)
        one, none = np.ones(len(at), np.int64), np.zeros(len(at), np.int64)
        return Held(rows.owner[at], rows.times[at], rows.values[:, at], one, none, none, self.texts, self.mask)


def read_held(events: Sequence[bytes], pending: Sequence[bytes], columns: int, more: Sequence[str] = ()) -> Held:
    """The events of several tiles; the owner is the place among ``events``, then among ``pending``. The texts include
    ``more``."""
    texts, mask = list(more), 0
    nothing = np.empty(0, np.int64)
    parts = [(nothing, nothing, np.empty((columns, 0)), nothing)]
    base = [(nothing, False)]
    for blobs, kind, first in ((events, EVENTS, 0), (pending, PENDING, len(events))):
        if not blobs:
            continue
        read = Blobs.read(blobs, kind, columns)
        counts, mask = read.counts, mask | read.mask
        rows = columns + (kind == PENDING)
        words = read.matrix(1 + rows)
        times, values = words[0].view("<i8"), words[1:]
        found, before = read.texts(HEAD + counts * (1 + rows))
        offsets = np.repeat(before + len(texts), counts)
        texts += found
        parts.append((np.repeat(np.arange(first, first + len(counts)), counts), times, values[:columns], offsets))
        base.append((values[columns].astype(np.int64), True) if kind == PENDING else (np.ones_like(times), False))
    if not (pending or mask or more) and events:
        owner, times, values, _ = parts[1]
        none = np.zeros_like(times)
        return Held(owner, times, values, base[1][0], none, none, None, 0)
    sorted_texts, ranks = rank_all(texts) if mask or more else (None, np.empty(0))
    owner, times, values, offsets = (np.concatenate(x, axis=-1) for x in zip(*parts, strict=True))
    for j in range(columns):
        if mask >> j & 1:
            values[j] = ranked(values[j], offsets, ranks)
    own = np.concatenate([np.zeros_like(c) if is_target else c for c, is_target in base])
    target = np.concatenate([c if is_target else np.zeros_like(c) for c, is_target in base])
    return Held(owner, times, values, own, target, np.zeros_like(own), sorted_texts, mask)


def _write(rows: Held, target: Ints, keep: npt.NDArray[np.bool_]) -> bytes:
    columns = len(rows.values)
    counts = np.array([int(keep.sum())])
    writer = Writer(PENDING, columns, 1, rows.mask, rows.texts)
    writer.events(counts)
    writer.lists(counts, rows.times[keep].astype("<i8").view("<f8"))
    for j in range(columns):
        writer.lists(counts, rows.values[j][keep], text=bool(rows.mask >> j & 1))
    writer.lists(counts, target[keep].astype(np.float64))
    return writer.finish()[0]


def _columns(blob: bytes) -> int:
    return int(np.frombuffer(blob, "<f8", 2)[1])
