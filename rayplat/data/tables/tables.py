"""Versioned tables: the only owner of Delta Lake. Knows commits and versions; the bytes are `scan`'s.

"Latest" and a moment in time become a version number once (`Tables.version`), and everything after reads that
version. A commit is atomic; with a ``transaction`` (application, sequence number) it happens at most once.
A table that could not be read right (deletion vectors, column mapping) is refused by name of the feature.
"""

from __future__ import annotations

import hashlib
import json
import logging
import random
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs

from rayplat.data.tables.scan import (
    File,
    NewFile,
    Scan,
    conform,
    delta_schema,
    guarantee,
    remove_files,
    write_files,
)
from rayplat.errors import AlreadyExists, Conflict, InvalidInput, NotFound
from rayplat.types import Column, Commit, TableInfo, TableVersion, check_name

if TYPE_CHECKING:
    from deltalake import DeltaTable
    from ray.data import Dataset

log = logging.getLogger(__name__)

At = int | datetime | None
Transaction = tuple[str, int]

_READABLE = frozenset({"timestampNtz", "v2Checkpoint", "vacuumProtocolCheck"})
_KEEP = {
    "delta.logRetentionDuration": "interval 3650 days",
    "delta.deletedFileRetentionDuration": "interval 3650 days",
}
_REPLANS = 8


