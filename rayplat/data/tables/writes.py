"""Every way to change a table: each writes its files, makes one commit, plans anew when another writer came first, and
removes its own files when it finally fails. Knows files, checks and commits; names and versions are `Tables`'.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc

from rayplat.data.tables import log
from rayplat.data.tables.features import refuse_unwritable
from rayplat.data.tables.files import NewFile, new_stem, partition_text, remove_files, write_files
from rayplat.data.tables.log import Change, Transaction
from rayplat.data.tables.place import Place
from rayplat.data.tables.rewrite import Gone, Rewriter, partition_is, thin
from rayplat.data.tables.scan import File, Scan
from rayplat.data.tables.schema import check_partitions, conform, delta_schema, evolution
from rayplat.data.tables.snapshot import partition_columns, scan_of, schema_of
from rayplat.errors import AlreadyExists, Conflict, InvalidInput, RayplatError, SchemaMismatch

if TYPE_CHECKING:
    from deltalake import DeltaTable
    from ray.data import Dataset

    from rayplat.data.tables.checks import Checks, Findings

logger = logging.getLogger(__name__)

# Created tables: full statistics, a change feed for other readers, and no time limit on versions (`vacuum` decides).
_CONFIGURATION = {
    "delta.logRetentionDuration": "interval 3650 days",
    "delta.deletedFileRetentionDuration": "interval 3650 days",
    "delta.dataSkippingNumIndexedCols": "-1",
    "delta.enableChangeDataFeed": "true",
    "delta.checkpointInterval": "20",
}
_CHECKS = "rayplat checks: "
_ON_CLUSTER_BYTES = 64 << 20  # less is rewritten here: starting tasks would take longer


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


@dataclass(frozen=True)
class Written:
    """The files of one write with the ``schema`` they have, and what the checks found in them."""

    files: list[NewFile]
    schema: pa.Schema | None
    findings: Findings | None = None


def create(place: Place, data: pa.Schema | pa.Table | Dataset, partition_by: Sequence[str], terms: Terms) -> int:
    """A new table with the rows of ``data`` (none of a schema). Raises `AlreadyExists`."""
    taken = AlreadyExists(f"table {place.name!r} already exists; use append or overwrite")
    if log.exists(place):
        raise taken
    if isinstance(data, pa.Schema | pa.Table):
        schema = delta_schema(data if isinstance(data, pa.Schema) else data.schema)
        check_partitions(schema, partition_by, place.name)
        if terms.checks:
            terms.checks.fit(schema)
        rows = schema.empty_table() if isinstance(data, pa.Schema) else data
        written = _write(place, rows, schema, partition_by, terms.checks)
    else:
        written = _write(place, data, None, partition_by, terms.checks)
    try:
        if written.schema is None:
            raise InvalidInput("data", f"has neither rows nor columns; table {place.name!r} was not made")
        check_partitions(written.schema, partition_by, place.name)
        _judge(place, written, None)
        _create(place, written, partition_by, terms)
    except BaseException as e:
        remove_files(place, written.files)
        if log.is_full(e):
            raise log.no_space(place, e) from e
        if not isinstance(e, RayplatError) and log.exists(place):
            raise taken from e
        raise
    return 0


def append(place: Place, data: pa.Table | Dataset, terms: Terms, *, evolve: bool = False) -> int:
    """Add rows."""
    table = log.load(place)
    if log.committed(place, table, terms.once):
        return int(table.version())
    refuse_unwritable(place.name, table, removes=False)
    if evolve:
        table = _grow(place, _columns_of(data))
    schema, by, checks = schema_of(table), partition_columns(table), _checks(table, terms)
    written = _write(place, data, schema, by, checks, fill=evolve)

    def plan(table: DeltaTable) -> Change:
        _refuse_changed(place, table, schema, by)
        _judge(place, written, scan_of(place, table) if checks and checks.unique else None)
        exact = bool(checks and checks.unique)  # what was compared must still be all there is
        notes = terms.notes("append", written.files)
        return Change(written.files, exact=exact, noted=notes, once=terms.once)

    return _settle(place, terms, table, plan, lambda: written.files)


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
    by, checks = partition_columns(table), _checks(table, terms)
    schema = None if replace_schema else schema_of(table)
    if isinstance(data, pa.Table) and schema is None:
        schema = delta_schema(data.schema)
    if schema is not None:
        check_partitions(schema, by, place.name)
    written = _write(place, data, schema, by, checks)

    def plan(table: DeltaTable) -> Change:
        refuse_unwritable(place.name, table, removes=True)
        if not replace_schema and schema is not None:
            _refuse_changed(place, table, schema, by)
        _judge(place, written, None)
        notes = terms.notes("overwrite", written.files)
        return Change(written.files, everything=True, schema=written.schema, noted=notes, once=terms.once)

    return _settle(place, terms, table, plan, lambda: written.files)


def replace_partition(place: Place, data: pa.Table | Dataset, partition: Mapping[str, Any], terms: Terms) -> int:
    """A version in which the partition holds exactly ``data``."""
    table = log.load(place)
    if log.committed(place, table, terms.once):
        return int(table.version())
    refuse_unwritable(place.name, table, removes=True)
    schema, by, checks = schema_of(table), partition_columns(table), _checks(table, terms)
    wanted = _partition(place, schema, by, partition)
    written = _write(place, data, schema, by, checks)

    def plan(table: DeltaTable) -> Change:
        _refuse_changed(place, table, schema, by)
        scan = scan_of(place, table)
        gone = partition_is(scan.files, wanted)
        rest = replace(scan, files=tuple(f for f in scan.files if f not in gone))
        _judge(place, written, rest)
        notes = terms.notes("replace partition", written.files)
        return Change(written.files, _removable(place, gone), noted=notes, once=terms.once)

    def checked(table: DeltaTable) -> Change:
        for file in written.files:
            for name, value in wanted.items():
                if file.partition[name] != partition_text(value):
                    raise InvalidInput("data", f"holds rows of {name}={file.partition[name]}, not only of {value}")
        return plan(table)

    return _settle(place, terms, table, checked, lambda: written.files)


def delete(place: Place, where: pc.Expression, terms: Terms) -> int:
    """A version without the rows for which ``where`` is true; the present one where there are none."""
    table = log.load(place)
    if log.committed(place, table, terms.once):
        return int(table.version())
    by = partition_columns(table)
    rewriter = Rewriter(Gone(where=where), by, _runner(scan_of(place, table), on_cluster=False))

    def plan(table: DeltaTable) -> Change | None:
        refuse_unwritable(place.name, table, removes=True)
        plan = rewriter.plan(scan_of(place, table))
        if not plan.removes and not terms.once:
            return None
        gone = sum(_rows(f) for f in plan.removes) - sum(f.rows for f in plan.adds)
        notes = terms.notes("delete", ()) | {"rows": str(gone)}
        removes = _removable(place, plan.removes)
        return Change(plan.adds, removes, noted=notes, once=terms.once)

    return _settle(place, terms, table, plan, rewriter.written)


def upsert(
    place: Place, data: pa.Table | Dataset, keys: Sequence[str], terms: Terms, deletes: pa.Table | None = None
) -> int:
    """A version in which each row of ``data`` stands in place of the row with its keys, if any, and the rows with the
    keys in ``deletes`` are gone."""
    table = log.load(place)
    if log.committed(place, table, terms.once):
        return int(table.version())
    refuse_unwritable(place.name, table, removes=False)
    schema, by, checks = schema_of(table), partition_columns(table), _checks(table, terms)
    _check_keys(place, schema, keys)
    leaving = None if deletes is None else _keys_of(deletes, schema, keys)
    written = _write(place, data, schema, by, checks)
    rewriters: list[Rewriter] = []

    def plan(table: DeltaTable) -> Change | None:
        _refuse_changed(place, table, schema, by)
        scan = scan_of(place, table)
        if not rewriters:
            found = _all_keys(place, data, written, keys, leaving)
            rewriters.append(Rewriter(Gone(keys=found), by, _runner(scan, not isinstance(data, pa.Table))))
        plan = rewriters[0].plan(scan)
        if plan.removes:
            refuse_unwritable(place.name, table, removes=True)
        if not (plan.removes or written.files or terms.once):
            return None
        _judge(place, written, _with_new(plan.stay, plan.adds))
        notes, removes = terms.notes("upsert", written.files), _removable(place, plan.removes)
        return Change([*written.files, *plan.adds], removes, noted=notes, once=terms.once)

    return _settle(place, terms, table, plan, lambda: [*written.files, *(f for r in rewriters for f in r.written())])


# --- writing files --------------------------------------------------------------------------------


def _write(
    place: Place,
    data: pa.Table | Dataset,
    schema: pa.Schema | None,
    by: Sequence[str],
    checks: Checks | None,
    *,
    fill: bool = False,
) -> Written:
    if not isinstance(data, pa.Table):
        from rayplat.data.tables import ray_io

        return ray_io.write(data, ray_io.Target(place, schema, tuple(by), checks, fill))
    rows = conform(data, schema if schema is not None else delta_schema(data.schema), fill=fill)
    findings = None
    if checks:
        from rayplat.data.tables.checks import inspect

        findings = inspect(rows, checks)
        if not checks.unique:
            findings.raise_if_bad(place.name)  # before a byte is written
    return Written(write_files(place, rows, by), rows.schema, findings)


def _checks(table: DeltaTable, terms: Terms) -> Checks | None:
    """The rules stored with the table and those of this write."""
    stored = stored_checks(table)
    return stored.also(terms.checks) if stored else terms.checks


def stored_checks(table: DeltaTable) -> Checks | None:
    """The checks that `create` was given; they lie in the table's description."""
    text = table.metadata().description or ""
    if not text.startswith(_CHECKS):
        return None
    from rayplat.data.tables.checks import Checks

    return Checks.from_dict(json.loads(text.removeprefix(_CHECKS)))


