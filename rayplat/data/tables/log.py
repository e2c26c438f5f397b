"""The log of one table: loading a version, committing one, listing commits. Knows delta-rs and nothing of what files
hold. A reader never sees half a commit; a commit with ``once`` happens at most once.

Two kinds of commit. A *rebased* one (append, compaction) holds whatever others committed since its snapshot, unless
they took away a file that it takes away. An *exact* one (overwrite, replace, delete, upsert) follows the very version
it was planned on: delta-rs alone would let a stale overwrite keep rows that were appended meanwhile.
"""

from __future__ import annotations

import errno
import logging
import random
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa

from rayplat.data.tables.entries import at_moment, entry, has_entry, listed
from rayplat.data.tables.features import refuse_unreadable
from rayplat.data.tables.place import Place
from rayplat.errors import Conflict, Corrupt, InvalidInput, NotFound, Unavailable

if TYPE_CHECKING:
    from deltalake import DeltaTable

    from rayplat.data.tables.files import NewFile
    from rayplat.data.tables.scan import File

log = logging.getLogger(__name__)

At = int | datetime | None
Transaction = tuple[str, int]
T = TypeVar("T")

_REBASES = 100
_PATIENCE_S = 120.0
_LONGEST_PAUSE_S = 2.0
_COMMIT_ID = "commit_id"


class Moved(Exception):
    """Another writer committed something that this change has to be planned on."""


class Gone(Exception):
    """A file that a change removes is no longer there."""


@dataclass(frozen=True)
class Change:
    """What one commit does: ``removes`` go, ``adds`` come; ``everything`` takes away all files of the snapshot and
    lets ``schema`` replace the table's. ``data_change`` is False where rows only move between files.

    ``noted`` is kept with the commit; ``once`` are application transactions: the rows count as committed under them.
    """

    adds: Sequence[NewFile] = ()
    removes: Sequence[File] = ()
    everything: bool = False
    schema: pa.Schema | None = None
    exact: bool = True
    data_change: bool = True
    noted: Mapping[str, str] = field(default_factory=dict)
    once: Sequence[Transaction] = ()


def exists(place: Place) -> bool:
    """Whether there is a log."""
    from deltalake import DeltaTable

    return bool(DeltaTable.is_deltatable(place.uri, place.storage_options))


def load(place: Place, version: At = None) -> DeltaTable:
    """The table at ``version`` (a number, the last one at a moment, None: the latest).

    Raises `NotFound` for a table or version that is not there and for a moment before the first version,
    `InvalidInput` naming features that would be read wrong, `Corrupt` for a log that cannot be read.
    """
    if isinstance(version, datetime):
        version = at_moment(place, version)
    if version is not None and (isinstance(version, bool) or not isinstance(version, int)):
        raise InvalidInput("version", f"{version!r} is no version: give its number, a datetime, or None for the latest")
    if version is not None and version < 0:
        raise NotFound("table version", f"{place.name}@{version}", "versions are numbered from 0")
    if version is not None and not has_entry(place, version):  # delta-rs would try every version up to it
        latest = _open(place, None).version()
        if version > latest:
            raise NotFound("table version", f"{place.name}@{version}", f"the latest is {latest}")
    table = _open(place, version)
    refuse_unreadable(place.name, table)
    return table


def commit(place: Place, table: DeltaTable, change: Change) -> int:
    """Commit ``change``, planned on the snapshot ``table``; the new version. Raises `Moved` where it has to be planned
    anew, `Unavailable` where the log cannot be written (a full disk)."""
    if change.removes and not change.exact:
        return _rebase(place, change)
    return _commit(place, table, change)


