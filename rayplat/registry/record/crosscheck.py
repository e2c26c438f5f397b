"""Whether the tables still say what the audit log says: an edited row of another table is found and named."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from rayplat.errors import Unavailable
from rayplat.registry import replay
from rayplat.registry.record import audit, rows, schema
from rayplat.registry.replay import Key, Replay
from rayplat.types import AuditProblem

_TRIES = 5
_KEYS: dict[str, tuple[sa.Table, tuple[str, ...]]] = {
    replay.HEAD: (schema.alias_head, ("model", "alias")),
    replay.HISTORY: (schema.alias_history, ("model", "alias", "generation")),
    replay.VERSION: (schema.model_version, ("model", "version")),
    replay.PROMOTION: (schema.promotion, ("promotion_id",)),
    replay.APPROVAL: (schema.approval, ("promotion_id", "approver")),
    replay.POLICY: (schema.alias_policy, ("model", "alias")),
    replay.TOKEN: (schema.token, ("token_id",)),
    replay.WEBHOOK: (schema.webhook, ("webhook_id",)),
    replay.WAIVER: (schema.waiver, ("waiver_id",)),
}


def check_record(connection: Connection) -> list[AuditProblem]:
    """Rows of aliases, versions, promotions, approvals, policies, tokens, webhooks and waivers that the audit log
    contradicts.

    It takes the log as true: check that first (`audit.check`). Raises `Unavailable` where the record changes all the
    time while it is read.
    """
    for _ in range(_TRIES):
        before = audit.head(connection)
        told = Replay()
        for row in connection.execute(sa.select(schema.audit).order_by(schema.audit.c.seq)):
            told.add(rows.audit_entry(row))
        actual = {name: _rows(connection, *found) for name, found in _KEYS.items()}
        connection.rollback()  # what comes next has to see what others have written since
        if audit.head(connection) == before:
            return replay.differences(told, actual)
    raise Unavailable("the check of the record", "it was changed while it was read, several times; try again")


def _rows(connection: Connection, table: sa.Table, key: tuple[str, ...]) -> dict[Key, dict[str, Any]]:
    found = {}
    for row in connection.execute(sa.select(table)).mappings():
        columns: dict[str, Any] = dict(row)
        for name, change in _READ.items():
            if name in columns:
                columns |= change(columns[name])
        found[tuple(columns[name] for name in key)] = columns
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
