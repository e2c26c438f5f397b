"""What the tasks of a join on the cluster do: cut rows by key, cut a crowded partition by time, answer the moments of
a partition, put the answers back into the spine's order. Plain functions on Arrow tables; `plan` runs them.

Rows are cut by our own hash of the key: never by Ray Data's keyed shuffle, which sends equal keys to different
places when a block holds a null.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rayplat.data.point_in_time.kernel import Kernel, Prepared
from rayplat.data.point_in_time.keys import hashed, places
from rayplat.data.point_in_time.times import OLDEST, Ints, ends, micros

Places = npt.NDArray[np.uint16]

ROW = "__row"
_SAMPLE = 64
_BATCH_ROWS = 1 << 16
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICRO = timedelta(microseconds=1)


@dataclass(frozen=True)
class Step:
    """One side, as tasks see it: ``on`` are the spine's key columns, ``outputs`` the features to append (the
    kernel's name, the name in the result)."""

    name: str
    kernel: Kernel
    on: tuple[str, ...]
    outputs: tuple[tuple[str, str], ...]

    def answer(self, prepared: Prepared, spine: pa.Table, event_time: str) -> pa.Table:
        """The outputs for each row of ``spine``."""
        keys = spine.select(list(self.on)).rename_columns(list(self.kernel.keys))
        found = prepared.features(keys, spine[event_time])
        columns = [found[name] for name, _ in self.outputs]
        return pa.table(columns, names=[name for _, name in self.outputs])


@dataclass(frozen=True)
class Shards:
    """A side that was prepared in as many parts as `places` gives its keys; asked like one."""

    parts: Sequence[Prepared]

    def features(self, keys: pa.Table, moments: pa.ChunkedArray) -> pa.Table:
        """The features of each key at each moment."""
        if len(self.parts) == 1:
            return self.parts[0].features(keys, moments)
        place = places(hashed(keys)[0], len(self.parts))
        order = pc.sort_indices(pa.array(place))
        asked = keys.append_column(ROW, moments).combine_chunks().take(order)
        ends_ = np.cumsum(np.bincount(place, minlength=len(self.parts)))
        found, start = [], 0
        for part, end in zip(self.parts, ends_.tolist(), strict=True):
            rows = asked.slice(start, end - start)
            found.append(part.features(rows.drop_columns([ROW]), rows[ROW]))
            start = end
        back = np.empty(len(place), np.int64)
        back[order.to_numpy()] = np.arange(len(place))
        return pa.concat_tables(found).combine_chunks().take(pa.array(back))


@runtime_checkable
class Carrying(Protocol):
    """A kernel that can tell which old rows still matter, so that its rows need not be read from the beginning."""

    @property
    def event_time(self) -> str:
        """The column that rows are older or newer by."""
        ...

    def carry(self, rows: pa.Table, before: int) -> pa.Table:
        """Those of ``rows``, all older than microsecond ``before``, that can matter at a moment from then on."""
        ...


@dataclass(frozen=True)
class Cut:
    """How many rows went where; of crowded places also some of their moments (microseconds, evenly spaced in rank)."""

    rows: Ints
    samples: Mapping[int, Ints] = field(default_factory=dict)


def measure(block: pa.Table, event_time: str | None) -> tuple[int, int, tuple[int, int] | None]:
    """Rows, bytes, and the first and last moment (microseconds; None: there is none)."""
    return block.num_rows, block.nbytes, None if event_time is None else ends(block[event_time], event_time)


def cut_features(parts: Iterable[pa.Table], kernel: Kernel, partitions: int) -> tuple[Cut, list[pa.Table]]:
    """The rows of each partition in their order; those without a key, which match nothing, are left out."""
    time = kernel.event_time if isinstance(kernel, Carrying) else None
    cutter: _Cutter | None = None
    for part in parts:
        cutter = cutter or _Cutter(part.schema, partitions, time)
        for rows in _batches(part, partitions):
            hashes, missing = hashed(rows.select(list(kernel.keys)))
            place = places(hashes, partitions)
            if missing.any():
                place[missing] = partitions
            cutter.add(rows, place)
    if cutter is None:
        raise ValueError("no part: not even the columns are known")
    return cutter.close()


def cut_spine(block: pa.Table, on: Sequence[str], event_time: str, partitions: int) -> tuple[Cut, list[pa.Table]]:
    """Keys, moments and row numbers of each partition. Rows without a key can be anywhere: they are dealt out."""
    narrow = block.select(list(dict.fromkeys((*on, event_time))))
    narrow = narrow.append_column(ROW, pa.array(np.arange(block.num_rows, dtype=np.int32)))
    cutter = _Cutter(narrow.schema, partitions, event_time)
    for rows in _batches(narrow, partitions):
        hashes, missing = hashed(rows.select(list(on)))
        place = places(hashes, partitions)
        if missing.any():
            place[missing] = np.arange(int(missing.sum())) % partitions
        cutter.add(rows, place)
    return cutter.close()


def cut_time(rows: pa.Table, bounds: Sequence[int], kernel: Kernel | None, time: str) -> tuple[Cut, list[pa.Table]]:
    """``rows`` by the ranges of microseconds that begin before and at each bound. Feature rows of a kernel that
    carries nothing over are in every range for which they matter."""
    ranges = len(bounds) + 1
    if kernel is not None and not isinstance(kernel, Carrying):
        pieces = [rows.filter(wanted(kernel, rows.schema, *_range(bounds, i))) for i in range(ranges)]
        return Cut(np.array([piece.num_rows for piece in pieces])), pieces
    name = kernel.event_time if isinstance(kernel, Carrying) else time
    cutter = _Cutter(rows.schema, ranges, None)
    for batch in _batches(rows, ranges):
        later = np.searchsorted(np.array(bounds), micros(batch[name], name), side="right")
        cutter.add(batch, later.astype(np.uint16))
    return cutter.close()


