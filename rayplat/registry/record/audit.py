"""The audit log: one entry for each change, each hash taken over the entry and the hash before it.

A changed, removed or inserted entry breaks the chain and `verify` names it. Cutting off the newest entries does not
show, unless their last hash was noted elsewhere.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from rayplat.artifacts.manifest import canonical
from rayplat.errors import Conflict, Corrupt, InvalidInput
from rayplat.registry.record import rows
from rayplat.registry.record.database import Tx
from rayplat.registry.record.schema import audit
from rayplat.types import AuditEntry

_START = "0" * 64
_MAX_LIMIT = 10_000


def append(tx: Tx, actor: str, action: str, subject: str, detail: dict[str, Any]) -> None:
    """Add the entry for the change that ``tx`` makes. The fence has made this the only writer."""
    last = tx.connection.execute(sa.select(audit.c.seq, audit.c.hash).order_by(audit.c.seq.desc()).limit(1)).first()
    seq, prev = (last.seq + 1, last.hash) if last is not None else (1, _START)
    columns = {
        "seq": seq,
        "at": rows.to_us(tx.at),
        "actor": actor,
        "action": action,
        "subject": subject,
        "detail": rows.to_json(detail),
    }
    link = {"prev_hash": prev, "hash": _hash(prev, columns), "request_key": tx.key}
    tx.connection.execute(sa.insert(audit).values(**columns, **link))


def replayed(tx: Tx, action: str) -> AuditEntry | None:
    """The entry an earlier call with the same idempotency key made, if any. `Conflict` when that did something else."""
    if tx.key is None:
        return None
    row = tx.connection.execute(sa.select(audit).where(audit.c.request_key == tx.key)).first()
    if row is None:
        return None
    if row.action != action:
        raise Conflict(f"the idempotency key {tx.key!r} was used for {row.action}, not {action}")
    return rows.audit_entry(row)


def listed(connection: Connection, limit: int) -> list[AuditEntry]:
    """The newest ``limit`` entries, newest first."""
    if not 1 <= limit <= _MAX_LIMIT:
        raise InvalidInput("limit", f"{limit} is not between 1 and {_MAX_LIMIT}")
    newest = sa.select(audit).order_by(audit.c.seq.desc()).limit(limit)
    return [rows.audit_entry(row) for row in connection.execute(newest)]


def verify(connection: Connection) -> int:
    """How many entries were checked. Raises `Corrupt` at the first that does not fit."""
    seq, prev = 0, _START
    for row in connection.execute(sa.select(audit).order_by(audit.c.seq).execution_options(yield_per=1000)):
        expected = _hash(prev, row._mapping)
        if (row.seq, row.prev_hash, row.hash) != (seq + 1, prev, expected):
            raise Corrupt(f"audit entry {row.seq} (after entry {seq})", expected, row.hash)
        seq, prev = row.seq, row.hash
    return seq


def _hash(prev: str, columns: Any) -> str:
    body = {name: columns[name] for name in ("seq", "at", "actor", "action", "subject")}
    try:
        body["detail"] = json.loads(columns["detail"])
    except ValueError:
        body["detail"] = columns["detail"]
    return hashlib.sha256(prev.encode() + canonical(body)).hexdigest()
