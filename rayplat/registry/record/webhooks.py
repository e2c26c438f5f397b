"""Operations on webhooks: who is told of which events, and how far each of them is."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from rayplat.errors import AlreadyExists, Conflict, InvalidInput, NotFound
from rayplat.identity import require
from rayplat.registry import standard_webhooks
from rayplat.registry.record import audit, events, rows
from rayplat.registry.record.database import Tx
from rayplat.registry.record.schema import webhook
from rayplat.types import TEST_EVENT, Event, Principal, Role, Webhook, WebhookState

_MOST = 100
_BATCH = 100
_ERROR_LENGTH = 500


@dataclass(frozen=True)
class Due:
    """What to send one receiver now, in order. ``scanned``: the last event that was looked at, wanted or not."""

    webhook: Webhook
    secret: str
    events: tuple[Event, ...]
    scanned: int


@dataclass(frozen=True)
class Progress:
    """What became of a webhook's events. ``expected`` is the position it had: where somebody has replayed it in the
    meantime, nothing is changed. ``error`` says why the next event was not delivered; None: all were."""

    webhook_id: str
    expected: int
    position: int
    delivered: int = 0
    error: str | None = None
    next_try_at: datetime | None = None
    park: bool = False


def create(tx: Tx, url: str, wanted: Sequence[str], secret: str, *, by: Principal) -> Webhook:
    """Tell ``url`` of the events in ``wanted`` from now on, signed with ``secret`` (`standard_webhooks.new_secret`).

    Needs an admin. Raises `InvalidInput` for a URL that settings do not permit, an unknown event, a weak secret;
    `AlreadyExists` for a URL that has one.
    """
    require(by, Role.ADMIN)
    tx.defaults.egress.target(url)
    if (earlier := audit.replayed(tx, "webhook.create", **fingerprint(url))) is not None:
        return get(tx.connection, earlier.subject)
    names = standard_webhooks.check_events(tuple(wanted))
    known = listed(tx.connection)
    same = next((w.webhook_id for w in known if w.url == url), None)
    if same is not None:
        raise AlreadyExists(f"webhook {same} has this URL; delete it first, or give it another path")
    if len(known) >= _MOST:
        raise Conflict(f"there are {_MOST} webhooks, the most there may be; delete one first")
    made = Webhook(f"wh-{secrets.token_hex(6)}", url, names, by.name, tx.at, position=events.last(tx.connection))
    columns = {"url": url, "events": rows.to_json(list(names)), "secret": standard_webhooks.check_secret(secret)}
    state = {"state": made.state.value, "position": made.position, "failures": 0, "last_error": ""}
    created = {"webhook_id": made.webhook_id, "created_by": by.name, "created_at": rows.to_us(tx.at)}
    tx.connection.execute(sa.insert(webhook).values(**columns, **state, **created))
    tx.wrote(webhook, {**columns, **created})
    audit.append(tx, by.name, "webhook.create", made.webhook_id, {"events": list(names), **fingerprint(url)})
    return made


def delete(tx: Tx, webhook_id: str, *, by: Principal) -> None:
    """Tell this receiver nothing any more. Needs an admin. Raises `NotFound`."""
    require(by, Role.ADMIN)
    if audit.replayed(tx, "webhook.delete", webhook_id) is not None:
        return
    found = get(tx.connection, webhook_id)
    tx.connection.execute(sa.delete(webhook).where(webhook.c.webhook_id == webhook_id))
    tx.wrote(webhook, {"webhook_id": webhook_id})
    audit.append(tx, by.name, "webhook.delete", webhook_id, fingerprint(found.url))


def test(tx: Tx, webhook_id: str, *, by: Principal) -> None:
    """Send this receiver, and no other, the event ``webhook.test`` after those that wait. Needs an admin."""
    require(by, Role.ADMIN)
    if audit.replayed(tx, "webhook.test", webhook_id) is not None:
        return
    found = get(tx.connection, webhook_id)
    if found.state is WebhookState.PARKED:
        raise Conflict(f"webhook {webhook_id} is parked ({found.last_error}): replay it from {found.position + 1}")
    events.emit(tx, TEST_EVENT, webhook_id, {"by": by.name})
    _set(tx, webhook_id, next_try_at=None)
    audit.append(tx, by.name, "webhook.test", webhook_id, {})


def replay(tx: Tx, webhook_id: str, from_seq: int, *, by: Principal) -> Webhook:
    """Send again from event ``from_seq`` on, with the ids the messages had; a parked webhook is active again.

    Needs an admin. Raises `NotFound`, `InvalidInput`.
    """
    require(by, Role.ADMIN)
    if audit.replayed(tx, "webhook.replay", webhook_id, from_seq=from_seq) is not None:
        return get(tx.connection, webhook_id)
    get(tx.connection, webhook_id)
    newest = events.last(tx.connection)
    if type(from_seq) is not int or not 1 <= from_seq <= newest + 1:
        raise InvalidInput("from_seq", f"{from_seq!r} is not between 1 and {newest + 1}, one after the newest event")
    _set(tx, webhook_id, position=from_seq - 1, failures=0, next_try_at=None, state="active", last_error="")
    audit.append(tx, by.name, "webhook.replay", webhook_id, {"from_seq": from_seq})
    return get(tx.connection, webhook_id)


def listed(connection: Connection) -> list[Webhook]:
    """All webhooks, oldest first; never a secret."""
    found = sa.select(webhook).order_by(webhook.c.created_at, webhook.c.webhook_id)
    return [_webhook(row) for row in connection.execute(found)]


def get(connection: Connection, webhook_id: str) -> Webhook:
    """One webhook. Raises `NotFound`."""
    row = connection.execute(sa.select(webhook).where(webhook.c.webhook_id == webhook_id)).first()
    if row is None:
        raise NotFound("webhook", webhook_id, "'rayplat webhook ls' shows the known ids")
    return _webhook(row)


def due(connection: Connection, at: datetime, scanned: Mapping[str, tuple[int, int]] | None = None) -> list[Due]:
    """What the active webhooks whose time has come are to be sent. ``scanned`` says, by webhook, that from its position
    to another number the caller knows no event that is wanted: it saves reading them again."""
    ready = webhook.c.next_try_at.is_(None) | (webhook.c.next_try_at <= rows.to_us(at))
    found = sa.select(webhook).where(webhook.c.state == WebhookState.ACTIVE.value, ready)
    newest, answer = events.last(connection), []
    for row in connection.execute(found.order_by(webhook.c.webhook_id)).all():
        about = _webhook(row)
        position, start = (scanned or {}).get(about.webhook_id, (-1, 0))
        start = start if position == about.position else about.position
        batch = events.after(connection, start, _BATCH) if start < newest else []
        if batch:
            wanted = tuple(e for e in batch if standard_webhooks.wants(about.events, about.webhook_id, e))
            answer.append(Due(about, row.secret, wanted, batch[-1].seq))
    return answer


def settle(tx: Tx, progress: Progress) -> None:
    """Note how far a webhook is. Not audited: it is what the platform does, not what somebody decided."""
    same = (webhook.c.webhook_id == progress.webhook_id) & (webhook.c.position == progress.expected)
    columns: dict[str, Any] = {"position": progress.position, "next_try_at": None, "failures": 0, "last_error": ""}
    if progress.error is not None:
        again = 0 if progress.delivered else webhook.c.failures
        columns |= {"failures": again + 1, "last_error": progress.error[:_ERROR_LENGTH]}
        columns["next_try_at"] = None if progress.next_try_at is None else rows.to_us(progress.next_try_at)
    if progress.park:
        columns["state"] = WebhookState.PARKED.value
    if progress.delivered:
        columns["last_delivered_at"] = rows.to_us(tx.at)
    tx.connection.execute(sa.update(webhook).where(same).values(**columns))


def fingerprint(url: str) -> dict[str, str]:
    """What the audit log holds of a URL: the receiver's host, and a digest, since the path may be a secret."""
    return {"host": url.split("/")[2].rpartition("@")[2], "url_sha256": hashlib.sha256(url.encode()).hexdigest()}


def _set(tx: Tx, webhook_id: str, **columns: Any) -> None:
    tx.connection.execute(sa.update(webhook).where(webhook.c.webhook_id == webhook_id).values(**columns))


def _webhook(row: Any) -> Webhook:
    return Webhook(
        webhook_id=row.webhook_id,
        url=row.url,
        events=tuple(json.loads(row.events)),
        created_by=row.created_by,
        created_at=rows.from_us(row.created_at),
        state=WebhookState(row.state),
        position=row.position,
        failures=row.failures,
        next_try_at=None if row.next_try_at is None else rows.from_us(row.next_try_at),
        last_error=row.last_error,
        last_delivered_at=None if row.last_delivered_at is None else rows.from_us(row.last_delivered_at),
    )