def create(
    place: Place,
    change: Change,
    partition_by: Sequence[str],
    configuration: Mapping[str, str],
    description: str | None = None,
) -> int:
    """The first commit of a table with ``change.schema``; its version, 0. Raises `Moved` where there is a table."""
    from deltalake import CommitProperties, Schema
    from deltalake import Transaction as AppTransaction
    from deltalake.exceptions import DeltaError
    from deltalake.transaction import create_table_with_add_actions

    mark = uuid.uuid4().hex
    try:
        create_table_with_add_actions(
            place.uri,
            Schema.from_arrow(pa.schema(change.schema or [])),
            add_actions(change.adds),
            partition_by=list(partition_by),
            configuration=dict(configuration),
            description=description,
            storage_options=place.storage_options,
            commit_properties=CommitProperties(
                custom_metadata={**change.noted, _COMMIT_ID: mark},
                max_commit_retries=0,  # else the second of two creators commits its schema as version 1
                app_transactions=[AppTransaction(app, n) for app, n in change.once],
            ),
        )
    except (DeltaError, OSError) as e:
        if _landed(place, -1, mark) is not None:
            return 0
        if is_full(e):
            raise no_space(place, e) from e
        if exists(place):
            raise Moved(str(e)) from e
        raise Unavailable(f"table {place.name}", f"cannot be made: {e}") from e
    return 0


def _rebase(place: Place, change: Change) -> int:
    """``change`` on the newest version that still has all files it removes. Ours, because delta-rs lets two
    compactions remove the same file and keeps the rows of both."""

    def plan(table: DeltaTable) -> int:
        from rayplat.data.tables.snapshot import scan_of

        there = {(file.key, file.deleted) for file in scan_of(place, table).files}
        if any((file.key, file.deleted) not in there for file in change.removes):
            raise Gone(f"files of table {place.name!r} went meanwhile")
        return _commit(place, table, replace(change, exact=True))

    try:
        return attempt(place, change.once, plan)
    except Gone as e:
        raise Moved(str(e)) from e


def _commit(place: Place, table: DeltaTable, change: Change) -> int:
    from deltalake import CommitProperties, PostCommitHookProperties, Schema
    from deltalake import Transaction as AppTransaction
    from deltalake.exceptions import CommitFailedError, DeltaError

    base, mark = table.version(), uuid.uuid4().hex
    properties = CommitProperties(
        custom_metadata={**change.noted, _COMMIT_ID: mark},
        max_commit_retries=0 if change.exact else _REBASES,
        app_transactions=[AppTransaction(app, n) for app, n in change.once],
    )
    declared = table.schema() if change.schema is None else Schema.from_arrow(change.schema)
    actions = add_actions(change.adds, change.data_change)
    actions += [_remove(file, change.data_change) for file in change.removes]
    mode, parts = "overwrite" if change.everything else "append", list(table.metadata().partition_columns)
    try:
        table.create_write_transaction(
            actions,
            mode,
            declared,
            partition_by=parts,
            commit_properties=properties,
            post_commithook_properties=PostCommitHookProperties(cleanup_expired_logs=False),  # pins may need the log
        )
    except (DeltaError, OSError) as e:
        landed = _landed(place, base, mark)  # the answer of a storage may get lost
        if landed is not None:
            return landed
        if is_full(e):
            raise no_space(place, e) from e
        if isinstance(e, CommitFailedError) and _is_conflict(e):
            raise Moved(str(e)) from e
        raise Unavailable(f"table {place.name}", f"the commit failed, the table is unchanged: {e}") from e
    return base + 1 if change.exact else _found(place, base, mark)


def add_actions(files: Sequence[NewFile], data_change: bool = True) -> list[Any]:
    """As delta-rs takes them."""
    from deltalake.transaction import AddAction

    now = int(time.time() * 1000)
    return [AddAction(f.path, f.size_bytes, f.partition, f.written_ms or now, data_change, f.statistics) for f in files]


def attempt(
    place: Place,
    once: Sequence[Transaction],
    plan: Callable[[DeltaTable], int | None],
    table: DeltaTable | None = None,
) -> int:
    """Run ``plan`` (it commits on the snapshot it is given, first ``table``) until no other writer comes between; the
    version it made, or the snapshot's where ``once`` is committed already or nothing had to be. Raises `Conflict`
    after two minutes."""
    until, pause = time.monotonic() + _PATIENCE_S, 0.02
    while True:
        table = load(place) if table is None else table
        if committed(place, table, once):
            return int(table.version())
        try:
            version = plan(table)
            return int(table.version()) if version is None else version
        except Moved as e:
            if time.monotonic() > until:
                raise Conflict(f"table {place.name!r} kept changing while it was written; try again ({e})") from e
            table = None
            log.debug("planned anew", extra={"table": place.name, "reason": str(e)})
            time.sleep(random.uniform(0, pause))
            pause = min(pause * 2, _LONGEST_PAUSE_S)


