"""Bytes of tiles for the online stores: written and read for many tiles in one go.

A blob is a row of little-endian 8-byte words: a head of `HEAD` words (kind, value columns, events or words of state,
which columns are text as a bit mask, texts), more words, the lengths of its texts, then their UTF-8 bytes padded to a
word. A text is held as its number among the blob's texts. Times are int64 words, everything else doubles.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa

from rayplat.data.windows.columns import Floats, Ints, Texts
from rayplat.data.windows.elements import spans
from rayplat.errors import Corrupt, InvalidInput

HEAD = 5
MOMENTS, EVENTS, PENDING = 1.0, 2.0, 3.0
_MOST_COLUMNS = 52
_HEAD = np.arange(HEAD)


@dataclass(frozen=True)
class Blobs:
    """Blobs read together: all ``words``, where each blob begins and its head ``(blobs, HEAD)``."""

    words: Floats
    starts: Ints
    head: Floats

    @staticmethod
    def read(blobs: Sequence[bytes], kind: float, columns: int) -> Blobs:
        """Raises `Corrupt` for bytes that are not of this ``kind`` with that many value columns."""
        words, size = b"".join(blobs), len(blobs[0]) if blobs else 0
        if size >= 8 * HEAD and size % 8 == 0 and set(map(len, blobs)) == {size}:
            table = np.frombuffer(words, "<f8").reshape(len(blobs), -1)
            if (table[:, :2] == (kind, columns)).all():
                return Blobs(table.reshape(-1), np.arange(len(blobs)) * (size // 8), table[:, :HEAD])
        sizes = np.fromiter(map(len, blobs), np.int64, len(blobs))
        if int(np.bitwise_or.reduce(sizes)) & 7 or (len(blobs) and int(sizes.min()) < 8 * HEAD):
            raise Corrupt("tile bytes", "words of 8 bytes", f"a blob of {int(sizes[np.argmax(sizes & 7)])} bytes")
        doubles, starts = np.frombuffer(words, "<f8"), (np.cumsum(sizes) - sizes) >> 3
        head = doubles[starts[:, None] + _HEAD]
        if len(head) and ((head[:, 0] != kind) | (head[:, 1] != columns)).any():
            raise Corrupt("tile bytes", f"kind {kind:g} of {columns} columns", "another format or other windows")
        return Blobs(doubles, starts, head)

    @cached_property
    def counts(self) -> Ints:
        """The events in each."""
        return self.head[:, 2].astype(np.int64)

    @cached_property
    def mask(self) -> int:
        """The columns that are text, as bits."""
        return int(np.bitwise_or.reduce(self.head[:, 3].astype(np.int64))) if len(self.head) else 0

    def fixed(self, width: int) -> Floats:
        """The first ``width`` words after the head, ``(width, blobs)``; `Corrupt` where blobs count otherwise."""
        if (self.head[:, 2] != width).any():
            raise Corrupt("tile bytes", f"{width} words of state", "those of other windows")
        total = HEAD + width
        if len(self.words) == total * len(self.starts):
            found: Floats = self.words.reshape(-1, total).T[HEAD:]
            return found
        gathered: Floats = self.words[self.starts + (HEAD + np.arange(width))[:, None]]
        return gathered

    def run(self, at: Ints, counts: Ints) -> Floats:
        """For each blob the ``counts`` words from its word ``at`` on, one after the other."""
        return self.words[spans(self.starts + at, counts)]

    def matrix(self, rows: int) -> Floats:
        """The first ``rows`` lists of each blob, which are as long as it has events: ``(rows, all events)``."""
        first = spans(self.starts + HEAD, self.counts)
        return self.words[first + np.repeat(self.counts, self.counts) * np.arange(rows)[:, None]]

    def texts(self, at: Ints) -> tuple[list[str], Ints]:
        """The texts of all blobs, whose lengths begin at their words ``at``; and how many come before each blob's."""
        counts = self.head[:, 4].astype(np.int64)
        data, found = self.words.tobytes() if counts.any() else b"", []
        for blob in np.flatnonzero(counts):
            begin = int(self.starts[blob] + at[blob])
            place = 8 * (begin + int(counts[blob]))
            for size in self.words[begin : begin + int(counts[blob])].astype(np.int64).tolist():
                found.append(data[place : place + size].decode())
                place += size
        return found, np.cumsum(counts) - counts


