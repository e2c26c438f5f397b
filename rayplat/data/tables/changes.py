"""What changed between two versions of a table: the rows inserted and those deleted, net. Knows logs and files, of our
tables and of others'.

A commit says which files came and which went, and whether that changed data (a compaction says no). Rows that were only
written again, because another row of their file changed, cancel out; so does a row that was inserted and deleted in
between. Equal rows are counted: of two equal rows one may go. Where commits or their files are no longer there, the two
versions are compared by their files; where that is impossible too, `Conflict` names the version, and the caller starts
from the whole table.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs

from rayplat.data.tables import log
from rayplat.data.tables.entries import actions
from rayplat.data.tables.place import Place
from rayplat.data.tables.scan import File, Scan
from rayplat.data.tables.schema import is_wider
from rayplat.data.tables.snapshot import scan_of
from rayplat.errors import Conflict, NotFound
from rayplat.types import TableVersion

if TYPE_CHECKING:
    from rayplat.data.tables import Tables

LIMIT_BYTES = 2 << 30
_COUNT = "\0count"
_EMPTY = -1
_AT_ONCE = 16
Logical = tuple[str, str]  # a file's path and its deletion vector


@dataclass(frozen=True)
class Changes:
    """The rows inserted and deleted after version ``after`` up to ``table_version``, net, in the columns of the latter
    (those that it has more than the former are null in deleted rows). ``appended`` is a scan of the inserted rows where
    the change is nothing but new files: read it on workers, nothing of it is loaded."""

    after: int
    table_version: TableVersion
    deleted: pa.Table
    appended: Scan | None
    rows: pa.Table | None = None

    @cached_property
    def inserted(self) -> pa.Table:
        """The inserted rows; read now where the change is new files only."""
        if self.rows is not None:
            return self.rows
        assert self.appended is not None
        return self.appended.table()

    def count(self) -> tuple[int, int]:
        """How many rows were inserted and deleted."""
        inserted = self.appended.count() if self.appended is not None else self.inserted.num_rows
        return inserted, self.deleted.num_rows


def read(tables: Tables, name: str, after: int, upto: int | None = None, *, limit_bytes: int = LIMIT_BYTES) -> Changes:
    """The net changes in versions (``after``, ``upto``] of a table; ``upto`` None is the latest, ``after`` -1 the empty
    table before the first version.

    Only files that came or went are opened. Where rows went, those files are read here: more than ``limit_bytes`` of
    them raise `Conflict`, as does what can no longer be told. Raises `NotFound` for a version that is not there.
    """
    place, latest = tables.place(name), tables.version(name, upto)
    if not _EMPTY <= after <= latest.version:
        raise NotFound("table version", f"{name}@{after}", f"it is not before version {latest.version}")
    end = scan_of(place, log.load(place, latest.version))
    nothing = end.schema.empty_table()
    if after == latest.version:
        return Changes(after, latest, nothing, replace(end, files=()))
    if after == _EMPTY:
        return Changes(after, latest, nothing, end)
    came, went = _told(place, after, latest.version, end)
    if not went:
        return Changes(after, latest, nothing, replace(end, files=tuple(came)))
    size = sum(file.size_bytes for file in (*came, *went))
    if size > limit_bytes:
        raise Conflict(
            f"between versions {after} and {latest.version} of table {name!r} {size >> 20} MiB were written anew, more "
            f"than the {limit_bytes >> 20} MiB that are compared row by row; start from version {latest.version}"
        )
    inserted, deleted = _net(replace(end, files=tuple(came)), replace(end, files=tuple(went)))
    return Changes(after, latest, deleted, None, inserted)


def _told(place: Place, after: int, upto: int, end: Scan) -> tuple[list[File], list[File]]:
    """The files that came and those that went: by the commits, or by the two versions."""
    try:
        found = _by_commits(place, after, upto, end)
        _require_files(place, [*found[0], *found[1]])
        return found
    except NotFound as gone:
        try:
            start = _start(place, after, end)
        except NotFound as e:
            raise Conflict(f"what changed after version {after} of {place.name!r} can no longer be told: {e}") from e
        found = _apart(start.files, end.files)
        try:
            _require_files(place, [*found[0], *found[1]])
        except NotFound as e:
            raise Conflict(
                f"what changed after version {after} of {place.name!r} can no longer be told: {gone}; {e}"
            ) from e
        return found


def _start(place: Place, after: int, end: Scan) -> Scan:
    """The files of version ``after``. Raises `Conflict` where its columns are no longer those of ``end``."""
    start = scan_of(place, log.load(place, after))
    for field in start.schema:
        now = end.schema.field(field.name).type if field.name in end.schema.names else None
        if (
            now is None
            or not (now == field.type or is_wider(now, field.type))
            or _stored(start, field.name) != _stored(end, field.name)
        ):
            raise Conflict(
                f"column {field.name} of table {place.name!r} was {field.type} in version {after} and is now "
                f"{now or 'gone'}: what changed cannot be told in its columns; start from the latest version"
            )
    return start


def _stored(scan: Scan, column: str) -> str:
    """What files call a column."""
    names = scan.layout.names() if scan.layout is not None else {}
    return next((physical for physical, logical in names.items() if logical == column), column)


def _by_commits(place: Place, after: int, upto: int, end: Scan) -> tuple[list[File], list[File]]:
    """Net of all commits: the last state in which a file came, the first in which it went. Raises `NotFound` where a
    commit is not in the log."""
    start = _start(place, after, end)
    came: dict[Logical, int] = {}
    went: dict[Logical, int] = {}
    versions = range(after + 1, upto + 1)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        commits = pool.map(lambda version: _moved(actions(place, version)), versions)
        for version, (removed, added) in zip(versions, commits, strict=True):
            for one in removed - added:
                if came.pop(one, None) is None:
                    went.setdefault(one, version - 1)
            for one in added - removed:
                if went.pop(one, None) is None:
                    came[one] = version
    return _files(place, came, end), _files(place, went, start)


def _moved(actions: Iterable[dict[str, Any]]) -> tuple[set[Logical], set[Logical]]:
    """The files, each with its deletion vector, that one commit removed and added, where that changed data."""
    removed: set[Logical] = set()
    added: set[Logical] = set()
    for action in actions:
        for kind, files in (("remove", removed), ("add", added)):
            one = action.get(kind)
            if one is not None and one.get("dataChange", True):
                vector = one.get("deletionVector") or {}
                deleted = "{storageType}{pathOrInlineDv}".format(**vector) if vector else ""
                files.add((unquote(one["path"]), f"{deleted}@{vector.get('offset')}"))
    return removed, added


def _files(place: Place, wanted: dict[Logical, int], known: Scan) -> list[File]:
    """The files, from the scan ``known`` or, where a compaction has hidden them there, from the version given."""
    here = {file.key: file for file in known.files}
    found = [here[key] for key, _ in wanted if key in here]
    for version in sorted({at for (key, _), at in wanted.items() if key not in here}):
        keys = {key for (key, _), at in wanted.items() if at == version and key not in here}
        found += [file for file in scan_of(place, log.load(place, version)).files if file.key in keys]
    return sorted(found, key=lambda file: (file.written_ms, file.path))


def _apart(start: Sequence[File], end: Sequence[File]) -> tuple[list[File], list[File]]:
    """The files of ``end`` that are not in ``start``, and the other way round."""
    first, last = {(f.key, f.deleted) for f in start}, {(f.key, f.deleted) for f in end}
    return [f for f in end if (f.key, f.deleted) not in first], [f for f in start if (f.key, f.deleted) not in last]


def _require_files(place: Place, files: Sequence[File]) -> None:
    for info in place.filesystem.get_file_info([place.resolve(file.key) for file in files]):
        if info.type != pafs.FileType.File:
            raise NotFound("data file", info.path, "a vacuum removed it")


def _net(came: Scan, went: Scan) -> tuple[pa.Table, pa.Table]:
    """Rows of ``came`` less those of ``went``, and the other way round, partition by partition."""
    inserted, deleted = [came.schema.empty_table()], [came.schema.empty_table()]
    for partition in dict.fromkeys(_partition(file) for file in (*came.files, *went.files)):
        plus, minus = (
            replace(scan, files=tuple(f for f in scan.files if _partition(f) == partition)) for scan in (came, went)
        )
        if not plus.files or not minus.files:
            inserted.append(plus.table())
            deleted.append(minus.table())
            continue
        more, less = cancel(plus.table(), minus.table())
        inserted.append(more)
        deleted.append(less)
    return pa.concat_tables(inserted), pa.concat_tables(deleted)


def _partition(file: File) -> tuple[Any, ...]:
    return tuple(sorted(file.partition_text.items()))


def cancel(plus: pa.Table, minus: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Both without the rows that they share, counted: a row twice in ``plus`` and once in ``minus`` stays once in
    ``plus``. NaN equals NaN, null equals null."""
    both = pa.concat_tables([_comparable(plus), _comparable(minus)])
    names = [str(i) for i in range(both.num_columns)]
    sign = pa.array([1] * plus.num_rows + [-1] * minus.num_rows, pa.int32())
    at = pa.array(range(both.num_rows), pa.int64())
    keyed = both.rename_columns(names).append_column(_COUNT, sign).append_column("at", at)
    found = keyed.group_by(names, use_threads=False).aggregate([(_COUNT, "sum"), ("at", "list")])
    net = found[f"{_COUNT}_sum"]
    more, less = (
        _positions(found.filter(holds), plus.num_rows, of_plus)
        for holds, of_plus in ((pc.greater(net, 0), True), (pc.less(net, 0), False))
    )
    return plus.take(more), minus.take(less)


def _positions(groups: pa.Table, split: int, of_plus: bool) -> pa.Array:
    """Of each group of equal rows as many positions as are left over, in the table where they are."""
    kept = []
    for left, rows in zip(groups[f"{_COUNT}_sum"].to_pylist(), groups["at_list"].to_pylist(), strict=True):
        own = [row for row in rows if row < split] if of_plus else [row - split for row in rows if row >= split]
        kept += own[-abs(left) :]
    return pa.array(sorted(kept), pa.int64())


def _comparable(rows: pa.Table) -> pa.Table:
    """``rows`` with nested columns as text, by which they can be grouped."""
    for i, field in enumerate(rows.schema):
        if pa.types.is_nested(field.type):
            text = pa.array([None if v is None else repr(v) for v in rows[i].to_pylist()], pa.string())
            rows = rows.set_column(i, field.name, text)
    return rows