def _judge(place: Place, written: Written, others: Scan | None) -> None:
    """Raises `BadRows` where the checks found something, uniqueness against the rows of ``others`` included."""
    found = written.findings
    if found is None:
        return
    for key in found.checks.unique if others is not None else ():
        reach = found.reach(key)
        for part in others.prune(reach).batches(list(key), reach):  # type: ignore[union-attr]
            found = found.seen(key, part)
    found.raise_if_bad(place.name)


def _create(place: Place, written: Written, partition_by: Sequence[str], terms: Terms) -> None:
    from deltalake import CommitProperties, Schema
    from deltalake import Transaction as AppTransaction
    from deltalake.transaction import create_table_with_add_actions

    create_table_with_add_actions(
        place.uri,
        Schema.from_arrow(pa.schema(written.schema)),
        log.add_actions(written.files),
        partition_by=list(partition_by),
        configuration=_CONFIGURATION,
        description=_CHECKS + json.dumps(terms.checks.to_dict()) if terms.checks else None,
        storage_options=place.storage_options,
        commit_properties=CommitProperties(
            custom_metadata=terms.notes("create", written.files),
            app_transactions=[AppTransaction(app, n) for app, n in terms.once],
        ),
    )


# --- committing -----------------------------------------------------------------------------------


def _settle(
    place: Place,
    terms: Terms,
    table: DeltaTable,
    plan: Callable[[DeltaTable], Change | None],
    files: Callable[[], list[NewFile]],
) -> int:
    """Commit what ``plan`` makes of ``table``, or of later versions until one holds; then remove those of our ``files``
    that no version names."""
    base, landed = int(table.version()), set[str]()

    def planned(table: DeltaTable) -> int | None:
        change = plan(table)
        if change is None:
            return None
        version = log.commit(place, table, change)
        landed.update(file.path for file in change.adds)
        return version

    try:
        return log.attempt(place, terms.once, planned, table)
    finally:
        discard(place, [file for file in files() if file.path not in landed], base)


