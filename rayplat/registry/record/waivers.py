"""Operations on waivers: rare, given by an approver for one target, with a reason, and told to whoever watches."""

from __future__ import annotations

import secrets
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from rayplat.artifacts.manifest import check_digest
from rayplat.errors import Conflict, InvalidInput, NotFound
from rayplat.identity import require
from rayplat.registry.promotion import check_not_author, check_person
from rayplat.registry.record import audit, events, rows
from rayplat.registry.record.database import Tx
from rayplat.registry.record.schema import model_version
from rayplat.registry.record.schema import waiver as table
from rayplat.types import Principal, Role, WaiverInfo

FORMAT, GATE = "format", "gate"
_REASON_LENGTH = (10, 2000)
_TARGET_LENGTH = 255


def waive(
    tx: Tx, kind: str, target: str, reason: str, expires_at: datetime | None = None, *, by: Principal
) -> WaiverInfo:
    """Let ``target`` pass. Raises `InvalidInput` without a reason that says something or for a time that has passed,
    `Forbidden` for who made a version of the digest, or its run."""
    check_person(by)
    _check_target(kind, target)
    _check_reason(reason)
    if expires_at is not None and (expires_at.tzinfo is None or expires_at <= tx.at):
        raise InvalidInput("expires_at", f"{expires_at.isoformat()} is no time to come, with a time zone")
    if audit.replayed(tx, "waiver.create", f"{kind}:{target}") is not None:
        return _newest(tx.connection, kind, target)
    if kind == FORMAT:
        _check_no_author(tx.connection, target, by)
    made = WaiverInfo(secrets.token_hex(8), kind, target, by.name, reason.strip(), tx.at, expires_at)
    columns = vars(made) | {
        "at": rows.to_us(tx.at),
        "expires_at": None if expires_at is None else rows.to_us(expires_at),
    }
    tx.connection.execute(sa.insert(table).values(**columns))
    tx.wrote(table, columns)
    _note(tx, "create", made, by)
    return made


def revoke(tx: Tx, waiver_id: str, reason: str, *, by: Principal) -> WaiverInfo:
    """End a waiver: from now on nothing new is loaded or promoted by it. Raises `NotFound`, `Conflict`."""
    require(by, Role.APPROVER)
    _check_reason(reason)
    found = get(tx.connection, waiver_id)
    if found.revoked_at is not None:
        if audit.replayed(tx, "waiver.revoke", waiver_id=waiver_id) is not None:
            return found
        raise Conflict(f"the waiver {waiver_id} was revoked at {found.revoked_at.isoformat()} by {found.revoked_by}")
    ended = replace(found, revoked_at=tx.at, revoked_by=by.name)
    change = sa.update(table).where(table.c.waiver_id == waiver_id)
    tx.connection.execute(change.values(revoked_at=rows.to_us(tx.at), revoked_by=by.name))
    tx.wrote(table, {"waiver_id": waiver_id})
    _note(tx, "revoke", replace(ended, reason=reason.strip()), by)
    return ended


def find(
    connection: Connection, kind: str, target: str, at: datetime | None = None, but_by: tuple[str, ...] = ()
) -> WaiverInfo | None:
    """The newest waiver for ``target`` that holds at ``at`` (now) and was given by nobody of ``but_by``; None where
    there is none."""
    moment = rows.to_us(at or datetime.now(UTC))
    same = (table.c.kind == kind) & (table.c.target == target) & (table.c.at <= moment)
    holds = sa.or_(table.c.expires_at.is_(None), table.c.expires_at > moment)
    open_ = sa.or_(table.c.revoked_at.is_(None), table.c.revoked_at > moment)
    row = connection.execute(
        sa.select(table).where(same, holds, open_, table.c.by.not_in(but_by)).order_by(table.c.at.desc())
    ).first()
    return None if row is None else _waiver(row)


def get(connection: Connection, waiver_id: str) -> WaiverInfo:
    """One waiver, in whatever state. Raises `NotFound`."""
    row = connection.execute(sa.select(table).where(table.c.waiver_id == str(waiver_id)[:64])).first()
    if row is None:
        raise NotFound("waiver", str(waiver_id)[:80], "'rayplat waiver list' shows them")
    return _waiver(row)


def listed(connection: Connection, kind: str | None = None) -> list[WaiverInfo]:
    """All waivers ever given, the newest first."""
    wanted = sa.select(table).order_by(table.c.at.desc(), table.c.waiver_id)
    if kind is not None:
        wanted = wanted.where(table.c.kind == kind)
    return [_waiver(row) for row in connection.execute(wanted)]


def _newest(connection: Connection, kind: str, target: str) -> WaiverInfo:
    same = (table.c.kind == kind) & (table.c.target == target)
    return _waiver(connection.execute(sa.select(table).where(same).order_by(table.c.at.desc())).one())


def _check_no_author(connection: Connection, digest: str, by: Principal) -> None:
    for row in connection.execute(sa.select(model_version).where(model_version.c.digest == digest)):
        check_not_author(rows.model_version(row), by)


def _note(tx: Tx, verb: str, given: WaiverInfo, by: Principal) -> None:
    detail: dict[str, Any] = {"waiver_id": given.waiver_id, "reason": given.reason}
    detail["expires_at"] = None if given.expires_at is None else given.expires_at.isoformat()
    audit.append(tx, by.name, f"waiver.{verb}", f"{given.kind}:{given.target}", detail)
    events.emit(tx, f"waiver.{verb}d", f"{given.kind}:{given.target}", {"by": by.name, **detail})


def _check_target(kind: str, target: str) -> None:
    if kind == FORMAT:
        check_digest("target", target)
    elif kind != GATE:
        raise InvalidInput("kind", f"{str(kind)[:60]!r} is neither {FORMAT!r} nor {GATE!r}")
    elif not isinstance(target, str) or not 3 <= len(target) <= _TARGET_LENGTH or not all(target.partition("/")):
        raise InvalidInput("target", "a gate is named <promotion id>/<gate>")


def _check_reason(reason: str) -> None:
    least, most = _REASON_LENGTH
    if not isinstance(reason, str) or not least <= len(reason.strip()) <= most:
        raise InvalidInput("reason", f"say why, in {least} to {most} characters")


def _waiver(row: rows.Row) -> WaiverInfo:
    times = {
        n: None if row._mapping[n] is None else rows.from_us(row._mapping[n]) for n in ("expires_at", "revoked_at")
    }
    return WaiverInfo(**{**row._mapping, **times, "at": rows.from_us(row.at)})
