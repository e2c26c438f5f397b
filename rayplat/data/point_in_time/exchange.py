"""What the tasks of a join on the cluster do: cut rows by key, cut a crowded partition by time, answer the moments of
a partition, put the answers back into the spine's order. Plain functions on Arrow tables; `plan` runs them.

Rows are cut by our own hash of the key: never by Ray Data's keyed shuffle, which sends equal keys to different
places when a block holds a null.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rayplat.data.point_in_time.kernel import Kernel, Prepared
from rayplat.data.point_in_time.keys import hashed
from rayplat.data.point_in_time.times import OLDEST, Ints, ends, micros

ROW = "__row"
_SAMPLE = 64
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
    cuts: list[tuple[Cut, list[pa.Table]]] = []
    for part in parts:
        rows = part.select(list(kernel.columns))
        hashes, missing = hashed(rows.select(list(kernel.keys)))
        place = np.where(missing, partitions, hashes % np.uint64(partitions)).astype(np.int64)
        cuts.append(_cut(rows, place, partitions, time))
    samples: dict[int, list[Ints]] = {}
    for found, _ in cuts:
        for partition, sample in found.samples.items():
            samples.setdefault(partition, []).append(sample)
    counts = np.sum([found.rows for found, _ in cuts], axis=0)
    crowded = {partition: _spread(np.concatenate(each)) for partition, each in samples.items()}
    return Cut(counts, crowded), [pa.concat_tables(pieces[p] for _, pieces in cuts) for p in range(partitions)]


def cut_spine(block: pa.Table, on: Sequence[str], event_time: str, partitions: int) -> tuple[Cut, list[pa.Table]]:
    """Keys, moments and row numbers of each partition. Rows without a key can be anywhere: they are dealt out."""
    hashes, missing = hashed(block.select(list(on)))
    place = (hashes % np.uint64(partitions)).astype(np.int64)
    if missing.any():
        place[missing] = np.arange(int(missing.sum())) % partitions
    rows = block.select(list(dict.fromkeys((*on, event_time))))
    rows = rows.append_column(ROW, pa.array(np.arange(block.num_rows, dtype=np.int32)))
    return _cut(rows, place, partitions, event_time)


def cut_time(rows: pa.Table, bounds: Sequence[int], kernel: Kernel | None, time: str) -> tuple[Cut, list[pa.Table]]:
    """``rows`` by the ranges of microseconds that begin before and at each bound. Feature rows of a kernel that
    carries nothing over are in every range for which they matter."""
    ranges = len(bounds) + 1
    if kernel is not None and not isinstance(kernel, Carrying):
        pieces = [rows.filter(wanted(kernel, rows.schema, *_range(bounds, i))) for i in range(ranges)]
        return Cut(np.array([piece.num_rows for piece in pieces])), pieces
    name = kernel.event_time if isinstance(kernel, Carrying) else time
    return _cut(rows, np.searchsorted(np.array(bounds), micros(rows[name], name), side="right"), ranges, None)


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


def _cut(rows: pa.Table, place: Ints, places: int, time: str | None) -> tuple[Cut, list[pa.Table]]:
    """Rows by place 0 to places - 1 (others are left out), in their order."""
    counts = np.bincount(place, minlength=places + 1)[: places + 1]
    if places == 1 and counts[0] == rows.num_rows:
        return Cut(counts[:1]), [rows]
    rows = rows.combine_chunks()
    order = pc.sort_indices(pa.array(place.astype(np.uint16)))
    starts = np.cumsum([0, *counts])
    pieces = [rows.take(order[starts[i] : starts[i + 1]]) for i in range(places)]
    crowded = np.flatnonzero(counts[:places] * places > 2 * max(rows.num_rows, 1)) if time is not None else ()
    samples = {int(i): _spread(micros(pieces[i][time], str(time))) for i in crowded}
    return Cut(counts[:places], samples), pieces


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
