"""Tables as Ray Datasets: workers read the files of a pinned scan and write new ones; nothing is committed here.

Loads Ray Data, so it is imported where a Dataset is asked for.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data
from ray.data.block import Block, BlockAccessor, BlockMetadata
from ray.data.datasource import Datasink, Datasource, ReadTask, WriteResult

from rayplat.data.tables import rewrite
from rayplat.data.tables.batch import Written
from rayplat.data.tables.checks import Checks, Findings, inspect
from rayplat.data.tables.files import NewFile, remove_files, remove_written, write_files
from rayplat.data.tables.place import Place
from rayplat.data.tables.rewrite import Gone
from rayplat.data.tables.scan import Scan
from rayplat.data.tables.schema import check_partitions, conform, delta_schema
from rayplat.errors import RayplatError, SchemaMismatch
from rayplat.resources import require_resources

MAX_BLOCKS = 200


@dataclass(frozen=True)
class Target:
    """Where and how workers write: ``schema`` None takes the columns of the data; ``fill`` is `conform`'s."""

    place: Place
    schema: pa.Schema | None
    partition_by: tuple[str, ...] = ()
    checks: Checks | None = None
    fill: bool = False


def read(scan: Scan, columns: Sequence[str] | None, where: pc.Expression | None) -> ray.data.Dataset:
    """A Dataset of the rows of ``scan``. Raises `Unschedulable` where not even one task of a CPU fits: it would be
    read by none."""
    require_resources(f"reading {scan.uri}", [{"CPU": 1}])
    scan.check(columns, where)
    pruned = scan if where is None else scan.prune(where)
    blocks = max(1, min(len(pruned.files), MAX_BLOCKS))  # Ray Data would cut small files into dozens of tasks
    found: ray.data.Dataset = ray.data.read_datasource(_Source(pruned, columns, where), override_num_blocks=blocks)
    return found


def write(data: ray.data.Dataset, target: Target) -> Written:
    """Write every block on the worker that has it; the files in the order of the blocks. Raises `Unschedulable` where
    not even one task of a CPU fits, and what a worker raised; then no file is left."""
    require_resources(f"writing {target.place.uri}", [{"CPU": 1}])
    if target.schema is None and (found := schema_of(data)) is not None:
        target = replace(target, schema=delta_schema(found))
    if target.schema is not None:
        check_partitions(target.schema, target.partition_by, target.place.name)
    sink = _Sink(target)
    try:
        data.write_datasink(sink)
        return sink.written()
    except BaseException as e:
        remove_written(target.place, str(sink.id))
        cause = our_error(e)
        if cause is not None and cause is not e:
            raise cause from e
        raise


def schema_of(data: ray.data.Dataset) -> pa.Schema | None:
    """The columns of the data where they are Arrow's and all known."""
    found = getattr(data.schema(), "base_schema", None)
    if not isinstance(found, pa.Schema) or any(pa.types.is_null(f.type) for f in found):
        return None
    return found.remove_metadata()


def thin_all(scans: Sequence[Scan], gone: Gone, by: Sequence[str]) -> list[list[NewFile] | None]:
    """`rewrite.thin` of every scan (one file each) as a task of its own; the results in their order."""
    if not scans:
        return []
    task, shared = ray.remote(rewrite.thin), ray.put(gone)
    refs = [task.remote(scan, shared, list(by)) for scan in scans]
    done: list[list[NewFile] | None] = []
    error: BaseException | None = None
    for ref in refs:  # all of them, so that what the others wrote is known
        try:
            done.append(ray.get(ref))
        except Exception as e:  # noqa: BLE001 - raised again below
            error = error or e
    if error is not None:
        remove_files(scans[0].place, [file for result in done for file in result or ()])
        raise our_error(error) or error
    return done


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


@dataclass(frozen=True)
class _Part:
    """What one write task wrote."""

    index: int
    files: list[NewFile]
    schema: pa.Schema
    findings: Findings | None


class _Sink(Datasink[list[_Part]]):
    """File names hold the index of the write task, so the order of files is the order of blocks."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self.id = uuid.uuid4()
        self._parts: list[_Part] = []

    def write(self, blocks: Iterable[Block], ctx: Any) -> list[_Part]:
        tables = [table for table in _tables(blocks) if table.num_rows]
        if not tables:
            return []
        target, rows = self._target, pa.concat_tables(tables)
        schema = target.schema if target.schema is not None else delta_schema(rows.schema)
        rows = conform(rows, schema, fill=target.fill)
        findings = inspect(rows, target.checks) if target.checks else None
        files = write_files(target.place, rows, target.partition_by, f"part-{ctx.task_idx:05d}-{self.id}")
        return [_Part(ctx.task_idx, files, schema, findings)]

    def on_write_complete(self, write_result: WriteResult[list[_Part]]) -> None:
        parts = [part for parts in write_result.write_returns for part in parts]
        self._parts = sorted(parts, key=lambda part: part.index)

    def written(self) -> Written:
        """All parts as one. Raises `SchemaMismatch` where they do not have the same columns."""
        schema, findings = self._target.schema, None
        for part in self._parts:
            schema = schema if schema is not None else part.schema
            for ours, theirs in zip(schema, part.schema, strict=False):
                if ours != theirs or len(schema) != len(part.schema):
                    raise SchemaMismatch(theirs.name, f"some blocks have {theirs}, others {ours}")
            if part.findings is not None:
                findings = part.findings if findings is None else findings.merge(_after(part.findings, findings.rows))
        if findings is None and self._target.checks and schema is not None:
            findings = inspect(schema.empty_table(), self._target.checks)
        return Written([file for part in self._parts for file in part.files], schema, findings)


def _after(findings: Findings, rows: int) -> Findings:
    """With positions counted from ``rows`` rows before."""
    return replace(findings, broken=tuple(replace(b, rows=tuple(i + rows for i in b.rows)) for b in findings.broken))


def our_error(error: BaseException | None) -> RayplatError | None:
    """The platform's error inside what Ray raised."""
    while error is not None:
        if isinstance(error, RayplatError):
            plain = type(error)
            return error if plain.__module__ == "rayplat.errors" else _plain(error)
        error = getattr(error, "cause", None) or error.__cause__
    return None


def _plain(error: RayplatError) -> RayplatError:
    cause = getattr(error, "cause", None)  # Ray's twin of the error holds the error
    return cause if isinstance(cause, RayplatError) else error


def _tables(blocks: Iterable[Block]) -> Iterator[pa.Table]:
    for block in blocks:
        yield BlockAccessor.for_block(block).to_arrow()
