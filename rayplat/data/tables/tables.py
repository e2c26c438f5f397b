"""Versioned tables by name: the way in for everything else. Knows names, versions and identities; reading is `scan`'s,
changing `writes`', the log `log`'s.

"Latest" and a moment in time become a version number once (`Tables.version`), and everything after reads that
version. A commit is atomic; with a ``transaction`` (application, sequence number) it happens at most once. A table
that could not be read right is refused by the name of the feature it uses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs

from rayplat.data.tables import batch, log, writes
from rayplat.data.tables.entries import entries, entry
from rayplat.data.tables.log import At, Transaction
from rayplat.data.tables.place import Place
from rayplat.data.tables.scan import Scan
from rayplat.data.tables.snapshot import identify, manifest_digest, scan_of, schema_of
from rayplat.data.tables.writes import Terms
from rayplat.errors import Conflict, NotFound
from rayplat.types import Column, Commit, TableInfo, TableVersion, check_name

if TYPE_CHECKING:
    from ray.data import Dataset

    from rayplat.data.tables.batch import Written
    from rayplat.data.tables.checks import Checks


class Tables:
    """The tables under one folder (or ``s3://`` prefix) ``uri``; ``storage_options`` as delta-rs knows them
    (``AWS_ENDPOINT_URL``, …). Cheap to make, safe to share and to send."""

    def __init__(self, uri: str, storage_options: Mapping[str, str] | None = None) -> None:
        self.uri = uri.rstrip("/")
        self._place = Place.of(uri, storage_options)

    def __repr__(self) -> str:
        return f"Tables({self.uri!r})"

    def place(self, name: str) -> Place:
        """Where the table ``name`` lies, whether it is there or not."""
        return self._place.under(check_name("table", name))

    def names(self) -> list[str]:
        """Names of all tables, sorted."""
        filesystem, root = self._place.filesystem, self._place.root
        found = filesystem.get_file_info(pafs.FileSelector(root, allow_not_found=True))
        folders = [entry.path.rstrip("/") for entry in found if entry.type == pafs.FileType.Directory]
        logs = [f"{f}/_delta_log/{file}" for f in folders for file in ("00000000000000000000.json", "_last_checkpoint")]
        there = [entry.path for entry in filesystem.get_file_info(logs) if entry.type == pafs.FileType.File]
        return sorted({path.split("/")[-3] for path in there})

    def info(self, name: str) -> TableInfo:
        """The columns of the latest version, and its identity."""
        place, table = self._load(name)
        columns = tuple(Column(f.name, str(f.type), f.nullable) for f in schema_of(table))
        return TableInfo(name, columns, identify(place, table))

    def version(self, name: str, version: At = None) -> TableVersion:
        """The identity of one version: a number, the last one at a moment, or the latest.

        Raises `NotFound` for a table or version that is not there and a moment before the first version.
        """
        return identify(*self._load(name, version))

    def history(self, name: str) -> list[Commit]:
        """All commits, newest first."""
        self._load(name)
        found = []
        for made in entries(self.place(name)):
            rows, operation = made.info.get("rows"), made.info.get("action", made.info.get("operation", "unknown"))
            count = int(rows) if isinstance(rows, str) and rows.isdecimal() else None
            found.append(Commit(made.version, made.at, str(operation).upper(), made.info.get("run_id"), count))
        return found

    def checks(self, name: str) -> Checks | None:
        """The checks that the table was made with and that hold for every write."""
        return batch.stored_checks(self._load(name)[1])

    def metadata(self, name: str, version: int) -> dict[str, str]:
        """What the writer noted with a commit (``metadata`` of `overwrite`, ``run_id``, ``rows``)."""
        info = entry(self.place(name), version).info
        return {k: v for k, v in info.items() if isinstance(v, str)}

    def transaction_version(self, name: str, app_id: str) -> int | None:
        """The highest sequence number committed under ``app_id``; None: none."""
        found = self._load(name)[1].transaction_version(app_id)
        return None if found is None else int(found)

    def scan(self, table: str | TableVersion, version: At = None) -> Scan:
        """The pinned file list; `Scan.table` reads it, also on a worker. Raises `Conflict` where the table of a pinned
        version was replaced by another of its name."""
        if not isinstance(table, TableVersion):
            return scan_of(*self._load(table, version))
        place, found = self._load(table.table, table.version)
        scan = scan_of(place, found)
        if str(found.metadata().id) != table.table_id or manifest_digest(scan) != table.manifest_digest:
            what = f"{table.table}@{table.version}"
            raise Conflict(f"table version {what} is not the one that was pinned: the table was replaced; pin it anew")
        return scan

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
        self,
        name: str,
        data: pa.Schema | pa.Table | Dataset,
        *,
        partition_by: Sequence[str] = (),
        run_id: str | None = None,
        checks: Checks | None = None,
    ) -> TableVersion:
        """A new table with the columns of ``data``, and its rows if it has some. ``checks`` are kept with the table
        and hold for every later write. Raises `AlreadyExists`, `SchemaMismatch` for a type no table holds,
        `InvalidInput` where there are no columns."""
        version = writes.create(self.place(name), data, partition_by, Terms(run_id, checks=checks))
        return self.version(name, version)

    def append(
        self,
        name: str,
        data: pa.Table | Dataset,
        *,
        run_id: str | None = None,
        transaction: Transaction | None = None,
        transactions: Sequence[Transaction] = (),
        metadata: Mapping[str, str] | None = None,
        checks: Checks | None = None,
        evolve: bool = False,
    ) -> TableVersion:
        """Add rows. With ``transactions`` (all of whose rows ``data`` holds) the commit happens at most once: had
        all been committed before, nothing is written; had only some, `Conflict`.

        ``evolve`` adds columns that the table lacks (nullable), takes null for those that ``data`` lacks, and widens
        integers and floats; else they raise `SchemaMismatch` naming the column. Raises `NotFound`, `BadRows` for rows
        that break ``checks`` or the table's own (nothing is written then), `Unavailable` where the disk is full.
        """
        once = (*transactions, *_one(transaction))
        terms = Terms(run_id, once, checks, dict(metadata or {}))
        return self._done(name, writes.append(self.place(name), data, terms, evolve=evolve))

    def write_files(self, name: str, data: pa.Table) -> Written:
        """Write ``data`` as files of the table ``name``, which need not be there yet; they belong to no version until
        `adopt` commits them. For workers."""
        return batch.write(self.place(name), data, None, (), None)

    def adopt(
        self,
        name: str,
        written: Written,
        *,
        transaction: Transaction,
        run_id: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> TableVersion:
        """Add the rows of what `write_files` wrote, once under ``transaction``: where that was committed before, the
        files are removed. Makes the table where there is none, adds (nullable) columns that it lacks.

        Raises `SchemaMismatch` for a column of another type, `Conflict` for a table with partitions or checks.
        """
        terms = Terms(run_id, (transaction,), None, dict(metadata or {}))
        return self._done(name, writes.adopt(self.place(name), written, terms))

    def overwrite(
        self,
        name: str,
        data: pa.Table | Dataset,
        *,
        run_id: str | None = None,
        transaction: Transaction | None = None,
        metadata: Mapping[str, str] | None = None,
        replace_schema: bool = False,
        checks: Checks | None = None,
    ) -> TableVersion:
        """A new version that holds exactly ``data``; makes the table where there is none. The old rows stay
        readable by version. Other columns than the table's need ``replace_schema``."""
        terms = Terms(run_id, _one(transaction), checks, dict(metadata or {}))
        return self._done(name, writes.overwrite(self.place(name), data, terms, replace_schema=replace_schema))

    def replace_partition(
        self,
        name: str,
        data: pa.Table | Dataset,
        partition: Mapping[str, Any],
        *,
        run_id: str | None = None,
        transaction: Transaction | None = None,
        checks: Checks | None = None,
    ) -> TableVersion:
        """A new version in which the rows of ``partition`` (values by partition column) are exactly ``data``; all
        others stay. Raises `InvalidInput` where ``data`` holds rows of another partition."""
        terms = Terms(run_id, _one(transaction), checks)
        return self._done(name, writes.replace_partition(self.place(name), data, partition, terms))

    def upsert(
        self,
        name: str,
        data: pa.Table | Dataset,
        keys: Sequence[str],
        *,
        deletes: pa.Table | None = None,
        run_id: str | None = None,
        transaction: Transaction | None = None,
        metadata: Mapping[str, str] | None = None,
        checks: Checks | None = None,
    ) -> TableVersion:
        """A new version in which each row of ``data`` stands in place of the one with equal ``keys``, or is added
        where there is none, and rows with keys in ``deletes`` are gone. Files that hold none of these keys stay.

        Raises `InvalidInput` for a key in ``data`` that is null, comes twice or is in ``deletes`` too. The keys
        (not the rows) of a Dataset pass through this process.
        """
        terms = Terms(run_id, _one(transaction), checks, dict(metadata or {}))
        return self._done(name, writes.upsert(self.place(name), data, keys, terms, deletes))

    def delete(
        self,
        name: str,
        where: pc.Expression,
        *,
        run_id: str | None = None,
        transaction: Transaction | None = None,
    ) -> TableVersion:
        """A new version without the rows for which ``where`` is true (null is not true); the present version where
        there are none."""
        return self._done(name, writes.delete(self.place(name), where, Terms(run_id, _one(transaction))))

    def _load(self, name: str, version: At = None) -> tuple[Place, Any]:
        place = self.place(name)
        try:
            return place, log.load(place, version)
        except NotFound as e:
            if e.kind != "table":
                raise
            raise NotFound("table", name, f"there are {', '.join(self.names()) or 'none'}") from e

    def _done(self, name: str, version: int) -> TableVersion:
        return self.version(name, version)


def _one(transaction: Transaction | None) -> tuple[Transaction, ...]:
    return (transaction,) if transaction else ()