def discard(place: Place, files: Sequence[NewFile], base: int | None) -> None:
    """Remove those of ``files`` that no commit after ``base`` names (None: nothing was committed); the latest version
    alone would not do, another writer may have replaced them already. In doubt (the log cannot be read) they stay:
    `vacuum` takes them."""
    if not files:
        return
    named: set[str] = set()
    try:
        for version in range(base + 1, int(log.load(place).version()) + 1) if base is not None else ():
            named |= {unquote(action["add"]["path"]) for action in log.actions(place, version) if "add" in action}
    except (RayplatError, OSError):
        logger.exception("files of a failed write may be left", extra={"table": place.name})
        return
    remove_files(place, [file for file in files if file.path not in named])


def _refuse_changed(place: Place, table: DeltaTable, schema: pa.Schema, by: Sequence[str]) -> None:
    """Raises `Conflict` where files written for ``schema`` no longer fit the table."""
    now = schema_of(table)
    same = all(f.name in now.names and now.field(f.name).type == f.type for f in schema)
    if (
        not same
        or partition_columns(table) != list(by)
        or any(f.name not in schema.names and not f.nullable for f in now)
    ):
        raise Conflict(f"the columns of table {place.name!r} changed while it was written; nothing was; try again")


def _removable(place: Place, files: Sequence[File]) -> Sequence[File]:
    """``files``, or `InvalidInput`: delta-rs cannot remove a file together with its deletion vector."""
    if any(file.deleted for file in files):
        raise InvalidInput(
            f"table {place.name}", "has deletion vectors on files to be replaced; overwrite it or purge them first"
        )
    return files


