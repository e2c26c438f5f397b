"""Files as a source: Parquet, CSV or JSON, one file or a folder of them, local or on S3. Knows formats and which
files it has read; nothing of tables.

A file counts as read by its path, size and time of modification. Files are not expected to change: one that did is
refused by name, because the table already holds rows of its former state.
"""

from __future__ import annotations

import base64
import csv
import fnmatch
import hashlib
import io
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.fs as pafs
import pyarrow.json as pajson
import pyarrow.parquet as pq

from rayplat.data.sources.source import Watermark
from rayplat.data.sources.typed import as_text, fit, parse_moments
from rayplat.data.tables.place import Place
from rayplat.errors import Conflict, Corrupt, InvalidInput, NotFound, SchemaMismatch

if TYPE_CHECKING:
    from ray.data import Dataset

Format = Literal["parquet", "csv", "json"]
FORMATS: tuple[Format, ...] = ("parquet", "csv", "json")
_SUFFIXES: dict[str, tuple[str, ...]] = {
    "parquet": (".parquet", ".parq"),
    "csv": (".csv", ".csv.gz"),
    "json": (".json", ".jsonl", ".ndjson", ".json.gz", ".jsonl.gz", ".ndjson.gz"),
}
_IN_PROCESS = 256 << 20
_PATH_BYTES = _STATE_BYTES = 8


@dataclass(frozen=True)
class FileSource:
    """``uri`` is a file, a folder (searched at every depth for names that end as ``format`` does) or a pattern such as
    ``s3://bucket/in/*.csv``. ``columns`` declares their types; otherwise Parquet says them itself, and those of CSV
    and JSON are the table's, or at the first ingestion those that the first file suggests.

    JSON is one object per line, or one array of objects. ``nulls`` are the fields of a CSV that mean null.
    """

    name: str
    uri: str
    format: Format
    columns: pa.Schema | None = None
    delimiter: str = ","
    nulls: tuple[str, ...] = ("",)
    storage_options: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if self.format not in _SUFFIXES:
            raise InvalidInput("format", f"{self.format!r} is not one of {', '.join(_SUFFIXES)}")
        if len(self.delimiter) != 1:
            raise InvalidInput("delimiter", f"{self.delimiter!r} is not one character")

    def schema(self) -> pa.Schema:
        """``columns``, or those of the first file by path. Raises `NotFound` where there is no file."""
        if self.columns is not None:
            return self.columns
        files = self._files()
        if not files:
            raise NotFound(f"{self.format} file", self.uri, "a source needs one to know its columns, or `columns`")
        return self._read(files[0].path, None).schema

    def read(self, after: Watermark | None, declared: pa.Schema | None) -> tuple[pa.Table | Dataset, Watermark]:
        """The rows of the files not yet read, in the order of modification. Where they are large and Ray is running, a
        Dataset whose files are read by the workers."""
        seen = _decoded(after)
        new, files = [], self._files()
        for file in files:
            known = seen.get(_short(file.path, _PATH_BYTES))
            if known is not None and known != _state(file):
                raise Conflict(f"{file.path} changed after it was ingested; give changed rows as a new file")
            if known is None:
                new.append(file)
        new.sort(key=lambda f: (f.mtime_ns, f.path))
        schema = self.columns or declared
        if schema is None:
            schema = self.schema()
        seen |= {_short(f.path, _PATH_BYTES): _state(f) for f in new}
        paths = [f.path for f in new]
        mark = after if after is not None and not new else {"files": len(seen), "seen": _encoded(seen)}
        if sum(f.size for f in new) > _IN_PROCESS and _ray_runs():
            return self._dataset(paths, schema), mark
        parts = [self._read(path, schema) for path in paths]
        self._unchanged(new)
        rows = pa.concat_tables(parts, promote_options="default") if parts else schema.empty_table()
        return rows, mark

    def _files(self) -> list[pafs.FileInfo]:
        """All files, by path. Raises `NotFound` where the folder or the file is not there."""
        pattern = self.uri if any(c in self.uri for c in "*?[") else None
        folder = self.uri if pattern is None else self.uri[: min(self.uri.index(c) for c in "*?[" if c in self.uri)]
        place = self._place(folder if pattern is None else folder.rpartition("/")[0])
        top = place.filesystem.get_file_info(place.root)
        if top.type == pafs.FileType.File:
            return [top]
        if top.type == pafs.FileType.NotFound:
            raise NotFound("folder or file", self.uri, f"source {self.name} reads it")
        found = place.filesystem.get_file_info(pafs.FileSelector(place.root, recursive=True))
        files = [f for f in found if f.type == pafs.FileType.File and not _hidden(f.path[len(place.root) :])]
        if pattern is None:
            files = [f for f in files if f.base_name.lower().endswith(_SUFFIXES[self.format])]
        else:
            wanted = Place.of(pattern).root
            files = [f for f in files if fnmatch.fnmatchcase(f.path, wanted)]
        return sorted(files, key=lambda f: f.path)

    def _read(self, path: str, schema: pa.Schema | None) -> pa.Table:
        """One file in the types of ``schema`` (None: those it suggests)."""
        try:
            with self._place(self.uri).filesystem.open_input_stream(path) as stream:
                content = stream.read()
        except FileNotFoundError as e:
            raise NotFound("file", path, f"it was there when source {self.name} was listed") from e
        except OSError as e:  # also a damaged compressed file
            raise Corrupt(path, f"a {self.format} file", str(e)) from e
        rows = {"parquet": self._parquet, "csv": self._csv, "json": self._json}[self.format](path, content, schema)
        return rows if schema is None else fit(rows, schema, path)

    def _parquet(self, path: str, content: bytes, _: pa.Schema | None) -> pa.Table:
        try:
            return pq.read_table(io.BytesIO(content)).replace_schema_metadata()
        except (pa.ArrowException, OSError) as e:
            raise Corrupt(path, "a Parquet file", str(e)) from e

    def _csv(self, path: str, content: bytes, schema: pa.Schema | None) -> pa.Table:
        convert = pacsv.ConvertOptions(
            column_types=as_text(schema) if schema is not None else None,
            null_values=list(self.nulls),
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        )
        parse = pacsv.ParseOptions(delimiter=self.delimiter, newlines_in_values=True)
        try:
            rows = pacsv.read_csv(io.BytesIO(content), parse_options=parse, convert_options=convert)
        except (pa.ArrowInvalid, UnicodeDecodeError) as e:
            raise self._unfit(path, content, e, schema) from e
        return parse_moments(rows, schema, path) if schema is not None else _utc(rows)

    def _json(self, path: str, content: bytes, schema: pa.Schema | None) -> pa.Table:
        options = pajson.ParseOptions(explicit_schema=as_text(schema) if schema is not None else None)
        if content.lstrip()[:1] == b"[":
            content = _lines(path, content)
        if not content.strip():
            return (schema if schema is not None else pa.schema([])).empty_table()
        block = pajson.ReadOptions(block_size=max(len(content), 1 << 20))  # no line is longer than a block
        try:
            rows = pajson.read_json(io.BytesIO(content), block, options)
        except (pa.ArrowInvalid, UnicodeDecodeError) as e:
            raise self._unfit(path, content, e, schema) from e
        return parse_moments(rows, schema, path) if schema is not None else _utc(rows)

    def _unfit(self, path: str, content: bytes, error: Exception, schema: pa.Schema | None) -> Exception:
        """The column that a parser's error speaks of, where it speaks of one."""
        text, name = str(error), None
        if at := re.search(r"In CSV column #(\d+):", text):
            header = next(csv.reader(content.decode(errors="replace").splitlines()[:1], delimiter=self.delimiter), [])
            name = header[int(at[1])] if int(at[1]) < len(header) else None
        elif at := re.search(r"Column\(/([^/)]+)", text):
            name = at[1]
        if name is None:
            return Corrupt(path, f"a {self.format.upper()} file", text)
        expected = f"; expected {schema.field(name).type}" if schema is not None and name in schema.names else ""
        return SchemaMismatch(name, f"{path}: {text}{expected}")

    def _unchanged(self, files: Sequence[pafs.FileInfo]) -> None:
        filesystem = self._place(self.uri).filesystem
        for before, now in zip(files, filesystem.get_file_info([f.path for f in files]), strict=True):
            if now.type != pafs.FileType.File or _state(now) != _state(before):
                raise Conflict(f"{before.path} changed while it was read; ingest when it is complete")

    def _dataset(self, paths: list[str], schema: pa.Schema) -> Dataset:
        import ray.data

        items = ray.data.from_items([{"path": path} for path in paths], override_num_blocks=min(len(paths), 200))

        def read(batch: pa.Table) -> pa.Table:
            return pa.concat_tables(
                [self._read(p, schema) for p in batch["path"].to_pylist()], promote_options="default"
            )

        found: Dataset = items.map_batches(read, batch_size=1, batch_format="pyarrow")
        return found

    def _place(self, uri: str) -> Place:
        return Place.of(uri, self.storage_options)


