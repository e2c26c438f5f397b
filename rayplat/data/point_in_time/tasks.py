"""The tasks of a join: what runs on workers. Each returns a small summary first, then tables for the object store.

A part is a `Scan`, read where the task runs, or a table. References must be arguments of their own for Ray to resolve
them, so lists of them come flat, with their lengths.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from rayplat.data.point_in_time import exchange
from rayplat.data.point_in_time.exchange import Carrying, Shards, Step
from rayplat.data.point_in_time.kernel import Kernel, Prepared
from rayplat.data.tables.scan import Scan

Part: TypeAlias = Scan | pa.Table
Measure: TypeAlias = tuple[int, int, tuple[int, int] | None]


def schema_of(part: pa.Table) -> pa.Schema:
    return part.schema


def measure(part: pa.Table, event_time: str | None) -> Measure:
    """Rows, bytes, and the first and last moment where asked for."""
    return exchange.measure(part, event_time)


def read_spine(part: Scan, event_time: str) -> tuple[Measure, pa.Table]:
    """One block of the spine."""
    block = part.table()
    return exchange.measure(block, event_time), block


def prepare(kernel: Kernel, where: pc.Expression | None, *parts: Part) -> tuple[int, Prepared]:
    """A side or a shard of one, ready to be shared."""
    rows = pa.concat_tables(table for part in parts for table in _tables(part, kernel, where))
    return rows.num_rows, kernel.prepare(rows)


def cut_features(part: Part, kernel: Kernel, where: pc.Expression | None, partitions: int) -> tuple[Any, ...]:
    """A part of a side by key."""
    cut, pieces = exchange.cut_features(_tables(part, kernel, where), kernel, partitions)
    return cut, *pieces


def cut_spine(block: pa.Table, on: Sequence[str], event_time: str, partitions: int) -> tuple[Any, ...]:
    """Keys and moments of a block by key."""
    cut, pieces = exchange.cut_spine(block, on, event_time, partitions)
    return cut, *pieces


def cut_time(rows: pa.Table, bounds: Sequence[int], kernel: Kernel | None, event_time: str) -> tuple[Any, ...]:
    """A piece of a crowded partition by time."""
    cut, pieces = exchange.cut_time(rows, bounds, kernel, event_time)
    return cut, *pieces


def carry(kernel: Carrying, before: int, *older: pa.Table) -> tuple[int, pa.Table]:
    """What of older rows still matters from ``before`` on."""
    rows = kernel.carry(pa.concat_tables(older), before)
    return rows.num_rows, rows


def answer(steps: Sequence[tuple[Step, int]], spine: int, event_time: str, *pieces: pa.Table) -> tuple[Any, ...]:
    """The first ``spine`` pieces answered by the others: as many for each step as stand beside it."""
    of_steps, start = [], spine
    for step, count in steps:
        of_steps.append((step, pieces[start : start + count]))
        start += count
    found = exchange.answer(pieces[:spine], of_steps, event_time)
    return sum(piece.num_rows for piece in found), *found


def assemble(
    block: pa.Table,
    shuffles: Sequence[int],
    steps: Sequence[tuple[Step, int]],
    event_time: str,
    columns: Sequence[str] | None,
    *rest: Any,
) -> tuple[int, pa.Table]:
    """A block with its answers (as many pieces as each of ``shuffles`` says) and the outputs of shared sides (each in
    as many shards as stand beside its step)."""
    answers, start = [], 0
    for count in shuffles:
        answers.append(rest[start : start + count])
        start += count
    prepared: list[tuple[Step, Prepared]] = []
    for step, count in steps:
        prepared.append((step, Shards(rest[start : start + count])))
        start += count
    joined = exchange.assemble(block, answers, prepared, event_time, columns)
    return joined.num_rows, joined


def _tables(part: Part, kernel: Kernel, where: pc.Expression | None) -> Iterator[pa.Table]:
    """The wanted columns, and of a scan the wanted rows; at least one table, so that there is a schema."""
    columns = list(kernel.columns)
    if isinstance(part, pa.Table):
        yield part.select(columns)
        return
    yield part.schema.empty_table().select(columns)
    yield from part.batches(columns, where)