# --- columns, partitions, keys --------------------------------------------------------------------


def _columns_of(data: pa.Table | Dataset) -> pa.Schema:
    if isinstance(data, pa.Table):
        return data.schema
    from rayplat.data.tables import ray_io

    found = ray_io.schema_of(data)
    if found is None:
        raise InvalidInput("data", "its columns are not known; evolve needs Arrow blocks")
    return found


def _grow(place: Place, found: pa.Schema) -> DeltaTable:
    """Give the table the columns it lacks (a commit of its own, without rows) and wider numbers (its files are
    written anew)."""
    import deltalake

    while True:
        table = log.load(place)
        grown = evolution(found, schema_of(table))
        if grown.added:
            fields = deltalake.Schema.from_arrow(pa.schema(grown.added)).fields
            try:
                table.alter.add_columns(fields)
            except deltalake.exceptions.DeltaError as e:
                if schema_of(log.load(place)) == schema_of(table):
                    raise SchemaMismatch(grown.added[0].name, f"cannot be added: {e}") from e
                continue  # another writer was first
            continue
        if not grown.widened:
            return table
        _widen(place, grown.schema)


def _widen(place: Place, schema: pa.Schema) -> None:
    table = log.load(place)
    refuse_unwritable(place.name, table, removes=True)
    written: list[NewFile] = []

    def plan(table: DeltaTable) -> Change:
        scan, by = scan_of(place, table), partition_columns(table)
        adds: list[NewFile] = []
        for index, part in enumerate(scan.batches()):
            files = write_files(place, conform(part, schema, fill=True), by, new_stem(index))
            adds += files
            written.extend(files)
        notes = Terms().notes("widen columns", ())
        return Change(adds, everything=True, schema=schema, noted=notes)

    _settle(place, Terms(), table, plan, lambda: written)


def _partition(place: Place, schema: pa.Schema, by: Sequence[str], partition: Mapping[str, Any]) -> dict[str, Any]:
    if not partition:
        raise InvalidInput("partition", f"names no column; table {place.name!r} is partitioned by {', '.join(by)}")
    found = {}
    for name, value in partition.items():
        if name not in by:
            raise InvalidInput(
                "partition", f"{name!r} is no partition column of {place.name}: {', '.join(by) or 'none'}"
            )
        try:
            found[name] = pa.scalar(value, schema.field(name).type).as_py()
        except (pa.ArrowInvalid, pa.ArrowTypeError, TypeError) as e:
            raise InvalidInput("partition", f"{name}: {value!r} is no {schema.field(name).type}") from e
    return found


def _check_keys(place: Place, schema: pa.Schema, keys: Sequence[str]) -> None:
    if isinstance(keys, str) or not keys:
        raise InvalidInput("keys", "give a list of one or more columns")
    for name in keys:
        if name not in schema.names:
            raise SchemaMismatch(name, f"no column of {place.name}; it has {', '.join(schema.names)}")
        if pa.types.is_nested(schema.field(name).type):
            raise InvalidInput("keys", f"{name!r} is {schema.field(name).type}, which cannot be a key")


