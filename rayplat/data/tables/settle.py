"""Committing what was planned, again and again until it holds, and leaving no file behind that no version names."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING
from urllib.parse import unquote

import pyarrow as pa

from rayplat.data.tables import log
from rayplat.data.tables.entries import actions
from rayplat.data.tables.files import NewFile, remove_files
from rayplat.data.tables.log import Change, Transaction
from rayplat.data.tables.place import Place
from rayplat.data.tables.scan import File
from rayplat.data.tables.snapshot import partition_columns, schema_of
from rayplat.errors import Conflict, InvalidInput, RayplatError

if TYPE_CHECKING:
    from deltalake import DeltaTable

logger = logging.getLogger(__name__)


def settle(
    place: Place,
    once: Sequence[Transaction],
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
        return log.attempt(place, once, planned, table)
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
            named |= {unquote(action["add"]["path"]) for action in actions(place, version) if "add" in action}
    except (RayplatError, OSError):
        logger.exception("files of a failed write may be left", extra={"table": place.name})
        return
    remove_files(place, [file for file in files if file.path not in named])


def refuse_changed(place: Place, table: DeltaTable, schema: pa.Schema, by: Sequence[str]) -> None:
    """Raises `Conflict` where files written for ``schema`` no longer fit the table."""
    now = schema_of(table)
    same = all(f.name in now.names and now.field(f.name).type == f.type for f in schema)
    if (
        not same
        or partition_columns(table) != list(by)
        or any(f.name not in schema.names and not f.nullable for f in now)
    ):
        raise Conflict(f"the columns of table {place.name!r} changed while it was written; nothing was; try again")


def removable(place: Place, files: Sequence[File]) -> Sequence[File]:
    """``files``, or `InvalidInput`: delta-rs cannot remove a file together with its deletion vector."""
    if any(file.deleted for file in files):
        raise InvalidInput(
            f"table {place.name}", "has deletion vectors on files to be replaced; overwrite it or purge them first"
        )
    return files
