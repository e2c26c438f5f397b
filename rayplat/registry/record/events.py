"""The outbox: what the outside is told of, written in the transaction of the change itself, in order."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from rayplat.registry.record import rows
from rayplat.registry.record.database import Tx
from rayplat.registry.record.prepared import Prepared
from rayplat.registry.record.schema import lineage_sent, outbox, webhook
from rayplat.types import Event, WebhookState

_INSERT = Prepared(sa.insert(outbox))
_MAX_ROWS = 10_000  # deleted at once, so that a write never waits long


def emit(tx: Tx, event: str, subject: str, body: dict[str, Any]) -> None:
    """Note ``event`` (``promotion.live``, one of `EVENTS`) about ``subject`` (``flight-delay@champion``)."""
    columns = {"event": event, "subject": subject, "body": rows.to_json(body), "at": rows.to_us(tx.at)}
    _INSERT(tx.connection, columns)


def after(connection: Connection, seq: int, limit: int = 100) -> list[Event]:
    """The first ``limit`` events with a number above ``seq``, in their order."""
    found = sa.select(outbox).where(outbox.c.seq > seq).order_by(outbox.c.seq).limit(limit)
    return [_event(row) for row in connection.execute(found)]


def last(connection: Connection) -> int:
    """The number of the newest event; 0 where there never was one."""
    return int(connection.scalar(sa.select(sa.func.max(outbox.c.seq))) or 0)


def prune(tx: Tx, before: datetime) -> int:
    """Delete events older than ``before`` that every active webhook and the lineage server have had; how many.

    Not audited: it changes nothing that anybody decided. The newest stays, so that no number comes twice.
    """
    active = sa.select(sa.func.min(webhook.c.position)).where(webhook.c.state == WebhookState.ACTIVE.value)
    had = [last(tx.connection) - 1, tx.connection.scalar(active), tx.connection.scalar(sa.select(lineage_sent.c.seq))]
    upto = min(int(seq) for seq in had if seq is not None)
    old = sa.select(outbox.c.seq).where(outbox.c.at < rows.to_us(before), outbox.c.seq <= upto)
    doomed = list(tx.connection.scalars(old.order_by(outbox.c.seq).limit(_MAX_ROWS)))
    if doomed:
        tx.connection.execute(sa.delete(outbox).where(outbox.c.seq <= doomed[-1], outbox.c.seq >= doomed[0]))
    return len(doomed)


def _event(row: Any) -> Event:
    return Event(row.seq, row.event, row.subject, json.loads(row.body), rows.from_us(row.at))