def _keys_of(rows: pa.Table, schema: pa.Schema, keys: Sequence[str]) -> pa.Table:
    """The key columns of ``rows`` in the types of the table."""
    for name in keys:
        if name not in rows.column_names:
            raise SchemaMismatch(name, "a key that is missing in the rows to delete")
    wanted = pa.schema([schema.field(name).with_nullable(True) for name in keys])
    return conform(rows.select(list(keys)), wanted).drop_null()


def _all_keys(
    place: Place, data: pa.Table | Dataset, written: Written, keys: Sequence[str], leaving: pa.Table | None
) -> pa.Table:
    """The keys of all rows that go. Raises `InvalidInput` for keys in ``data`` that are null or come twice."""
    assert written.schema is not None
    wanted = pa.schema([written.schema.field(name) for name in keys])
    if isinstance(data, pa.Table):
        found = conform(data.select(list(keys)), wanted)
    else:
        found = _with_new(Scan(place, written.schema, ()), written.files).table(list(keys))
    for name in keys:
        if found[name].null_count:
            raise InvalidInput("data", f"{found[name].null_count} rows have no {name!r}, which is a key")
    counted = found.group_by(list(keys)).aggregate([([], "count_all")])
    if counted.num_rows < found.num_rows:
        twice = counted.filter(pc.field("count_all") > 1).select(list(keys)).slice(0, 3).to_pylist()
        raise InvalidInput("data", f"{found.num_rows - counted.num_rows} rows repeat a key of others, such as {twice}")
    if leaving is None or not leaving.num_rows:
        return found
    both = leaving.join(found, list(keys), join_type="left semi")
    if both.num_rows:
        raise InvalidInput("deletes", f"{both.num_rows} keys are in data too, such as {both.slice(0, 3).to_pylist()}")
    leaving = leaving.group_by(list(keys)).aggregate([]).cast(pa.schema([f.with_nullable(True) for f in wanted]))
    return pa.concat_tables([found.cast(leaving.schema), leaving])


def _with_new(scan: Scan, files: Sequence[NewFile]) -> Scan:
    """``scan`` and files that are not committed yet."""
    added = []
    for new in files:
        values = {name: _typed(text, scan.schema.field(name).type) for name, text in new.partition.items()}
        added.append(File(f"{scan.uri}/{new.path}", new.size_bytes, new.rows, new.path, values, new.partition))
    return replace(scan, files=(*scan.files, *added))


def _typed(text: str | None, dtype: pa.DataType) -> Any:
    if text is None or pa.types.is_string(dtype):
        return text
    if pa.types.is_timestamp(dtype):
        return pa.scalar(text).cast(pa.timestamp("us")).cast(dtype).as_py()
    return pa.scalar(text).cast(dtype).as_py()


def _rows(file: File) -> int:
    return file.rows or 0


def _runner(
    scan: Scan, on_cluster: bool
) -> Callable[[Sequence[Scan], Gone, Sequence[str]], list[list[NewFile] | None]]:
    """Rewrites files here one by one, or many at once as Ray tasks where a cluster is at hand and it is worth it."""

    def here(scans: Sequence[Scan], gone: Gone, by: Sequence[str]) -> list[list[NewFile] | None]:
        done: list[list[NewFile] | None] = []
        try:
            for one in scans:
                done.append(thin(one, gone, by))
        except BaseException:
            remove_files(scan.place, [file for result in done for file in result or ()])
            raise
        return done

    def anywhere(scans: Sequence[Scan], gone: Gone, by: Sequence[str]) -> list[list[NewFile] | None]:
        from rayplat.data.tables import ray_io

        return ray_io.thin_all(scans, gone, by)

    large = sum(file.size_bytes for file in scan.files) >= _ON_CLUSTER_BYTES
    return anywhere if (on_cluster or large) and _has_cluster() else here


def _has_cluster() -> bool:
    import sys

    ray = sys.modules.get("ray")
    return bool(ray is not None and getattr(ray, "is_initialized", bool)())
