"""Reading and writing the Parquet files of one table version. Knows files, statistics and partitions, and
nothing of the log that lists them: `tables` owns that.

A `Scan` is the pinned file list. Each file carries a guarantee, an expression that holds for all of its rows
(partition values and minimum and maximum from the log), so files that cannot hold a wanted row are not opened.
"""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from rayplat.errors import InvalidInput, NotFound, SchemaMismatch

ROW_GROUP = 65_536
FILE_ROWS = 2_000_000
_STATISTICS = 32
_MILLISECOND = timedelta(milliseconds=1)


@dataclass(frozen=True)
class File:
    """One data file of a version; ``guarantee`` holds for each of its rows."""

    path: str
    size_bytes: int
    rows: int | None
    guarantee: pc.Expression


@dataclass(frozen=True)
class NewFile:
    """A file that was written and belongs to no version yet. ``path`` is relative to the table."""

    path: str
    size_bytes: int
    partition: dict[str, str | None]
    statistics: str
    rows: int


@dataclass(frozen=True)
class Scan:
    """A pinned list of files with the table's ``schema``; can be sent to workers."""

    uri: str
    schema: pa.Schema
    files: tuple[File, ...]

    def table(self, columns: Sequence[str] | None = None, where: pc.Expression | None = None) -> pa.Table:
        """Rows in the order in which the files were committed. Raises `SchemaMismatch` for an unknown column."""
        self._check(columns)
        try:
            return self._dataset().to_table(columns=None if columns is None else list(columns), filter=where)
        except FileNotFoundError as e:
            raise NotFound("data file", str(e), f"a version of {self.uri} whose files were removed") from e
        except pa.ArrowInvalid as e:
            raise InvalidInput("where", f"{e} (columns are {', '.join(self.schema.names)})") from e

    def batches(self, columns: Sequence[str] | None, where: pc.Expression | None) -> Iterator[pa.Table]:
        """The same as tables of one file each."""
        for file in self.files:
            yield replace(self, files=(file,)).table(columns, where)

    def head(self, limit: int) -> pa.Table:
        """The first ``limit`` rows; opens only the files it needs."""
        return self._dataset().head(limit)

    def prune(self, where: pc.Expression) -> Scan:
        """Without the files that cannot hold a row for which ``where`` is true."""
        if not self.files:
            return self
        kept = {fragment.path for fragment in self._dataset().get_fragments(filter=where)}
        return replace(self, files=tuple(f for f in self.files if _inside(f.path) in kept))

    def count(self) -> int:
        if all(f.rows is not None for f in self.files):
            return sum(f.rows or 0 for f in self.files)
        return int(self._dataset().count_rows())

    def split(self, parts: int) -> list[Scan]:
        """At most ``parts`` scans with about equally many bytes, in file order."""
        total = sum(f.size_bytes for f in self.files)
        groups: list[list[File]] = [[] for _ in range(parts)]
        before = 0
        for file in self.files:
            groups[min(parts - 1, before * parts // max(total, 1))].append(file)
            before += file.size_bytes
        return [replace(self, files=tuple(group)) for group in groups if group]

    def _check(self, columns: Sequence[str] | None) -> None:
        for name in columns or ():
            if name not in self.schema.names:
                raise SchemaMismatch(name, f"no such column; there are {', '.join(self.schema.names)}")

    def _dataset(self) -> pads.Dataset:
        filesystem, _ = pafs.FileSystem.from_uri(self.uri)
        parquet = pads.ParquetFileFormat()
        fragments = [parquet.make_fragment(_inside(f.path), filesystem, f.guarantee) for f in self.files]
        return pads.FileSystemDataset(fragments, self.schema, parquet, filesystem)


def guarantee(
    schema: pa.Schema, partition: dict[str, Any], lowest: dict[str, Any], highest: dict[str, Any], nulls: dict[str, Any]
) -> pc.Expression:
    """What holds for all rows of a file. Strings and floats are left out: the log cuts long strings and a minimum
    says nothing of NaN. The log keeps times to the millisecond only, so the upper end is widened by one."""
    holds = pc.scalar(True)
    for name, value in partition.items():
        known = pa.scalar(value, schema.field(name).type)
        holds = holds & (pc.field(name).is_null() if value is None else pc.field(name) == known)
    for name, low in lowest.items():
        high = highest.get(name)
        if name in partition or not isinstance(low, int | date | datetime) or isinstance(low, bool) or high is None:
            continue
        dtype = schema.field(name).type
        upper = high + _MILLISECOND if isinstance(high, datetime) else high
        for end in (pc.field(name) >= pa.scalar(low, dtype), pc.field(name) <= pa.scalar(upper, dtype)):
            holds = holds & (end if nulls.get(name) == 0 else end | pc.field(name).is_null())
    return holds


def delta_schema(schema: pa.Schema) -> pa.Schema:
    """``schema`` in the types that a Delta table holds. Raises `SchemaMismatch` for a type it cannot hold."""
    seen: set[str] = set()
    for field in schema:
        if field.name.lower() in seen:
            raise SchemaMismatch(field.name, "a column of this name (case aside) comes twice")
        seen.add(field.name.lower())
    return pa.schema([pa.field(f.name, _delta_type(f.name, f.type), f.nullable) for f in schema])


def conform(data: pa.Table, schema: pa.Schema) -> pa.Table:
    """``data`` with the columns of ``schema``. Raises `SchemaMismatch` naming the first column that does not fit."""
    for name in data.column_names:
        if name not in schema.names:
            raise SchemaMismatch(name, f"the table has no such column; it has {', '.join(schema.names)}")
    columns = []
    for field in schema:
        if field.name not in data.column_names:
            raise SchemaMismatch(field.name, f"missing in the data; the table declares {field.type}")
        column = data[field.name]
        found = pa.types.is_null(column.type) or _delta_type(field.name, column.type) == field.type
        if not found:
            raise SchemaMismatch(field.name, f"the table declares {field.type}, the data has {column.type}")
        if not field.nullable and column.null_count:
            raise SchemaMismatch(field.name, f"{column.null_count} nulls in a column declared as not null")
        try:
            columns.append(column.cast(field.type))
        except pa.ArrowInvalid as e:
            raise SchemaMismatch(field.name, f"does not fit {field.type}: {e}") from e
    return pa.table(columns, schema=schema)


def write_files(uri: str, data: pa.Table, partition_by: Sequence[str], stem: str | None = None) -> list[NewFile]:
    """Write ``data`` (already conformed) under ``uri``; the files count only once a commit names them.

    ``stem`` names the files: sorted stems give the order of rows.
    """
    stem = stem or f"part-00000-{uuid.uuid4()}"
    filesystem, root = pafs.FileSystem.from_uri(uri)
    written = []
    for partition, rows in _partitions(data, partition_by):
        folder = PurePosixPath(*(f"{k}={_quoted(v)}" for k, v in partition.items()))
        filesystem.create_dir(f"{root}/{folder}", recursive=True)
        for start in range(0, rows.num_rows, FILE_ROWS):
            path = str(folder / f"{stem}-{start // FILE_ROWS:03d}.parquet")
            piece = rows.slice(start, FILE_ROWS)
            strings = [f.name for f in piece.schema if pa.types.is_string(f.type)]
            with filesystem.open_output_stream(f"{root}/{path}") as out:
                pq.write_table(piece, out, row_group_size=ROW_GROUP, compression="zstd", use_dictionary=strings)
            size = filesystem.get_file_info(f"{root}/{path}").size
            written.append(NewFile(path, size, partition, _statistics(piece), piece.num_rows))
    return written


def remove_files(uri: str, files: Sequence[NewFile]) -> None:
    """Delete files that no commit names."""
    filesystem, root = pafs.FileSystem.from_uri(uri)
    for file in files:
        filesystem.delete_file(f"{root}/{file.path}")


def remove_written(uri: str, stem_part: str) -> None:
    """Delete what a failed write left: the files whose name contains ``stem_part``."""
    filesystem, root = pafs.FileSystem.from_uri(uri)
    for entry in filesystem.get_file_info(pafs.FileSelector(root, recursive=True, allow_not_found=True)):
        if entry.type == pafs.FileType.File and stem_part in entry.base_name:
            filesystem.delete_file(entry.path)


def _partitions(data: pa.Table, by: Sequence[str]) -> Iterator[tuple[dict[str, str | None], pa.Table]]:
    if not by:
        yield {}, data
        return
    for values in data.select(list(by)).group_by(list(by)).aggregate([]).to_pylist():
        matches = pc.scalar(True)
        for name, value in values.items():
            same = pa.scalar(value, data.schema.field(name).type)
            matches = matches & (pc.field(name).is_null() if value is None else pc.field(name) == same)
        partition = {k: None if v is None else str(v) for k, v in values.items()}
        yield partition, data.filter(matches).drop_columns(list(by))


def _statistics(data: pa.Table) -> str:
    """Delta's statistics of the leading columns: rows, nulls, and ends of integers, dates and times."""
    lowest, highest, nulls = {}, {}, {}
    for field in list(data.schema)[:_STATISTICS]:
        nulls[field.name] = data[field.name].null_count
        if pa.types.is_integer(field.type) or pa.types.is_date(field.type) or pa.types.is_timestamp(field.type):
            ends = pc.min_max(data[field.name]).as_py()
            if ends["min"] is not None:
                lowest[field.name] = _plain(ends["min"], math.floor)
                highest[field.name] = _plain(ends["max"], math.ceil)
    tree = {"numRecords": data.num_rows, "minValues": lowest, "maxValues": highest, "nullCount": nulls}
    return json.dumps(tree)


def _plain(value: Any, whole: Any) -> Any:
    if isinstance(value, datetime):
        day = value.replace(microsecond=0, tzinfo=None)
        at = day + timedelta(milliseconds=whole(value.microsecond / 1000))
        return at.isoformat(timespec="milliseconds") + ("Z" if value.tzinfo else "")
    return value.isoformat() if isinstance(value, date) else value


def _delta_type(name: str, dtype: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(dtype):
        return _delta_type(name, dtype.value_type)
    if pa.types.is_large_string(dtype) or pa.types.is_string_view(dtype):
        return pa.string()
    if pa.types.is_timestamp(dtype):
        return pa.timestamp("us", tz="UTC")
    if pa.types.is_map(dtype):
        return pa.map_(_delta_type(name, dtype.key_type), _delta_type(name, dtype.item_type))
    if pa.types.is_list(dtype) or pa.types.is_large_list(dtype):
        return pa.list_(_delta_type(name, dtype.value_type))
    held = (pa.types.is_signed_integer, pa.types.is_float32, pa.types.is_float64, pa.types.is_boolean)
    if any(is_one(dtype) for is_one in (*held, pa.types.is_string, pa.types.is_binary, pa.types.is_date32)):
        return dtype
    raise SchemaMismatch(name, f"a table cannot hold {dtype}; cast it to a signed integer, double, string or timestamp")


def _quoted(value: str | None) -> str:
    return "__HIVE_DEFAULT_PARTITION__" if value is None else quote(value, safe=" ")


def _inside(path: str) -> str:
    """The path as its file system knows it."""
    return path.partition("://")[2] if "://" in path else path
