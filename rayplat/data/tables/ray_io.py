"""Tables as Ray Datasets: workers read the files of a pinned scan and write new ones; nothing is committed here.

Loads Ray Data, so it is imported where a Dataset is asked for.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray.data
from ray.data.block import Block, BlockAccessor, BlockMetadata
from ray.data.datasource import Datasink, Datasource, ReadTask, WriteResult

from rayplat.data.tables.scan import NewFile, Scan, conform, delta_schema, remove_written, write_files
from rayplat.resources import require_resources

MAX_BLOCKS = 200


def read(scan: Scan, columns: Sequence[str] | None, where: pc.Expression | None) -> ray.data.Dataset:
    """A Dataset of the rows of ``scan``. Raises `Unschedulable` where not even one task of a CPU fits: it would be
    read by none."""
    require_resources(f"reading {scan.uri}", [{"CPU": 1}])
    pruned = scan if where is None else scan.prune(where)
    blocks = max(1, min(len(pruned.files), MAX_BLOCKS))  # Ray Data would cut small files into dozens of tasks
    found: ray.data.Dataset = ray.data.read_datasource(_Source(pruned, columns, where), override_num_blocks=blocks)
    return found


def write(data: ray.data.Dataset, uri: str, schema: pa.Schema | None, partition_by: Sequence[str]) -> list[NewFile]:
    """Write every block under ``uri`` on the worker that has it; the files in the order of the blocks. Raises
    `Unschedulable` where not even one task of a CPU fits."""
    require_resources(f"writing {uri}", [{"CPU": 1}])
    sink = _Sink(uri, schema, tuple(partition_by))
    try:
        data.write_datasink(sink)
    except BaseException:
        remove_written(uri, str(sink.id))
        raise
    return sink.files


class _Source(Datasource):
    def __init__(self, scan: Scan, columns: Sequence[str] | None, where: pc.Expression | None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._scan, self._columns, self._where = scan, columns, where

    def estimate_inmemory_data_size(self) -> int | None:
        return sum(f.size_bytes for f in self._scan.files) * 4

    def get_read_tasks(self, parallelism: int, *_: Any, **__: Any) -> list[ReadTask]:
        columns, where = self._columns, self._where
        if not self._scan.files:
            empty = self._scan
            return [ReadTask(lambda: [empty.table(columns)], BlockMetadata(0, 0, None))]
        tasks = []
        for part in self._scan.split(parallelism):
            counts = [f.rows for f in part.files]
            known = where is None and None not in counts
            rows = sum(n or 0 for n in counts) if known else None
            size = sum(f.size_bytes for f in part.files) * 4
            meta = BlockMetadata(rows, size, None, input_files=tuple(f.path for f in part.files))
            tasks.append(ReadTask(lambda part=part: part.batches(columns, where), meta))  # type: ignore[misc]
        return tasks


class _Sink(Datasink[list[NewFile]]):
    """File names hold the index of the write task, so the order of files is the order of blocks."""

    def __init__(self, uri: str, schema: pa.Schema | None, partition_by: tuple[str, ...]) -> None:
        self._uri, self._schema, self._partition_by = uri, schema, partition_by
        self.id = uuid.uuid4()
        self.files: list[NewFile] = []

    def write(self, blocks: Iterable[Block], ctx: Any) -> list[NewFile]:
        tables = [table for table in _tables(blocks) if table.num_rows]
        if not tables:
            return []
        rows = pa.concat_tables(tables)
        rows = conform(rows, self._schema if self._schema is not None else delta_schema(rows.schema))
        return write_files(self._uri, rows, self._partition_by, f"part-{ctx.task_idx:05d}-{self.id}")

    def on_write_complete(self, write_result: WriteResult[list[NewFile]]) -> None:
        self.files = sorted((f for files in write_result.write_returns for f in files), key=lambda f: f.path)


def _tables(blocks: Iterable[Block]) -> Iterator[pa.Table]:
    for block in blocks:
        yield BlockAccessor.for_block(block).to_arrow()
