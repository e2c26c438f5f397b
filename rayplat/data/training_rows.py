"""The rows of a training set on the cluster: the spine in one order, and the joined rows in slices of one size.

A spine is sorted by moment, key, label and what else it carries, so equal spines are equal wherever their files are
cut. Joined rows are cut into slices of `SLICE_ROWS` again, so the digests of the slices say the same whatever the
plan of the join was. All of it happens in plain Ray tasks: this process sees counts, samples of times and digests.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rayplat.actors import give_way
from rayplat.data.features import EVENT_TIME, FeatureService
from rayplat.data.features.transforms import on_request, with_defaults
from rayplat.data.tables.scan import Scan

SLICE_ROWS = 131_072
PART_BYTES = 32 * 2**20

_TIME = pa.timestamp("us", tz="UTC")
_SAMPLES = 1_024
_LAST = np.iinfo(np.int64).max

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class SpineColumns:
    """What is read of a spine's table: ``order`` is the order of its rows, by these columns of the result."""

    keys: tuple[str, ...]
    event_time: str
    label: str
    inputs: tuple[str, ...]
    where: pc.Expression

    @property
    def order(self) -> tuple[str, ...]:
        return (EVENT_TIME, *self.keys, self.label, *self.inputs)

    def read(self, part: Scan) -> pa.Table:
        """The rows of ``part``: keys, ``event_time``, label (int8 for a truth value), inputs, in order."""
        names = list(dict.fromkeys([*self.keys, self.event_time, self.label, *self.inputs]))
        rows = part.table(names, self.where)
        label = rows[self.label]
        named = {key: rows[key] for key in self.keys} | {EVENT_TIME: rows[self.event_time].cast(_TIME)}
        named[self.label] = label.cast(pa.int8()) if pa.types.is_boolean(label.type) else label
        return self.sorted(pa.table(named | {name: rows[name] for name in self.inputs}))

    def sorted(self, rows: pa.Table) -> pa.Table:
        return rows.sort_by([(name, "ascending") for name in self.order])


