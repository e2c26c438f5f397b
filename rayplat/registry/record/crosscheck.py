"""Whether the tables still say what the audit log says: an edited row of another table is found and named.

Every table but those in `journal.UNCOVERED`, and every column but those in `journal.CHANGING`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from rayplat.errors import Unavailable
from rayplat.registry import replay
from rayplat.registry.record import audit, journal, rows, schema
from rayplat.registry.record.journal import Key
from rayplat.registry.replay import Replay
from rayplat.types import AuditProblem

_TRIES = 5


def check_record(connection: Connection) -> list[AuditProblem]:
    """Rows that the audit log contradicts: edited, missing, or made by none of its entries.

    It takes the log as true: check that first (`audit.check`). Raises `Unavailable` where the record changes all the
    time while it is read.
    """
    for _ in range(_TRIES):
        before = audit.head(connection)
        told = Replay()
        for row in connection.execute(sa.select(schema.audit).order_by(schema.audit.c.seq)):
            told.add(rows.audit_entry(row))
            told.note(row.seq, json.loads(row.detail).get(journal.ROWS, {}))
        actual = {table.name: _rows(connection, table) for table in journal.covered()}
        connection.rollback()  # what comes next has to see what others have written since
        if audit.head(connection) == before:
            return replay.differences(told, actual)
    raise Unavailable("the check of the record", "it was changed while it was read, several times; try again")


def _rows(connection: Connection, table: sa.Table) -> dict[Key, dict[str, Any]]:
    found = {}
    for row in connection.execute(sa.select(table)).mappings():
        columns: dict[str, Any] = {**row, replay.DIGEST: journal.digest(table, row)}
        for name, change in _READ.items():
            if name in columns:
                columns |= change(columns[name])
        found[journal.key_of(table, row)] = columns
    return found


def _json(text: Any) -> Any:
    try:
        return json.loads(text)
    except (ValueError, TypeError):
        return text


# Columns that the log holds in another form.
_READ: dict[str, Callable[[Any], dict[str, Any]]] = {
    "policy": lambda text: {"policy": _json(text)},
    "events": lambda text: {"events": _json(text)},
    "url": lambda url: {"url_sha256": hashlib.sha256(str(url).encode()).hexdigest()},
    "revoked_at": lambda at: {"revoked": at is not None},
}
