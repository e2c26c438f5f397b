"""What a write leaves in the audit log, put there as the write ends: its entries, and a digest of every row it wrote.

The digests let `crosscheck` tell an edited row, whatever the column. They stand in the detail of the write's last
entry, by table: ``"row_digests": {"rp_pin": [[*key, digest]]}``, with null where the row was deleted. A digest is the
hex sha256 of the row's columns, sorted by name, as JSON ``[[name, value], ...]``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import Connection

from rayplat.registry import chain
from rayplat.registry.record import rows, schema
from rayplat.registry.record.prepared import Prepared

PLATFORM = "rayplat"
ROWS = chain.ROWS
# Not covered: what the platform counts and forgets by itself, and the log, which has its own hashes.
UNCOVERED = frozenset(
    table.name
    for table in (schema.schema, schema.lease, schema.audit, schema.outbox, schema.lineage_sent)  # the writer's own
)
# Columns that change without a decision, and so without an entry: when a token was used, how far a delivery is.
CHANGING: Mapping[str, frozenset[str]] = {
    schema.token.name: frozenset({"last_used_at"}),
    schema.webhook.name: frozenset({"state", "position", "failures", "next_try_at", "last_error", "last_delivered_at"}),
}
_MOST = 500  # rows that one entry speaks of; more get entries of their own

Key = tuple[Any, ...]
Touched = dict[tuple[str, Key], "str | None"]
_NEWEST = Prepared(sa.select(schema.audit.c.seq, schema.audit.c.hash).order_by(schema.audit.c.seq.desc()).limit(1))
_APPEND = Prepared(sa.insert(schema.audit))


class Note(NamedTuple):
    """An entry that waits for the end of its write; ``at`` in microseconds since 1970 UTC."""

    at: int
    actor: str
    action: str
    subject: str
    detail: dict[str, Any]
    key: str | None


@dataclass
class Journal:
    """Of one write: the entries so far, and the newest digest of each row it has written."""

    notes: list[Note] = field(default_factory=list)
    touched: Touched = field(default_factory=dict)

    def wrote(self, connection: Connection, table: sa.Table, columns: Mapping[str, Any]) -> None:
        """The row of ``columns`` was inserted, changed or deleted. Where they are not all of it, it is read."""
        key = key_of(table, columns)
        if not _kept(table).keys() <= columns.keys():
            same = sa.and_(*(c == value for c, value in zip(table.primary_key.columns, key, strict=True)))
            row = connection.execute(sa.select(table).where(same)).mappings().first()
            self.touched[table.name, key] = None if row is None else digest(table, row)
        else:
            self.touched[table.name, key] = digest(table, columns)

    def close(self, connection: Connection, at: int) -> None:
        """Write the entries."""
        if not self.notes and not self.touched:
            return
        parts = list(_parts(self.touched))
        notes = self.notes or [Note(at, PLATFORM, "record.write", "record", {}, None)]
        more = [Note(at, PLATFORM, "record.rows", notes[-1].subject, {}, None) for _ in parts[1:]]
        told = [*({} for _ in notes[:-1]), *parts]
        newest = _NEWEST(connection, {}).first()
        seq, prev = (0, chain.START) if newest is None else newest
        for note, its_rows in zip([*notes, *more], told, strict=True):
            seq, prev = seq + 1, _append(connection, seq + 1, prev, note, its_rows)


def key_of(table: sa.Table, columns: Mapping[Any, Any]) -> Key:
    """The values of the primary key."""
    return tuple(columns[c.name] for c in table.primary_key.columns)


def digest(table: sa.Table, columns: Mapping[Any, Any]) -> str:
    """64 hex digits for a row of ``table``; columns that change without a decision are left out."""
    values = [[name, _plain(kind, columns[name])] for name, kind in _kept(table).items()]
    return hashlib.sha256(json.dumps(values, separators=(",", ":"), default=repr).encode()).hexdigest()


def covered() -> list[sa.Table]:
    """The tables whose rows are in the log."""
    return [table for name, table in sorted(schema.metadata.tables.items()) if name not in UNCOVERED]


def _append(connection: Connection, seq: int, prev: str, note: Note, its_rows: dict[str, Any]) -> str:
    detail = _text(note.detail, its_rows)
    columns = {
        "seq": seq,
        "at": note.at,
        "actor": note.actor,
        "action": note.action,
        "subject": note.subject,
        "detail": detail,
        "request_key": note.key,
    }
    texts = (note.actor, note.action, note.subject, detail)
    hashed = chain.entry_hash(prev, chain.encode(seq, note.at, texts, note.key))
    _APPEND(connection, {**columns, "prev_hash": prev, "hash": hashed})
    return hashed


def _text(detail: dict[str, Any], its_rows: dict[str, Any]) -> str:
    """``{**detail, ROWS: its_rows}`` as canonical JSON; the digests, which are most of it, by the fast encoder."""
    parts = [rows.to_json({k: v for k, v in detail.items() if k < ROWS})[1:-1]]
    parts.append(f'"{ROWS}":{json.dumps(its_rows, ensure_ascii=False, separators=(",", ":"), sort_keys=True)}')
    parts.append(rows.to_json({k: v for k, v in detail.items() if k > ROWS})[1:-1])
    return "{" + ",".join(filter(None, parts)) + "}"


def _parts(touched: Touched) -> Iterator[dict[str, list[Any]]]:
    """At least one; each with at most `_MOST` rows."""
    found = list(touched.items())
    for start in range(0, max(len(found), 1), _MOST):
        part: dict[str, list[Any]] = {}
        for (table, key), its_digest in found[start : start + _MOST]:
            part.setdefault(table, []).append([*key, its_digest])
        yield part


_KEPT: dict[str, dict[str, Any]] = {}


def _kept(table: sa.Table) -> dict[str, Any]:
    """The columns that a digest covers, by name, with their types."""
    found = _KEPT.get(table.name)
    if found is None:
        columns: Sequence[Any] = sorted(table.columns, key=lambda c: str(c.name))
        left_out = CHANGING.get(table.name, frozenset())
        found = _KEPT[table.name] = {c.name: c.type for c in columns if c.name not in left_out}
    return found


def _plain(kind: Any, value: Any) -> Any:
    """The same for a value on its way into the database and out of it."""
    if isinstance(kind, sa.Float) and type(value) is int:
        return float(value)
    return bool(value) if isinstance(kind, sa.Boolean) else value
