"""The rows behind Feast's sources: where they are, reading them pinned, adding to them.

Two kinds are known: Delta tables (`DeltaSource`, Feast's `FileSource` with `DeltaFormat`) and Parquet files
(`FileSource`); any other is refused by name. Options to open a storage come from the offline store's
configuration and from a source's ``connection_ref``, never from the registry.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import pyarrow as pa
import pyarrow.compute as pc
from feast.data_format import DeltaFormat, ParquetFormat
from feast.data_source import DataSource
from feast.infra.offline_stores.file_source import FileSource
from feast.repo_config import RepoConfig

from rayplat.data.feast import parquet
from rayplat.data.feast.source import DeltaSource
from rayplat.data.tables import Tables
from rayplat.data.tables.place import Place
from rayplat.data.tables.scan import Scan
from rayplat.errors import InvalidInput, NotFound, SchemaMismatch


class WrongColumns(SchemaMismatch, ValueError):
    """``WrongColumns(field, reason)``: rows whose columns are not the source's. Feast's callers expect a ValueError."""


@dataclass(frozen=True)
class Located:
    """Where rows are. ``delta`` or else Parquet files; ``options`` in delta-rs's names (``AWS_ENDPOINT_URL``...)."""

    uri: str
    delta: bool
    version: int | None = None
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def table(self) -> tuple[Tables, str]:
        """A Delta place as its folder of tables and the table's name."""
        folder, _, name = self.uri.rpartition("/")
        return _Folder(folder, self.options), name

    @property
    def place(self) -> Place:
        return Place.of(self.uri, self.options)

    def full(self, path: str) -> str:
        """The URI of a file of this place."""
        return f"{self.uri.partition('://')[0]}://{path}" if "://" in self.uri and "://" not in path else path


class _Folder(Tables):
    """Tables that others made may have any name."""

    def place(self, name: str) -> Place:
        return self._place.under(name)


def locate(config: RepoConfig, source: DataSource) -> Located:
    """Raises `InvalidInput` for a kind of source that is not read here."""
    store = config.offline_store
    options = dict(getattr(store, "storage_options", None) or {})
    if isinstance(source, DeltaSource):
        if source.storage:
            options = _named(store, source.storage)
        options |= source.resolve_credentials() or {}
        return Located(_uri(config, source), True, source.version, options)
    if isinstance(source, FileSource) and isinstance(source.file_format, DeltaFormat | ParquetFormat | None):
        if source.s3_endpoint_override:
            options["AWS_ENDPOINT_URL"] = source.s3_endpoint_override
            options |= {"AWS_ALLOW_HTTP": "true"} if source.s3_endpoint_override.startswith("http:") else {}
        options |= source.resolve_credentials() or {}
        delta = isinstance(source.file_format, DeltaFormat)
        return Located(absolute(config, source.path), delta, None, options)
    raise InvalidInput(
        f"source {source.name}",
        f"{type(source).__name__} is not read by DeltaRayOfflineStore; use DeltaSource, or FileSource with Parquet "
        "files or a Delta table",
    )


def below(config: RepoConfig, folder: str, name: str) -> Located:
    """A new folder of Parquet files in ``folder``."""
    return Located(f"{absolute(config, folder)}/{name}", False, None, config.offline_store.storage_options)


def scan(at: Located) -> Scan | parquet.ParquetFiles:
    """The pinned files. Raises `NotFound` for a table, version or path that is not there."""
    if not at.delta:
        return parquet.listed(at.place)
    tables, name = at.table
    return tables.scan(name, at.version)


def column_types(config: RepoConfig, source: DataSource) -> list[tuple[str, str]]:
    """Names and Arrow types of a source's columns, as Feast's type map knows them."""
    at = locate(config, source)
    return [(column.name, str(_plain(column.type, at.delta))) for column in scan(at).schema]


def exists(at: Located) -> bool:
    if not at.delta:
        return parquet.exists(at.place)
    tables, name = at.table
    try:
        tables.version(name)
    except NotFound:
        return False
    return True


def append(at: Located, rows: pa.Table) -> None:
    """Add ``rows``, which have the source's columns in its order, in one step. Raises `WrongColumns`."""
    known = scan(at).schema
    if rows.column_names != known.names:
        raise WrongColumns(at.uri, f"the columns are {', '.join(known.names)}, not {', '.join(rows.column_names)}")
    fitting = pa.table([_fit(rows[column.name], column) for column in known], schema=known)
    if at.delta:
        tables, name = at.table
        tables.append(name, fitting)
    else:
        parquet.append(at.place, fitting)


def add(at: Located, rows: pa.Table, partition_by: Sequence[str] = ()) -> None:
    """As `append`, but the first rows make the place and new columns are taken in."""
    if not at.delta:
        parquet.add(at.place, rows, partition_by)
        return
    tables, name = at.table
    if exists(at):
        tables.append(name, rows, evolve=True)
    else:
        tables.create(name, rows, partition_by=tuple(partition_by))


def replace(at: Located, rows: Any) -> None:
    """Make the place hold exactly ``rows`` (an Arrow table; for Delta also a Ray Dataset)."""
    if not at.delta:
        parquet.replace_all(at.place, rows)
        return
    tables, name = at.table
    tables.overwrite(name, rows, replace_schema=True)


def _named(store: Any, storage: str) -> dict[str, str]:
    known = getattr(store, "storages", None) or {}
    if storage not in known:
        raise NotFound("storage", storage, f"offline_store.storages has {', '.join(known) or 'none'}")
    return dict(known[storage])


def _uri(config: RepoConfig, source: DeltaSource) -> str:
    if source.uri:
        return absolute(config, source.uri)
    folder = getattr(config.offline_store, "tables_uri", None)
    if not folder:
        raise InvalidInput("offline_store.tables_uri", f"not set, but source {source.name!r} names a table")
    return f"{absolute(config, folder)}/{source.table}"


def absolute(config: RepoConfig, uri: str) -> str:
    parsed = urlparse(uri)
    if parsed.scheme == "file":
        return parsed.path.rstrip("/")
    if parsed.scheme and parsed.netloc:
        return uri.rstrip("/")
    root = Path(config.repo_path) if config.repo_path else Path.cwd()
    return str((root / uri).absolute())


def _fit(column: pa.ChunkedArray, wanted: pa.Field) -> pa.ChunkedArray:
    """``column`` in a source's type: times lose what is below a microsecond, numbers must fit."""
    if pa.types.is_map(wanted.type) and pa.types.is_struct(column.type):
        pairs = [None if row is None else list(row.items()) for row in column.to_pylist()]
        return pa.chunked_array([pa.array(pairs, wanted.type)])
    try:
        if pa.types.is_timestamp(wanted.type) and pa.types.is_timestamp(column.type):
            return pc.cast(column, wanted.type, safe=False)
        return column.cast(wanted.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as e:
        raise WrongColumns(wanted.name, f"{column.type} does not fit the source's {wanted.type}: {e}") from e


def _plain(dtype: pa.DataType, delta: bool) -> pa.DataType:
    """The type whose name Feast's type map holds: lists call their values "item". Delta has one kind of text; in
    Parquet files Feast takes large strings for JSON."""
    if pa.types.is_list(dtype) or pa.types.is_large_list(dtype):
        return pa.list_(pa.field("item", _plain(dtype.value_type, delta)))
    if delta and (pa.types.is_large_string(dtype) or pa.types.is_string_view(dtype)):
        return pa.string()
    return _plain(dtype.value_type, delta) if pa.types.is_dictionary(dtype) else dtype