class Tables:
    """The tables under one folder (or ``s3://`` prefix) ``uri``. Cheap to make, safe to share and to send."""

    def __init__(self, uri: str) -> None:
        self.uri = uri.rstrip("/")

    def __repr__(self) -> str:
        return f"Tables({self.uri!r})"

    def names(self) -> list[str]:
        """Names of all tables, sorted."""
        filesystem, root = pafs.FileSystem.from_uri(self.uri)
        entries = filesystem.get_file_info(pafs.FileSelector(root, allow_not_found=True))
        logs = filesystem.get_file_info([f"{e.path}/_delta_log" for e in entries if e.type == pafs.FileType.Directory])
        return sorted(e.path.split("/")[-2] for e in logs if e.type == pafs.FileType.Directory)

    def info(self, name: str) -> TableInfo:
        table = self._load(name)
        columns = tuple(Column(f.name, str(f.type), f.nullable) for f in _schema(table))
        return TableInfo(name, columns, self._identify(name, table))

    def version(self, name: str, version: At = None) -> TableVersion:
        """The identity of one version: a number, the last one at a moment, or the latest.

        Raises `NotFound` for a table or version that is not there and a moment before the first version.
        """
        return self._identify(name, self._load(name, version))

    def history(self, name: str) -> list[Commit]:
        """All commits, newest first."""
        found = []
        for entry in self._load(name).history():
            rows = entry.get("rows")
            at = datetime.fromtimestamp(entry["timestamp"] / 1000, UTC)
            run_id = entry.get("run_id")
            found.append(Commit(entry["version"], at, entry["operation"], run_id, None if rows is None else int(rows)))
        return found

    def metadata(self, name: str, version: int) -> dict[str, str]:
        """What the writer noted with a commit (``metadata`` of `overwrite`, ``run_id``, ``rows``)."""
        for entry in self._load(name).history():
            if entry["version"] == version:
                return {k: v for k, v in entry.items() if isinstance(v, str)}
        raise NotFound("table version", f"{name}@{version}")

    def transaction_version(self, name: str, app_id: str) -> int | None:
        """The highest sequence number committed under ``app_id``; None: none."""
        found = self._load(name).transaction_version(app_id)
        return None if found is None else int(found)

    def scan(self, table: str | TableVersion, version: At = None) -> Scan:
        """The pinned file list; `Scan.table` reads it, also on a worker."""
        name, version = _pinned(table, version)
        return self._scan(self._load(name, version))

    def read(
        self,
        table: str | TableVersion,
        version: At = None,
        columns: Sequence[str] | None = None,
        where: pc.Expression | None = None,
    ) -> pa.Table:
        """Rows of one version in this process."""
        return self.scan(table, version).table(columns, where)

    def head(self, name: str, version: At = None, limit: int = 20) -> pa.Table:
        """The first ``limit`` rows of a version."""
        return self.scan(name, version).head(limit)

    def dataset(
        self,
        table: str | TableVersion,
        version: At = None,
        columns: Sequence[str] | None = None,
        where: pc.Expression | None = None,
    ) -> Dataset:
        """The same as a Ray Dataset; files that ``where`` rules out are not read."""
        from rayplat.data.tables import ray_io

        return ray_io.read(self.scan(table, version), columns, where)

    def create(
        self, name: str, data: pa.Schema | pa.Table, *, partition_by: Sequence[str] = (), run_id: str | None = None
    ) -> TableVersion:
        """A new table with the columns of ``data``, and its rows if it is a table. Raises `AlreadyExists`."""
        from deltalake import CommitProperties, Schema
        from deltalake.exceptions import DeltaError
        from deltalake.transaction import create_table_with_add_actions

        uri = self._uri(name)
        schema = delta_schema(data if isinstance(data, pa.Schema) else data.schema)
        for column in partition_by:
            if column not in schema.names:
                raise InvalidInput("partition_by", f"{column!r} is no column of {name}")
        if self._exists(name):
            raise AlreadyExists(f"table {name!r} already exists; use append or overwrite")
        rows = data if isinstance(data, pa.Table) else schema.empty_table()
        files = write_files(uri, conform(rows, schema), partition_by) if rows.num_rows else []
        try:
            create_table_with_add_actions(
                uri,
                Schema.from_arrow(schema),
                [_add(file) for file in files],
                partition_by=list(partition_by),
                configuration=_KEEP,
                commit_properties=CommitProperties(custom_metadata=_noted(files, run_id)),
            )
        except DeltaError as e:
            remove_files(uri, files)
            if self._exists(name):
                raise AlreadyExists(f"table {name!r} already exists; use append or overwrite") from e
            raise
        return self.version(name)

    def append(
        self,
        name: str,
        data: pa.Table | Dataset,
        *,
        run_id: str | None = None,
        transaction: Transaction | None = None,
        transactions: Sequence[Transaction] = (),
    ) -> TableVersion:
        """Add rows. With ``transactions`` (all of whose rows ``data`` holds) the commit happens at most once: had
        all been committed before, nothing is written; had only some, `Conflict`. Raises `NotFound`,
        `SchemaMismatch` naming the column."""
        once = [*transactions, *([transaction] if transaction else [])]
        table = self._load(name)
        if _committed(name, table, once):
            return self._identify(name, table)
        files = self._write(name, table, data, _schema(table))
        self._commit(name, files, "append", None, _noted(files, run_id), once)
        return self.version(name)

    def overwrite(
        self,
        name: str,
        data: pa.Table | Dataset,
        *,
        run_id: str | None = None,
        transaction: Transaction | None = None,
        metadata: Mapping[str, str] | None = None,
        replace_schema: bool = False,
    ) -> TableVersion:
        """A new version that holds exactly ``data``; makes the table where there is none. The old rows stay
        readable by version. Other columns than the table's need ``replace_schema``."""
        if not self._exists(name):
            self._create_for(name, data)
            replace_schema = True
        table = self._load(name)
        once = [transaction] if transaction else []
        if _committed(name, table, once):
            return self._identify(name, table)
        schema = None if replace_schema else _schema(table)
        if isinstance(data, pa.Table) and replace_schema:
            schema = delta_schema(data.schema)
        files = self._write(name, table, data, schema)
        noted = _noted(files, run_id) | dict(metadata or {})
        self._commit(name, files, "overwrite", self._written_schema(name, files, schema), noted, once)
        return self.version(name)

    # --- inside -----------------------------------------------------------------------------------

    def _uri(self, name: str) -> str:
        return f"{self.uri}/{check_name('table', name)}"

    def _exists(self, name: str) -> bool:
        from deltalake import DeltaTable

        return bool(DeltaTable.is_deltatable(self._uri(name)))

    def _load(self, name: str, version: At = None) -> DeltaTable:
        from deltalake import DeltaTable
        from deltalake.exceptions import DeltaError, DeltaProtocolError, TableNotFoundError

        try:
            table = DeltaTable(self._uri(name))
        except TableNotFoundError as e:
            raise NotFound("table", name, f"there are {', '.join(self.names()) or 'none'}") from e
        except DeltaProtocolError as e:
            raise InvalidInput(f"table {name}", f"cannot be read right: {e}") from e
        _refuse_unreadable(name, table)
        if isinstance(version, datetime):
            version = _at(name, table, version)
        if version is None or version == table.version():
            return table
        if not 0 <= version < table.version():
            raise NotFound("table version", f"{name}@{version}", f"the latest is {table.version()}")
        try:
            table.load_as_version(version)
        except DeltaError as e:
            raise NotFound("table version", f"{name}@{version}", f"its log was removed: {e}") from e
        _refuse_unreadable(name, table)
        return table

    def _identify(self, name: str, table: DeltaTable) -> TableVersion:
        scan = self._scan(table)
        manifest = sorted([f.path.removeprefix(scan.uri), f.size_bytes] for f in scan.files)
        columns = [[f.name, str(f.type), f.nullable] for f in scan.schema]
        uri, version = self._uri(name), table.version()
        return TableVersion(
            name, uri, str(table.metadata().id), version, _digest(manifest), _digest(columns), scan.count()
        )

    def _scan(self, table: DeltaTable) -> Scan:
        schema, uri = _schema(table), table.table_uri.removeprefix("file://").rstrip("/")
        files = []
        for action in pa.table(table.get_add_actions(flatten=True)).to_pylist():
            parts = {kind: _under(action, kind) for kind in ("partition", "min", "max", "null_count")}
            holds = guarantee(schema, parts["partition"], parts["min"], parts["max"], parts["null_count"])
            path, at = _decoded(action["path"]), action["modification_time"]
            files.append((at, File(f"{uri}/{path}", action["size_bytes"], action["num_records"], holds)))
        files.sort(key=lambda pair: (pair[0], pair[1].path))
        return Scan(uri, schema, tuple(file for _, file in files))

    def _write(self, name: str, table: DeltaTable, data: pa.Table | Dataset, schema: pa.Schema | None) -> list[NewFile]:
        partition_by = list(table.metadata().partition_columns)
        if isinstance(data, pa.Table):
            rows = conform(data, schema if schema is not None else delta_schema(data.schema))
            return write_files(self._uri(name), rows, partition_by) if rows.num_rows else []
        from rayplat.data.tables import ray_io

        return ray_io.write(data, self._uri(name), schema, partition_by)

    def _commit(
        self,
        name: str,
        files: list[NewFile],
        mode: str,
        schema: pa.Schema | None,
        noted: dict[str, str],
        once: Sequence[Transaction],
    ) -> None:
        """One commit, tried anew on a fresh snapshot when another writer came between."""
        from deltalake import CommitProperties, Schema
        from deltalake import Transaction as AppTransaction
        from deltalake.exceptions import CommitFailedError

        properties = CommitProperties(
            custom_metadata=noted,
            max_commit_retries=100,
            app_transactions=[AppTransaction(app, n) for app, n in once],
        )
        for attempt in range(1, _REPLANS + 1):
            table = self._load(name)
            if _committed(name, table, once):
                remove_files(self._uri(name), files)
                return
            declared = Schema.from_arrow(schema) if schema is not None else table.schema()
            parts = list(table.metadata().partition_columns)
            try:
                table.create_write_transaction(
                    [_add(file) for file in files], mode, declared, partition_by=parts, commit_properties=properties
                )
                log.debug("committed", extra={"table": name, "version": table.version(), "mode": mode})
                return
            except CommitFailedError as e:
                if attempt == _REPLANS:
                    remove_files(self._uri(name), files)
                    raise Conflict(f"table {name!r} kept changing while it was written; try again ({e})") from e
                time.sleep(random.uniform(0, 0.05 * 2**attempt))

    def _create_for(self, name: str, data: pa.Table | Dataset) -> None:
        schema = data.schema if isinstance(data, pa.Table) else pa.schema([("rows", pa.int64())])
        try:
            self.create(name, schema)
        except AlreadyExists:
            log.info("another writer made the table first", extra={"table": name})

    def _written_schema(self, name: str, files: list[NewFile], schema: pa.Schema | None) -> pa.Schema | None:
        """What the workers found, where nothing was declared."""
        if schema is not None or not files:
            return schema
        import pyarrow.parquet as pq

        filesystem, root = pafs.FileSystem.from_uri(self._uri(name))
        return delta_schema(pq.read_schema(f"{root}/{files[0].path}", filesystem=filesystem).remove_metadata())