class Writer:
    """Blobs in the making: ``count`` of one kind, whose texts are ranks in ``texts``, for the columns in ``mask``."""

    def __init__(self, kind: float, columns: int, count: int, mask: int, texts: Texts | None) -> None:
        if columns > _MOST_COLUMNS:
            raise InvalidInput(
                "windows", f"over {_MOST_COLUMNS} value columns of one clock cannot be packed: {columns}"
            )
        self._head = np.zeros((count, HEAD))
        self._head[:, 0], self._head[:, 1], self._head[:, 3] = kind, columns, mask
        self._texts = texts
        self._parts: list[tuple[Ints, Floats, bool]] = []

    def events(self, counts: Ints | int) -> None:
        """How many events each has; of states, how many words."""
        self._head[:, 2] = counts

    def words(self, rows: Floats) -> None:
        """``(rows, blobs)``: the same number of words for each."""
        self._parts.append((np.full(len(self._head), len(rows)), np.ascontiguousarray(rows.T).reshape(-1), False))

    def lists(self, counts: Ints, words: Floats, *, text: bool = False) -> None:
        """As many words for each blob as ``counts`` says; ``text``: they are ranks (or NaN)."""
        self._parts.append((counts, words, text))

    def finish(self) -> list[bytes]:
        count = len(self._head)
        offsets, unique = self._local()
        sizes, encoded = np.diff(offsets), self._encoded(unique)
        lengths = np.array([len(t) for t in encoded], np.float64)[unique[1]] if len(encoded) else np.empty(0)
        parts = [*self._parts, (sizes, lengths, False)]
        tail = np.bincount(unique[0], lengths, count).astype(np.int64)
        widths = HEAD + sum((c for c, _, _ in parts), np.zeros(count, np.int64)) + -(-tail // 8)
        ends = np.cumsum(widths)
        starts = ends - widths
        words = np.zeros(int(ends[-1]) if count else 0)
        self._head[:, 4] = sizes
        words[starts[:, None] + np.arange(HEAD)] = self._head
        at = starts + HEAD
        for counts, values, text in parts:
            words[spans(at, counts)] = self._numbered(counts, values, offsets, unique) if text else values
            at = at + counts
        data = bytearray(words.tobytes())
        for blob in np.flatnonzero(sizes):
            text_bytes = b"".join(encoded[i] for i in unique[1][offsets[blob] : offsets[blob + 1]].tolist())
            data[8 * int(at[blob]) : 8 * int(at[blob]) + len(text_bytes)] = text_bytes
        return [bytes(data[8 * a : 8 * b]) for a, b in zip(starts.tolist(), ends.tolist(), strict=True)]

    def _local(self) -> tuple[Ints, tuple[Ints, Ints]]:
        """The texts of each blob: offsets, and (blob, rank) of each in order."""
        count, many = len(self._head), len(self._texts.sorted) if self._texts else 1
        pairs = [np.repeat(np.arange(count), c)[~np.isnan(v)] * many + v[~np.isnan(v)] for c, v, t in self._parts if t]
        unique = np.unique(np.concatenate(pairs).astype(np.int64)) if pairs else np.empty(0, np.int64)
        blob, rank = np.divmod(unique, many)
        return np.searchsorted(blob, np.arange(count + 1)), (blob, rank)

    def _numbered(self, counts: Ints, ranks: Floats, offsets: Ints, unique: tuple[Ints, Ints]) -> Floats:
        many, blob = len(self._texts.sorted) if self._texts else 1, np.repeat(np.arange(len(counts)), counts)
        place = np.searchsorted(unique[0] * many + unique[1], blob * many + np.nan_to_num(ranks).astype(np.int64))
        return np.where(np.isnan(ranks), np.nan, place - offsets[blob])

    def _encoded(self, unique: tuple[Ints, Ints]) -> list[bytes]:
        return [t.encode() for t in self._texts.sorted.to_pylist()] if self._texts and len(unique[0]) else []


def ranked(numbers: Floats, offsets: Ints, ranks: Floats) -> Floats:
    """A blob's own text numbers as ranks: ``offsets`` is the first text of each number's blob among all."""
    missing = np.isnan(numbers)
    found = ranks[np.where(missing, 0, numbers + offsets).astype(np.int64)] if len(ranks) else np.zeros(len(numbers))
    return np.where(missing, np.nan, found)


def rank_all(texts: Sequence[str]) -> tuple[Texts, Floats]:
    """The texts sorted, once each, and the rank of each given one."""
    unique = sorted(set(texts))
    place = {text: i for i, text in enumerate(unique)}
    return Texts(pa.array(unique, pa.string())), np.array([place[text] for text in texts], np.float64)
