"""Reading the Parquet files of one table version. Knows files, statistics and partitions, and nothing of the log
that lists them: `snapshot` makes a scan of it.

A `Scan` is the pinned file list. Each file carries what holds for all of its rows (partition values and minimum and
maximum from the log), so files that cannot hold a wanted row are not opened.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from rayplat.data.tables import layout as layouts
from rayplat.data.tables import statistics
from rayplat.data.tables.layout import Layout, where_columns
from rayplat.data.tables.place import Place
from rayplat.errors import Corrupt, InvalidInput, NotFound, SchemaMismatch, Unavailable

_BATCH_BYTES = 256 << 20  # larger files are read in pieces
_BATCH_ROWS = 1 << 20


def _format(words: Sequence[str] = ()) -> pads.ParquetFileFormat:
    """How files are read, with the columns ``words`` as dictionaries."""
    # in nanoseconds, distant years wrap round
    options = pads.ParquetReadOptions(coerce_int96_timestamp_unit="us", dictionary_columns=set(words))
    checked = pads.ParquetFragmentScanOptions(page_checksum_verification=True)
    return pads.ParquetFileFormat(read_options=options, default_fragment_scan_options=checked)


_FORMAT = _format()
_MORE_THAN_COMPARES = re.compile(r"\w\(|!=")  # functions and !=; all else compares, and no NaN is true of that
_UNKNOWN = re.compile(r"FieldRef\.\w+\((?:FieldRef\.Name\()?([^)]*)\)")


@dataclass(frozen=True)
class File:
    """One data file of a version. ``key`` is its path in the log; ``rows`` are those that are not deleted; ``ends``
    holds (lowest, highest, whether there are no nulls) by column, ``deleted`` the positions of deleted rows (int64),
    ``written_ms`` the moment that puts it in its place among the others (ms since 1970)."""

    path: str
    size_bytes: int
    rows: int | None
    key: str = ""
    partition: Mapping[str, Any] = field(default_factory=dict)
    partition_text: Mapping[str, str | None] = field(default_factory=dict)
    ends: Mapping[str, tuple[Any, Any, bool]] = field(default_factory=dict)
    deleted: bytes = b""
    written_ms: int = 0


@dataclass(frozen=True)
class Scan:
    """A pinned list of files with the table's ``schema``; can be sent to workers. ``layout`` is None where files hold
    the table's columns under their own names."""

    place: Place
    schema: pa.Schema
    files: tuple[File, ...]
    layout: Layout | None = None

    @property
    def uri(self) -> str:
        return self.place.uri

    def table(self, columns: Sequence[str] | None = None, where: pc.Expression | None = None) -> pa.Table:
        """Rows in the order in which the files were committed. Raises `SchemaMismatch` for an unknown column in
        ``columns``, `InvalidInput` for one in ``where`` and for a string as ``columns``, `NotFound` and `Corrupt`
        naming a file that is gone or damaged."""
        self.check(columns, where)
        parts = list(self._parts(columns, where))
        return pa.concat_tables(parts) if parts else self._empty(columns)

    def batches(self, columns: Sequence[str] | None = None, where: pc.Expression | None = None) -> Iterator[pa.Table]:
        """The same as tables of one file each; of a large file, of a part of it."""
        self.check(columns, where)
        for file in self.files:
            one = replace(self, files=(file,))
            if file.size_bytes <= _BATCH_BYTES or not self._is_plain(file):
                yield one.table(columns, where)
                continue
            names = self.schema.names if columns is None else list(columns)
            with _named_errors(one):
                if where is not None and one._must_read(where):
                    yield from one._reread(names, where)
                    continue
                for batch in one._dataset(where).to_batches(columns=names, filter=where, batch_size=_BATCH_ROWS):
                    if batch.num_rows:
                        yield pa.Table.from_batches([batch])

    def head(self, limit: int, columns: Sequence[str] | None = None) -> pa.Table:
        """The first ``limit`` rows; opens only the files it needs."""
        self.check(columns, None)
        parts: list[pa.Table] = []
        for file in self.files:
            left = limit - sum(part.num_rows for part in parts)
            if left <= 0:
                break
            one = replace(self, files=(file,))
            with _named_errors(one):
                names = self.schema.names if columns is None else list(columns)
                plain = self._is_plain(file)
                parts.append(one._dataset(None).head(left, columns=names) if plain else one.table(names).slice(0, left))
        return pa.concat_tables(parts) if parts else self._empty(columns)

    def slice(
        self, start: int, count: int, columns: Sequence[str] | None = None, *, words: Sequence[str] = ()
    ) -> pa.Table:
        """Rows ``start`` to ``start + count`` of `table`; of large files only the row groups that hold them are
        read. The columns of text in ``words`` come as dictionaries (int32), as files hold them: faster where values
        repeat."""
        self.check(columns, None)
        words = [name for name in words if pa.types.is_string(self.schema.field(name).type)]
        parts: list[pa.Table] = []
        for file in self.files:
            one = replace(self, files=(file,))
            rows = one.count()
            if start < rows and count > 0:
                with _named_errors(one):
                    parts.append(one._slice(start, min(rows - start, count), columns, words))
                count -= parts[-1].num_rows
            start = max(start - rows, 0)
        return pa.concat_tables(parts) if parts else _worded(self._empty(columns), words)

    def prune(self, where: pc.Expression) -> Scan:
        """Without the files that cannot hold a row for which ``where`` is true."""
        self.check(None, where)
        if not self.files:
            return self
        floats = _MORE_THAN_COMPARES.search(str(where)) is None
        kept = {fragment.path for fragment in self._dataset(where, floats=floats).get_fragments(filter=where)}
        return replace(self, files=tuple(f for f in self.files if self.place.resolve(f.key) in kept))

    def count(self, where: pc.Expression | None = None) -> int:
        """Rows (for which ``where`` is true); from the log alone where it tells."""
        if where is not None:
            self.check(None, where)
            plain = self._only(plain=True)
            with _named_errors(self):
                found = plain._counted(where) if plain.files else 0
            return found + sum(int(part.num_rows) for part in self._only(plain=False)._parts([], where))
        known = sum(f.rows or 0 for f in self.files)
        unknown = replace(self, files=tuple(f for f in self.files if f.rows is None))
        with _named_errors(unknown):
            return known + sum(self._footer_rows(file) for file in unknown.files)
        return known

    def split(self, parts: int) -> list[Scan]:
        """At most ``parts`` scans with about equally many bytes, in file order."""
        total = sum(f.size_bytes for f in self.files)
        groups: list[list[File]] = [[] for _ in range(parts)]
        before = 0
        for file in self.files:
            groups[min(parts - 1, before * parts // max(total, 1))].append(file)
            before += file.size_bytes
        return [replace(self, files=tuple(group)) for group in groups if group]

    # --- inside -----------------------------------------------------------------------------------

    def check(self, columns: Sequence[str] | None, where: pc.Expression | None) -> None:
        if isinstance(columns, str):
            raise InvalidInput("columns", f"{columns!r} is one string, not a list of names; write ({columns!r},)")
        for name in columns or ():
            if name not in self.schema.names:
                raise SchemaMismatch(name, f"no such column; there are {', '.join(self.schema.names)}")
        if where is None:
            return
        try:
            self.schema.empty_table().filter(where)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError, TypeError, KeyError) as e:
            unknown = _UNKNOWN.search(str(e))
            what = f"no column {unknown.group(1)!r}" if unknown and "No match" in str(e) else str(e)
            raise InvalidInput("where", f"{what} (columns are {', '.join(self.schema.names)})") from e

    def _parts(self, columns: Sequence[str] | None, where: pc.Expression | None) -> Iterator[pa.Table]:
        names = None if columns is None else list(columns)
        for plain, group in groupby(self.files, self._is_plain):
            part = replace(self, files=tuple(group))
            with _named_errors(part):
                if plain:
                    yield from part._plain_rows(names, where)
                else:
                    files = part.files if where is None else part.prune(where).files
                    yield from (part._read(file, columns, where) for file in files)

    def _slice(self, start: int, count: int, columns: Sequence[str] | None, words: Sequence[str]) -> pa.Table:
        """Rows of the only file."""
        if not self._is_plain(self.files[0]):
            return _worded(self.table(columns).slice(start, count), words)
        file_format = _format(words)
        fragment = file_format.make_fragment(self.place.resolve(self.files[0].key), self.place.filesystem)
        groups, first, before = [], 0, 0
        for group in fragment.row_groups:
            if before + group.num_rows <= start:
                first = before + group.num_rows
            elif before < start + count:
                groups.append(group.id)
            before += group.num_rows
        names = self.schema.names if columns is None else list(columns)
        chosen = [fragment.subset(row_group_ids=groups)]
        schema = _worded(self.schema.empty_table(), words).schema
        found = pads.FileSystemDataset(chosen, schema, file_format, self.place.filesystem).to_table(columns=names)
        return found.slice(start - first, count)

    def _plain_rows(self, names: list[str] | None, where: pc.Expression | None) -> Iterator[pa.Table]:
        if where is None or not self._on_floats(where):
            try:
                yield self._dataset(where).to_table(columns=names, filter=where)
                return
            except pa.ArrowNotImplementedError:
                if where is None:
                    raise
        yield from self._reread(self.schema.names if names is None else names, where)

    def _counted(self, where: pc.Expression) -> int:
        if not self._on_floats(where):
            try:
                return int(self._dataset(where).count_rows(filter=where))
            except pa.ArrowNotImplementedError:
                pass
        return sum(part.num_rows for part in self._reread([], where))

    def _reread(self, names: Sequence[str], where: pc.Expression) -> Iterator[pa.Table]:
        """Plain files without a look at the statistics in them; ``where`` is asked of the rows themselves."""
        pruned = self.prune(where)
        read = list(dict.fromkeys([*names, *where_columns(where, self.schema.names)]))
        for batch in pruned._dataset(None).to_batches(columns=read, batch_size=_BATCH_ROWS):
            rows = pa.Table.from_batches([batch]).filter(where).select(names)
            if rows.num_rows:
                yield rows
        yield self._empty(names)

    def _must_read(self, where: pc.Expression) -> bool:
        """Whether ``where`` cannot be left to Arrow's dataset for this one file (see `_on_floats`; and views of
        strings, as DataFusion writes them, are not compared with strings there)."""
        if self._on_floats(where):
            return True
        found = _FORMAT.make_fragment(self.place.resolve(self.files[0].key), self.place.filesystem).physical_schema
        return any(pa.types.is_string_view(f.type) or pa.types.is_binary_view(f.type) for f in found)

    def _on_floats(self, where: pc.Expression) -> bool:
        """Whether ``where`` uses floats: statistics in files leave NaN out, and Arrow's dataset takes them for what
        holds of every row, so it would find NaN above 0 and miss it where it is asked for."""
        return any(_has_floats(self.schema.field(n).type) for n in where_columns(where, self.schema.names))

    def _read(self, file: File, columns: Sequence[str] | None, where: pc.Expression | None) -> pa.Table:
        """One file by way of its layout."""
        wanted = self.schema.names if columns is None else list(columns)
        used = [] if where is None else where_columns(where, self.schema.names)
        schema = pa.schema([f for f in self.schema if f.name in wanted or f.name in used])
        fragment = _FORMAT.make_fragment(self.place.resolve(file.key), self.place.filesystem)
        layout = self.layout or Layout("none", [{"name": f.name, "type": "", "metadata": {}} for f in self.schema])
        if not len(schema):  # only the number of rows is asked for
            schema = self.schema
        rows = layouts.read(fragment, schema, layout, file.partition, np.frombuffer(file.deleted, np.int64))
        return (rows if where is None else rows.filter(where)).select(wanted)

    def _is_plain(self, file: File) -> bool:
        return self.layout is None and not file.deleted

    def _footer_rows(self, file: File) -> int:
        fragment = _FORMAT.make_fragment(self.place.resolve(file.key), self.place.filesystem)
        return int(fragment.count_rows()) - len(file.deleted) // 8

    def _only(self, plain: bool) -> Scan:
        return replace(self, files=tuple(f for f in self.files if self._is_plain(f) == plain))

    def _empty(self, columns: Sequence[str] | None) -> pa.Table:
        return self.schema.empty_table() if columns is None else self.schema.empty_table().select(list(columns))

    def _dataset(self, where: pc.Expression | None, *, floats: bool = False) -> pads.Dataset:
        """The files with the guarantees that ``where`` can use; those of ``floats`` do not hold for NaN."""
        used = [] if where is None else where_columns(where, self.schema.names)
        filesystem, fragments = self.place.filesystem, []
        for file in self.files:
            own = (n for n in used if n in file.ends and (floats or not _has_floats(self.schema.field(n).type)))
            ends = {name: file.ends[name] for name in own}
            holds = statistics.guarantee(self.schema, file.partition, ends)
            fragments.append(_FORMAT.make_fragment(self.place.resolve(file.key), filesystem, holds))
        return pads.FileSystemDataset(fragments, self.schema, _FORMAT, filesystem)


def _worded(rows: pa.Table, words: Sequence[str]) -> pa.Table:
    """``rows`` with the columns ``words`` as dictionaries."""
    for name in words:
        if name in rows.column_names and not pa.types.is_dictionary(rows.schema.field(name).type):
            rows = rows.set_column(rows.column_names.index(name), name, rows[name].dictionary_encode())
    return rows


class _named_errors:  # noqa: N801 - reads as a context
    """Turns what Arrow says of a missing or damaged file into an error that names the file."""

    def __init__(self, scan: Scan) -> None:
        self._scan = scan

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if not isinstance(error, pa.ArrowException | OSError) or isinstance(error, MemoryError):
            return
        for file in self._scan.files:
            path = self._scan.place.resolve(file.key)
            try:
                _FORMAT.make_fragment(path, self._scan.place.filesystem).to_table()
            except FileNotFoundError as e:
                hint = f"the version of {self._scan.uri} that it belongs to was vacuumed or the table was replaced"
                raise NotFound("data file", file.path, hint) from e
            except (pa.ArrowException, OSError) as e:
                if _is_network(e):
                    raise Unavailable(f"data file {file.path}", str(e)) from e
                raise Corrupt(f"data file {file.path}", "a readable Parquet file", str(e)) from e
        if _is_network(error):
            raise Unavailable(f"table {self._scan.place.name}", str(error)) from error
        if not isinstance(error, OSError):
            what = f"its files do not fit its columns or the expression: {error}"
            raise InvalidInput(f"table {self._scan.place.name}", what) from error


def _has_floats(dtype: pa.DataType) -> bool:
    if pa.types.is_nested(dtype):
        return any(_has_floats(dtype.field(i).type) for i in range(dtype.num_fields))
    return bool(pa.types.is_floating(dtype))


def _is_network(error: BaseException) -> bool:
    """Whether an object store could not be asked (it says no more than this text)."""
    return isinstance(error, OSError) and ("AWS Error" in str(error) or "curlCode" in str(error))