def committed(place: Place, table: DeltaTable, once: Sequence[Transaction]) -> bool:
    """Whether all of ``once`` are in the table. Raises `Conflict` where only some are."""
    found = {app: table.transaction_version(app) for app, _ in once}
    done = [app for app, n in once if (last := found[app]) is not None and last >= n]
    if done and len(done) < len(once):
        what = ", ".join(done)
        raise Conflict(f"rows of {what} are already in table {place.name!r}; leave them out and append the rest")
    return bool(once) and len(done) == len(once)


def is_full(error: BaseException) -> bool:
    """Whether it says that no space is left."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    text = str(error).lower()
    return "no space left" in text or "os error 28" in text or "quota exceeded" in text


def no_space(place: Place, error: BaseException, path: str = "") -> Unavailable:
    where = f"{place.uri}/{path}" if path else place.uri
    return Unavailable(
        f"table {place.name}", f"no space left while {where} was written ({error}); the table is unchanged"
    )


# --- inside ---------------------------------------------------------------------------------------


def _open(place: Place, version: int | None) -> DeltaTable:
    from deltalake import DeltaTable
    from deltalake.exceptions import DeltaError, TableNotFoundError

    try:
        return DeltaTable(place.uri, version=version, storage_options=place.storage_options)
    except TableNotFoundError as e:
        if version is None or not exists(place):
            raise NotFound("table", place.name, f"there is no log in {place.uri}") from e
        raise _no_version(place, version, e) from e
    except (DeltaError, OSError) as e:
        if version is not None and not _is_feature(e):
            raise _no_version(place, version, e) from e
        if _is_feature(e):
            raise InvalidInput(f"table {place.name}", f"cannot be read right: {_first_line(e)}") from e
        if isinstance(e, OSError):
            raise
        raise Corrupt(f"the log of table {place.name}", "a readable Delta log", _first_line(e)) from e


def _no_version(place: Place, version: int, error: Exception) -> Exception:
    latest = _open(place, None).version()
    if version > latest:
        return NotFound("table version", f"{place.name}@{version}", f"the latest is {latest}")
    return NotFound(
        "table version", f"{place.name}@{version}", f"its log was removed or is damaged: {_first_line(error)}"
    )


def _first_line(error: Exception) -> str:
    """What it says, without the stack trace that delta-rs puts below."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def _is_feature(error: Exception) -> bool:
    from deltalake.exceptions import DeltaProtocolError

    text = str(error).lower()
    return isinstance(error, DeltaProtocolError) or "unsupported" in text or "catalog-managed" in text


def _is_conflict(error: Exception) -> bool:
    text = str(error).lower()
    exact = "failed to commit transaction: " in text and text.rsplit(": ", 1)[1].strip().isdecimal()  # no attempts left
    return exact or any(sign in text for sign in ("concurrent", "already exists", "changed since"))


def _landed(place: Place, base: int, mark: str) -> int | None:
    """The version that carries ``mark``, if one after ``base`` does."""
    for version, _ in listed(place):
        if version > base and entry(place, version).info.get(_COMMIT_ID) == mark:
            return version
    return None


def _found(place: Place, base: int, mark: str) -> int:
    """The version of a rebased commit: almost always the next."""
    version = base + 1
    while True:
        if entry(place, version).info.get(_COMMIT_ID) == mark:
            return version
        version += 1


def _remove(file: File, data_change: bool) -> Any:
    from deltalake.transaction import RemoveAction

    now = int(time.time() * 1000)
    return RemoveAction(file.key, data_change, now, file.size_bytes, dict(file.partition_text))
