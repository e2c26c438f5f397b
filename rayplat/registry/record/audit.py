"""The audit log: one entry for each change, each hash taken over the entry and the hash before it (`registry.chain`).

A changed, removed, inserted or moved entry breaks the chain, and `check` names it. What was cut off at the end, or
written anew with all hashes, shows by the anchors (`registry.anchors`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from itertools import islice
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import Connection

from rayplat.errors import Conflict, Corrupt, InvalidInput
from rayplat.registry import chain
from rayplat.registry.chain import Entry
from rayplat.registry.record import rows
from rayplat.registry.record.database import Tx
from rayplat.registry.record.journal import Note
from rayplat.registry.record.prepared import Prepared
from rayplat.registry.record.schema import audit
from rayplat.types import AuditEntry, AuditReport

_MAX_LIMIT = 10_000
_BATCH = 2000
_COLUMNS = [
    audit.c[n] for n in ("seq", "at", "actor", "action", "subject", "detail", "request_key", "prev_hash", "hash")
]


class Head(NamedTuple):
    """The newest entry's number, hash and time (microseconds since 1970 UTC)."""

    seq: int
    hash: str
    at_us: int


_NEWEST = Prepared(sa.select(audit.c.seq, audit.c.hash, audit.c.at).order_by(audit.c.seq.desc()).limit(1))
_OF_KEY = Prepared(sa.select(audit).where(audit.c.request_key == sa.bindparam("key")))


class Row(NamedTuple):
    """An entry for a table: ``detail`` is JSON text, ``hash`` its place in the chain."""

    seq: int
    at: datetime
    actor: str
    action: str
    subject: str
    detail: str
    hash: str


def append(tx: Tx, actor: str, action: str, subject: str, detail: dict[str, Any]) -> None:
    """Add the entry for the change that ``tx`` makes, at its end. The fence has made this the only writer.

    ``detail`` holds what the change wrote, so that `crosscheck` can tell an edited row from it.
    """
    tx.journal.notes.append(Note(rows.to_us(tx.at), actor, action, subject, detail, tx.key))


def replayed(tx: Tx, action: str, subject: str | None = None, **said: object) -> AuditEntry | None:
    """The entry an earlier call with the same idempotency key made, if any.

    `Conflict` when that did something else: another action, on another subject, or with another value of what its
    detail says.
    """
    if tx.key is None:
        return None
    row = _OF_KEY(tx.connection, {"key": tx.key}).first()
    if row is None:
        return None
    if row.action != action:
        raise Conflict(f"the idempotency key {tx.key!r} was used for {row.action}, not {action}")
    entry = rows.audit_entry(row)
    if subject is not None and entry.subject != subject:
        raise Conflict(f"the idempotency key {tx.key!r} was used for {entry.subject}, not {subject}")
    for name, value in said.items():
        if entry.detail.get(name) != value:
            found = f"{str(entry.detail.get(name))[:80]}, not {str(value)[:80]}"
            raise Conflict(f"the idempotency key {tx.key!r} was used with the {name} {found}")
    return entry


def listed(connection: Connection, limit: int = 100, subject: str | None = None) -> list[AuditEntry]:
    """The newest ``limit`` entries (1 to 10,000), newest first; of one subject, or of all."""
    if not 1 <= limit <= _MAX_LIMIT:
        raise InvalidInput("limit", f"{limit} is not between 1 and {_MAX_LIMIT}")
    newest = sa.select(audit).order_by(audit.c.seq.desc()).limit(limit)
    if subject is not None:
        newest = newest.where(audit.c.subject == subject)
    return [rows.audit_entry(row) for row in connection.execute(newest)]


def head(connection: Connection) -> Head | None:
    """The newest entry; None where there is none yet."""
    row = _NEWEST(connection, {}).first()
    return None if row is None else Head(row.seq, row.hash, row.at)


def entries(connection: Connection, after: int = 0) -> Iterator[Entry]:
    """The entries with a number above ``after`` as the chain sees them, in their order; read in batches."""
    wanted = sa.select(*_COLUMNS).where(audit.c.seq > after).order_by(audit.c.seq)
    found = connection.execution_options(yield_per=_BATCH).execute(wanted)
    for batch in found.partitions():
        for row in batch:
            yield _entry(*row)


def batch(connection: Connection, after: int = 0, limit: int = 5000) -> list[Entry]:
    """The first ``limit`` entries with a number above ``after``, as the chain sees them."""
    return list(islice(entries(connection, after), limit))


def lines(connection: Connection, after: int = 0, limit: int = 5000) -> list[bytes]:
    """The first ``limit`` entries with a number above ``after``, as lines of an export (`audit_export.lines`)."""
    return [chain.line(entry) for entry in islice(entries(connection, after), limit)]


def page(connection: Connection, after: int, limit: int = 5000) -> list[Row]:
    """The first ``limit`` entries with a number above ``after``."""
    wanted = sa.select(audit).where(audit.c.seq > after).order_by(audit.c.seq).limit(limit)
    return [
        Row(row.seq, rows.from_us(row.at), row.actor, row.action, row.subject, row.detail, row.hash)
        for row in connection.execute(wanted)
    ]


def check(connection: Connection, known: Mapping[int, str] | None = None, after: Head | None = None) -> AuditReport:
    """What is wrong with the log, if anything. ``known`` are hashes by number from anchors; with ``after``, an entry
    known to be good, only what follows it is read."""
    start = (0, chain.START) if after is None else (after.seq, after.hash)
    return chain.check(entries(connection, start[0]), known or {}, start)


def verify(connection: Connection) -> int:
    """How many entries were checked. Raises `Corrupt` naming the first that does not fit, and why."""
    report = check(connection)
    if report.problem is not None:
        found = report.problem
        raise Corrupt(f"audit entry {found.seq}", "an untouched chain of hashes", f"{found.kind.value}: {found.reason}")
    return report.entries


def _entry(
    seq: Any, at: Any, actor: Any, action: Any, subject: Any, detail: Any, key: Any, prev: Any, its_hash: Any
) -> Entry:
    try:
        body = _body(seq, at, actor, action, subject, detail, key)
    except (TypeError, ValueError):  # SQLite keeps a value of any type in any column: such an edit fits no hash
        body = b""
    return Entry(seq if type(seq) is int else -1, str(prev), str(its_hash), body, key is not None and bool(body))


def _body(seq: Any, at: Any, actor: Any, action: Any, subject: Any, detail: Any, key: Any) -> bytes:
    return chain.encode(seq, at, (actor, action, subject, detail), key)