def answer(
    spine: Sequence[pa.Table], steps: Sequence[tuple[Step, Sequence[pa.Table]]], event_time: str
) -> list[pa.Table]:
    """For each piece of the spine its row numbers and the outputs of all steps. A step's feature rows are all rows
    of the keys in these pieces (or all that matter)."""
    rows = pa.concat_tables(spine)
    found = rows.select([ROW])
    for step, pieces in steps:
        prepared = step.kernel.prepare(pa.concat_tables(pieces))
        for column in (made := step.answer(prepared, rows, event_time)).column_names:
            found = found.append_column(column, made[column])
        del prepared
    starts = np.cumsum([0, *(piece.num_rows for piece in spine)])
    return [found.slice(starts[i], piece.num_rows) for i, piece in enumerate(spine)]


def assemble(
    block: pa.Table,
    answers: Sequence[Sequence[pa.Table]],
    prepared: Sequence[tuple[Step, Prepared]],
    event_time: str,
    columns: Sequence[str] | None = None,
) -> pa.Table:
    """``block`` with its answers (the pieces of each shuffle) and the outputs of steps that need none; in the end
    only ``columns``."""
    for pieces in answers:
        found = pa.concat_tables(pieces).combine_chunks()
        back = np.empty(block.num_rows, np.int64)
        back[found[ROW].to_numpy()] = np.arange(block.num_rows)
        found = found.drop_columns([ROW]).take(pa.array(back))
        for field_ in found.schema:
            block = block.append_column(field_, found[field_.name])
    for step, ready in prepared:
        found = step.answer(ready, block, event_time)
        for field_ in found.schema:
            block = block.append_column(field_, found[field_.name])
    return block if columns is None else block.select(list(columns))


def wanted(kernel: Kernel, schema: pa.Schema, first: int, last: int) -> pc.Expression:
    """The kernel's condition on rows of ``schema`` for moments in [first, last] (microseconds)."""
    name = getattr(kernel, "event_time", None)
    times = [schema.field(c).type for c in ((name,) if name in schema.names else kernel.columns)]
    zone = next((t.tz for t in times if pa.types.is_timestamp(t)), "UTC")
    return kernel.wanted(_moment(first, zone), _moment(last, zone))


def bounds_of(samples: Sequence[tuple[int, Ints]], ranges: int) -> list[int]:
    """Microseconds that cut rows into about equal ranges; from samples with the rows that each stands for."""
    weights = np.concatenate([np.full(len(sample), rows / max(len(sample), 1)) for rows, sample in samples])
    moments = np.concatenate([sample for _, sample in samples])
    order = np.argsort(moments, kind="stable")
    share = np.cumsum(weights[order]) / weights.sum()
    cuts = np.searchsorted(share, np.arange(1, ranges) / ranges)
    return sorted({int(moment) for moment in moments[order][np.minimum(cuts, len(order) - 1)]} - {OLDEST})


class _Cutter:
    """Sorts batches of rows into places; batches that stay in the processor's cache, one after the other."""

    def __init__(self, schema: pa.Schema, count: int, time: str | None) -> None:
        self._schema, self._count, self._time = schema, count, time
        self._pieces: list[list[pa.RecordBatch]] = [[] for _ in range(count)]

    def add(self, rows: pa.Table, place: Places) -> None:
        """``place`` is 0 to count - 1 for each row, or count: the row is left out. Rows keep their order."""
        if not rows.num_rows:
            return
        batch = rows.combine_chunks().to_batches()[0]
        counts = np.bincount(place, minlength=self._count + 1)
        if (alone := int(counts.argmax())) < self._count and counts[alone] == len(place):
            self._pieces[alone].append(batch)
            return
        order = pc.sort_indices(pa.array(place))
        ends = np.cumsum(counts).tolist()
        for i, (end, rows_of) in enumerate(zip(ends, counts.tolist(), strict=True)):
            if rows_of and i < self._count:
                self._pieces[i].append(batch.take(order.slice(end - rows_of, rows_of)))

    def close(self) -> tuple[Cut, list[pa.Table]]:
        """What was sorted. A place that holds more than twice its share is crowded."""
        found = [pa.Table.from_batches(pieces, self._schema).combine_chunks() for pieces in self._pieces]
        self._pieces.clear()
        counts = np.array([piece.num_rows for piece in found])
        crowded = np.flatnonzero(counts * self._count > 2 * counts.sum()) if self._time is not None else ()
        return Cut(counts, {int(i): _spread(micros(found[i][self._time])) for i in crowded}), found


def _batches(rows: pa.Table, places: int) -> Iterator[pa.Table]:
    """Slices, large enough that each place has some rows of each."""
    size = max(_BATCH_ROWS, 1024 * places)
    for start in range(0, rows.num_rows, size):
        yield rows.slice(start, size)


def _spread(moments: Ints) -> Ints:
    known = np.sort(moments[moments != OLDEST])
    return known[np.linspace(0, len(known) - 1, min(_SAMPLE, len(known))).astype(np.int64)]


def _range(bounds: Sequence[int], i: int) -> tuple[int, int]:
    return (bounds[i - 1] if i else OLDEST, bounds[i] - 1 if i < len(bounds) else -(OLDEST + 1))


def _moment(microseconds: int, zone: str | None) -> datetime:
    """The nearest moment that Python has."""
    low = (datetime.min.replace(tzinfo=UTC) - _EPOCH) // _MICRO
    high = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // _MICRO
    moment = _EPOCH + min(max(microseconds, low), high) * _MICRO
    return moment if zone is not None else moment.replace(tzinfo=None)