def spine_blocks(scan: Scan, columns: SpineColumns) -> list[Any]:
    """References to the spine's rows in order, about `SLICE_ROWS` to a block."""
    import ray

    size = sum(file.size_bytes for file in scan.files)
    parts = scan.split(max(1, -(-size // PART_BYTES))) if len(scan.files) > 1 else [scan]
    read: Any = ray.remote(num_cpus=1, num_returns=2)(_read)
    found = [read.remote(columns, part) for part in parts]
    counts, samples = zip(*ray.get([sample for _, sample in found]), strict=True)
    blocks = max(1, -(-sum(counts) // SLICE_ROWS))
    if blocks == 1 and len(found) == 1:
        return [found[0][0]]
    cuts = _cuts(counts, samples, blocks)
    if len(cuts) == 0:
        merge: Any = ray.remote(num_cpus=1)(_merged)
        return [merge.remote(columns, *(rows for rows, _ in found))]
    cut: Any = ray.remote(num_cpus=1, num_returns=len(cuts) + 1)(_cut)
    merge = ray.remote(num_cpus=1)(_merged)
    pieces = [cut.remote(rows, cuts) for rows, _ in found]
    return [merge.remote(columns, *(piece[i] for piece in pieces)) for i in range(len(cuts) + 1)]


def slices(blocks: Sequence[Any], service: FeatureService, kept: Sequence[str]) -> tuple[list[Any], list[str]]:
    """The joined rows of ``blocks`` in slices of `SLICE_ROWS`, with defaults and on-request features, columns ``kept``
    only; and the content digest of each slice."""
    import ray

    count: Any = ray.remote(num_cpus=0.1)(_count)
    ends = np.cumsum(ray.get([count.remote(block) for block in blocks]))
    starts = np.append(0, ends[:-1])
    total = int(ends[-1]) if len(ends) else 0
    finish: Any = ray.remote(num_cpus=1, num_returns=2)(_finished)
    made = []
    for first in range(0, max(total, 1), SLICE_ROWS):
        last = min(first + SLICE_ROWS, total)
        inside = np.flatnonzero((starts < last) & (ends > first)) if total else np.arange(min(1, len(blocks)))
        offset = first - int(starts[inside[0]])
        made.append(finish.remote(service, tuple(kept), (offset, last - first), *(blocks[i] for i in inside.tolist())))
    return [rows for rows, _ in made], ray.get([digest for _, digest in made])


def content_digest(rows: pa.Table) -> str:
    """A sha256 over names, types and values of ``rows``; how they are chunked and what lies under nulls is no part."""
    content = hashlib.sha256(str(rows.num_rows).encode())
    for name in rows.column_names:
        column = rows[name].combine_chunks()
        column = (
            pa.concat_arrays(column.chunks) if isinstance(column, pa.ChunkedArray) and column.num_chunks else column
        )
        content.update(f"|{name}:{column.type}|".encode())
        content.update(np.packbits(column.is_valid().to_numpy(zero_copy_only=False)).tobytes())
        for part in _values(column):
            content.update(part)
    return content.hexdigest()


# --- inside ---------------------------------------------------------------------------------------


def _read(columns: SpineColumns, part: Scan) -> tuple[pa.Table, tuple[int, Ints]]:
    """The rows of one part, and how many with an even sample of their times."""
    give_way()
    rows = columns.read(part)
    times = _times(rows)
    picked = np.linspace(0, max(len(times) - 1, 0), min(len(times), _SAMPLES)).astype(np.int64)
    return rows, (rows.num_rows, times[picked])


def _times(rows: pa.Table) -> Ints:
    found: Ints = rows[EVENT_TIME].cast(pa.int64()).fill_null(_LAST).to_numpy()
    return found


def _cuts(counts: Sequence[int], samples: Sequence[Ints], blocks: int) -> Ints:
    """Times that cut the rows into about ``blocks`` equal parts."""
    times = np.concatenate(list(samples))
    weights = np.concatenate([np.full(len(s), n / max(len(s), 1)) for n, s in zip(counts, samples, strict=True)])
    order = np.argsort(times, kind="stable")
    reached = np.cumsum(weights[order])
    at = np.searchsorted(reached, np.arange(1, blocks) * (reached[-1] / blocks if len(reached) else 0.0))
    return np.unique(times[order][np.minimum(at, len(times) - 1)]) if len(times) else np.empty(0, np.int64)


def _cut(rows: pa.Table, cuts: Ints) -> tuple[pa.Table, ...]:
    """The sorted rows before, between and from the ``cuts`` on."""
    ends = [*np.searchsorted(_times(rows), cuts, side="left").tolist(), rows.num_rows]
    return tuple(rows.slice(start, end - start) for start, end in zip([0, *ends[:-1]], ends, strict=True))


def _merged(columns: SpineColumns, *pieces: pa.Table) -> pa.Table:
    return columns.sorted(pa.concat_tables(pieces))


def _count(block: pa.Table) -> int:
    return int(block.num_rows)


def _finished(
    service: FeatureService, kept: tuple[str, ...], span: tuple[int, int], *blocks: pa.Table
) -> tuple[pa.Table, str]:
    give_way()
    rows = pa.concat_tables(blocks).slice(*span)
    for view in service.stored:
        rows = with_defaults(view, rows)
    for asked in service.on_request:
        columns = {name: rows[name] for name in rows.column_names}
        for name, column in on_request(asked, columns, rows.num_rows).items():
            rows = rows.append_column(name, column)
    made = rows.select(list(kept)).combine_chunks()
    return made, content_digest(made)


def _values(column: pa.Array) -> list[Any]:
    dtype = column.type
    if pa.types.is_boolean(dtype):
        return [np.packbits(column.fill_null(False).to_numpy(zero_copy_only=False)).tobytes()]
    if pa.types.is_timestamp(dtype) or pa.types.is_integer(dtype) or pa.types.is_floating(dtype):
        plain = column.cast(pa.int64()) if pa.types.is_timestamp(dtype) else column
        return [plain.fill_null(0).to_numpy(zero_copy_only=False).tobytes()]
    if pa.types.is_string(dtype) or pa.types.is_binary(dtype):
        filled = pa.concat_arrays([column.fill_null("" if pa.types.is_string(dtype) else b"")])
        lengths = pc.binary_length(filled).to_numpy(zero_copy_only=False)
        _, offsets, data = filled.buffers()
        first = int(np.frombuffer(offsets, np.int32)[filled.offset]) if len(filled) else 0
        return [lengths.tobytes(), bytes(memoryview(data or b"")[first : first + int(lengths.sum())])]
    return [repr(column.to_pylist()).encode()]
