"""Every way to change a table: each writes its files, makes one commit, plans anew when another writer came first, and
removes its own files when it finally fails. Knows files, checks and commits; names and versions are `Tables`'.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from rayplat.data.tables import log
from rayplat.data.tables.batch import Written, checks_of, described, judge, write
from rayplat.data.tables.evolve import columns_of, grow
from rayplat.data.tables.features import refuse_unwritable
from rayplat.data.tables.files import NewFile, partition_text, remove_files
from rayplat.data.tables.keys import all_keys, check_keys, keys_of, partition_values, with_new
from rayplat.data.tables.log import Change, Transaction
from rayplat.data.tables.place import Place
from rayplat.data.tables.rewrite import Gone, Rewriter, partition_is, runner
from rayplat.data.tables.schema import check_partitions, new_schema
from rayplat.data.tables.settle import refuse_changed, removable, settle
from rayplat.data.tables.snapshot import partition_columns, scan_of, schema_of
from rayplat.errors import AlreadyExists, Conflict, InvalidInput, RayplatError, SchemaMismatch

if TYPE_CHECKING:
    from deltalake import DeltaTable
    from ray.data import Dataset

    from rayplat.data.tables.checks import Checks

logger = logging.getLogger(__name__)

# Created tables: full statistics, a change feed for other readers, and no time limit on versions (`vacuum` decides).
_CONFIGURATION = {
    "delta.logRetentionDuration": "interval 3650 days",
    "delta.deletedFileRetentionDuration": "interval 3650 days",
    "delta.dataSkippingNumIndexedCols": "-1",
    "delta.enableChangeDataFeed": "true",
    "delta.checkpointInterval": "20",
}


@dataclass(frozen=True)
class Terms:
    """What goes with a write: the run that made it, its transactions, checks of its own, and notes on the commit."""

    run_id: str | None = None
    once: tuple[Transaction, ...] = ()
    checks: Checks | None = None
    noted: Mapping[str, str] = field(default_factory=dict)

    def notes(self, action: str, files: Iterable[NewFile]) -> dict[str, str]:
        found = {"action": action, "rows": str(sum(file.rows for file in files)), **self.noted}
        return found | ({"run_id": self.run_id} if self.run_id else {})


def create(place: Place, data: pa.Schema | pa.Table | Dataset, partition_by: Sequence[str], terms: Terms) -> int:
    """A new table with the rows of ``data`` (none of a schema). Raises `AlreadyExists`."""
    taken = AlreadyExists(f"table {place.name!r} already exists; use append or overwrite")
    if log.exists(place):
        raise taken
    if isinstance(data, pa.Schema | pa.Table):
        schema = new_schema(data if isinstance(data, pa.Schema) else data.schema)
        check_partitions(schema, partition_by, place.name)
        if terms.checks:
            terms.checks.fit(schema)
        rows = schema.empty_table() if isinstance(data, pa.Schema) else data
        written = write(place, rows, schema, partition_by, terms.checks)
    else:
        written = write(place, data, None, partition_by, terms.checks)
    try:
        if written.schema is None:
            raise InvalidInput("data", f"has neither rows nor columns; table {place.name!r} was not made")
        check_partitions(written.schema, partition_by, place.name)
        judge(place, written, None)
        first = Change(
            written.files, schema=written.schema, noted=terms.notes("create", written.files), once=terms.once
        )
        return log.create(place, first, partition_by, _CONFIGURATION, described(terms.checks))
    except BaseException as e:
        remove_files(place, written.files)
        if isinstance(e, log.Moved):
            raise taken from e
        raise


def append(place: Place, data: pa.Table | Dataset, terms: Terms, *, evolve: bool = False) -> int:
    """Add rows."""
    table = log.load(place)
    if log.committed(place, table, terms.once):
        return int(table.version())
    refuse_unwritable(place.name, table, removes=False)
    if evolve:
        table = grow(place, columns_of(data))
    schema, by, checks = schema_of(table), partition_columns(table), checks_of(table, terms.checks)
    written = write(place, data, schema, by, checks, fill=evolve)

    def plan(table: DeltaTable) -> Change:
        refuse_changed(place, table, schema, by)
        judge(place, written, scan_of(place, table) if checks and checks.unique else None)
        exact = bool(checks and checks.unique)  # what was compared must still be all there is
        notes = terms.notes("append", written.files)
        return Change(written.files, exact=exact, noted=notes, once=terms.once)

    return settle(place, terms.once, table, plan, lambda: written.files)


def adopt(place: Place, written: Written, terms: Terms) -> int:
    """Add the rows of files that workers have written under ``place`` (`batch.write`); makes the table where there is
    none, and gives it columns that it lacks. Files that no version names in the end are removed."""
    schema = written.schema if written.schema is not None else pa.schema([])
    try:
        if not log.exists(place):
            first = Change(written.files, schema=schema, noted=terms.notes("create", written.files), once=terms.once)
            with suppress(log.Moved):  # another writer made it first
                return log.create(place, first, (), _CONFIGURATION)
        table = log.load(place)
        if log.committed(place, table, terms.once):
            remove_files(place, written.files)
            return int(table.version())
        refuse_unwritable(place.name, table, removes=False)
        table = grow(place, schema)
    except RayplatError:
        remove_files(place, written.files)
        raise

    def plan(table: DeltaTable) -> Change:
        _refuse_misfits(place, table, schema)
        return Change(written.files, exact=False, noted=terms.notes("append", written.files), once=terms.once)

    return settle(place, terms.once, table, plan, lambda: written.files)


def overwrite(place: Place, data: pa.Table | Dataset, terms: Terms, *, replace_schema: bool = False) -> int:
    """A version that holds exactly ``data``; makes the table where there is none."""
    if not log.exists(place):
        try:
            return create(place, data, (), terms)
        except AlreadyExists:
            logger.info("another writer made the table first", extra={"table": place.name})
    table = log.load(place)
    if log.committed(place, table, terms.once):
        return int(table.version())
    refuse_unwritable(place.name, table, removes=True)
    by, checks = partition_columns(table), checks_of(table, terms.checks)
    schema = None if replace_schema else schema_of(table)
    if isinstance(data, pa.Table) and schema is None:
        schema = new_schema(data.schema)
    if schema is not None:
        check_partitions(schema, by, place.name)
    written = write(place, data, schema, by, checks)

    def plan(table: DeltaTable) -> Change:
        refuse_unwritable(place.name, table, removes=True)
        if not replace_schema and schema is not None:
            refuse_changed(place, table, schema, by)
        judge(place, written, None)
        notes = terms.notes("overwrite", written.files)
        return Change(written.files, everything=True, schema=written.schema, noted=notes, once=terms.once)

    return settle(place, terms.once, table, plan, lambda: written.files)


def replace_partition(place: Place, data: pa.Table | Dataset, partition: Mapping[str, Any], terms: Terms) -> int:
    """A version in which the partition holds exactly ``data``."""
    table = log.load(place)
    if log.committed(place, table, terms.once):
        return int(table.version())
    refuse_unwritable(place.name, table, removes=True)
    schema, by, checks = schema_of(table), partition_columns(table), checks_of(table, terms.checks)
    wanted = partition_values(place, schema, by, partition)
    written = write(place, data, schema, by, checks)

    def plan(table: DeltaTable) -> Change:
        refuse_changed(place, table, schema, by)
        scan = scan_of(place, table)
        gone = partition_is(scan.files, wanted)
        rest = replace(scan, files=tuple(f for f in scan.files if f not in gone))
        judge(place, written, rest)
        notes = terms.notes("replace partition", written.files)
        return Change(written.files, removable(place, gone), noted=notes, once=terms.once)

    def checked(table: DeltaTable) -> Change:
        for file in written.files:
            for name, value in wanted.items():
                if file.partition[name] != partition_text(value):
                    raise InvalidInput("data", f"holds rows of {name}={file.partition[name]}, not only of {value}")
        return plan(table)

    return settle(place, terms.once, table, checked, lambda: written.files)


def delete(place: Place, where: pc.Expression, terms: Terms) -> int:
    """A version without the rows for which ``where`` is true; the present one where there are none."""
    table = log.load(place)
    if log.committed(place, table, terms.once):
        return int(table.version())
    by = partition_columns(table)
    rewriter = Rewriter(Gone(where=where), by, runner(scan_of(place, table), on_cluster=False))

    def plan(table: DeltaTable) -> Change | None:
        refuse_unwritable(place.name, table, removes=True)
        plan = rewriter.plan(scan_of(place, table))
        if not plan.removes and not terms.once:
            return None
        gone = sum((f.rows or 0) for f in plan.removes) - sum(f.rows for f in plan.adds)
        notes = terms.notes("delete", ()) | {"rows": str(gone)}
        removes = removable(place, plan.removes)
        return Change(plan.adds, removes, noted=notes, once=terms.once)

    return settle(place, terms.once, table, plan, rewriter.written)


def upsert(
    place: Place, data: pa.Table | Dataset, keys: Sequence[str], terms: Terms, deletes: pa.Table | None = None
) -> int:
    """A version in which each row of ``data`` stands in place of the row with its keys, if any, and the rows with the
    keys in ``deletes`` are gone."""
    table = log.load(place)
    if log.committed(place, table, terms.once):
        return int(table.version())
    refuse_unwritable(place.name, table, removes=False)
    schema, by, checks = schema_of(table), partition_columns(table), checks_of(table, terms.checks)
    check_keys(place, schema, keys)
    leaving = None if deletes is None else keys_of(deletes, schema, keys)
    written = write(place, data, schema, by, checks)
    rewriters: list[Rewriter] = []

    def plan(table: DeltaTable) -> Change | None:
        refuse_changed(place, table, schema, by)
        scan = scan_of(place, table)
        if not rewriters:
            found = all_keys(place, data, written, keys, leaving)
            rewriters.append(Rewriter(Gone(keys=found), by, runner(scan, not isinstance(data, pa.Table))))
        plan = rewriters[0].plan(scan)
        if plan.removes:
            refuse_unwritable(place.name, table, removes=True)
        if not (plan.removes or written.files or terms.once):
            return None
        judge(place, written, with_new(plan.stay, plan.adds))
        notes, removes = terms.notes("upsert", written.files), removable(place, plan.removes)
        return Change([*written.files, *plan.adds], removes, noted=notes, once=terms.once)

    return settle(
        place, terms.once, table, plan, lambda: [*written.files, *(f for r in rewriters for f in r.written())]
    )


def _refuse_misfits(place: Place, table: DeltaTable, schema: pa.Schema) -> None:
    """Raises `SchemaMismatch` where ``schema`` does not fit the table's columns, `Conflict` for a table that files from
    workers cannot be added to."""
    if partition_columns(table) or checks_of(table, None):
        raise Conflict(f"table {place.name!r} has partitions or checks: files of workers cannot be added to it")
    now = schema_of(table)
    for column in schema:
        there = now.field(column.name).type
        if there != column.type:
            raise SchemaMismatch(column.name, f"table {place.name!r} has {there} there, not {column.type}")
    for column in now:
        if not column.nullable and column.name not in schema.names:
            raise SchemaMismatch(column.name, f"table {place.name!r} needs this column")