def _hidden(relative: str) -> bool:
    return any(part.startswith(("_", ".")) for part in relative.split("/") if part)


def _utc(rows: pa.Table) -> pa.Table:
    """What a parser found, in types that a table holds."""
    for i, found in enumerate(rows.schema):
        if pa.types.is_timestamp(found.type):
            rows = rows.set_column(i, found.name, rows[found.name].cast(pa.timestamp("us", "UTC")))
        elif pa.types.is_null(found.type):
            rows = rows.set_column(i, found.name, rows[found.name].cast(pa.string()))
    return rows


def _lines(path: str, content: bytes) -> bytes:
    try:
        return "\n".join(json.dumps(one) for one in json.loads(content)).encode()
    except ValueError as e:
        raise Corrupt(path, "JSON: one object per line, or an array of objects", str(e)) from e


def _short(text: str, size: int) -> bytes:
    return hashlib.sha256(text.encode()).digest()[:size]


def _state(file: pafs.FileInfo) -> bytes:
    return _short(f"{file.size} {file.mtime_ns}", _STATE_BYTES)


def _encoded(seen: dict[bytes, bytes]) -> str:
    return base64.b64encode(b"".join(path + state for path, state in sorted(seen.items()))).decode()


def _decoded(mark: Watermark | None) -> dict[bytes, bytes]:
    if mark is None:
        return {}
    packed, step = base64.b64decode(_known(mark, "seen")), _PATH_BYTES + _STATE_BYTES
    return {packed[i : i + _PATH_BYTES]: packed[i + _PATH_BYTES : i + step] for i in range(0, len(packed), step)}


def _known(mark: Watermark, key: str) -> Any:
    if key not in mark:
        raise Conflict(f"the watermark {dict(mark)} is not one of files; another kind of source has this name")
    return mark[key]


def _ray_runs() -> bool:
    ray = sys.modules.get("ray")  # not imported: not running
    return ray is not None and bool(ray.is_initialized())