def _refuse_unreadable(name: str, table: DeltaTable) -> None:
    protocol = table.protocol()
    unknown = sorted(set(protocol.reader_features or []) - _READABLE)
    if unknown:
        raise InvalidInput(f"table {name}", f"uses {', '.join(unknown)}, which would be read wrong; rewrite it without")
    mapping = table.metadata().configuration.get("delta.columnMapping.mode") or "none"
    if mapping != "none":
        raise InvalidInput(
            f"table {name}", f"uses column mapping ({mapping}), which would be read as nulls; rewrite it without"
        )


def _at(name: str, table: DeltaTable, moment: datetime) -> int:
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    first = None
    for entry in table.history():  # newest first
        first = datetime.fromtimestamp(entry["timestamp"] / 1000, UTC)
        if first <= moment:
            return int(entry["version"])
    raise NotFound("table version", f"{name}@{moment.isoformat()}", f"the first version is of {first}")


def _committed(name: str, table: DeltaTable, once: Sequence[Transaction]) -> bool:
    """Whether all of ``once`` are in the table. Raises `Conflict` where only some are."""
    found = {app: table.transaction_version(app) for app, _ in once}
    done = [app for app, n in once if (last := found[app]) is not None and last >= n]
    if done and len(done) < len(once):
        raise Conflict(f"rows of {', '.join(done)} are already in table {name!r}; leave them out and append the rest")
    return bool(once) and len(done) == len(once)


def _pinned(table: str | TableVersion, version: At) -> tuple[str, At]:
    if isinstance(table, TableVersion):
        return table.table, table.version
    return table, version


def _schema(table: DeltaTable) -> pa.Schema:
    return pa.schema(table.schema().to_arrow())


def _add(file: NewFile) -> Any:
    from deltalake.transaction import AddAction

    return AddAction(file.path, file.size_bytes, file.partition, int(time.time() * 1000), True, file.statistics)


def _noted(files: Sequence[NewFile], run_id: str | None) -> dict[str, str]:
    rows = {"rows": str(sum(file.rows for file in files))}
    return rows | ({"run_id": run_id} if run_id else {})


def _under(action: Mapping[str, Any], kind: str) -> dict[str, Any]:
    return {k.removeprefix(f"{kind}."): v for k, v in action.items() if k.startswith(f"{kind}.") and _wanted(kind, v)}


def _wanted(kind: str, value: Any) -> bool:
    return kind == "partition" or value is not None


def _decoded(path: str) -> str:
    from urllib.parse import unquote

    return unquote(path)


def _digest(tree: Any) -> str:
    text = json.dumps(tree, separators=(",", ":"), sort_keys=True)
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()
