"""Operations on pins: somebody's word that an artifact or a model version must be kept, and why.

What is pinned is not collected, retired or deleted. Each person has one pin on a thing; it goes when the last goes.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import Connection

from rayplat.artifacts.manifest import check_digest
from rayplat.errors import Forbidden, InvalidInput, NotFound
from rayplat.identity import require
from rayplat.registry.record import audit, rows, versions
from rayplat.registry.record.database import Tx
from rayplat.registry.record.schema import pin as table
from rayplat.types import Principal, RecordPin, Role

KINDS = ("artifact", "version")
_REASON_LENGTH = 2000


def pin(tx: Tx, kind: str, target: str, reason: str, *, by: Principal) -> RecordPin:
    """Keep ``target``: a digest of kind ``artifact``, or ``<model>/<number>`` of kind ``version``. Again puts the new
    reason in place of the old one. Raises `InvalidInput`, or `NotFound` and `Conflict` for an unusable version."""
    require(by, Role.DEVELOPER)
    _check(tx.connection, kind, target)
    if not isinstance(reason, str) or not reason.strip():
        raise InvalidInput("reason", "say why it must be kept")
    made = RecordPin(kind, target, by.name, reason.strip()[:_REASON_LENGTH], tx.at)
    tx.connection.execute(sa.delete(table).where(_same(kind, target), table.c.pinned_by == by.name))
    columns = {**vars(made), "at": rows.to_us(made.at)}
    tx.connection.execute(sa.insert(table).values(**columns))
    tx.wrote(table, columns)
    audit.append(tx, by.name, "pin.add", f"{kind}:{target}", {"reason": made.reason})
    return made


def unpin(tx: Tx, kind: str, target: str, pinned_by: str | None = None, *, by: Principal) -> None:
    """Take one's own pin away, or as an admin that of ``pinned_by``. Raises `NotFound` where there is none."""
    require(by, Role.DEVELOPER)
    whose = by.name if pinned_by is None else pinned_by
    if whose != by.name and not by.role.includes(Role.ADMIN):
        raise Forbidden(by.name, f"the pin is {whose}'s: only they, or an admin, take it away")
    gone = tx.connection.execute(sa.delete(table).where(_same(kind, target), table.c.pinned_by == whose))
    if gone.rowcount == 0:
        holders = ", ".join(p.pinned_by for p in listed(tx.connection, kind, target)) or "nobody"
        raise NotFound("pin", f"{kind}:{target} of {whose}", f"pinned by {holders}")
    tx.wrote(table, {"kind": kind, "target": target, "pinned_by": whose})
    audit.append(tx, by.name, "pin.remove", f"{kind}:{target}", {"pinned_by": whose})


def listed(connection: Connection, kind: str | None = None, target: str | None = None) -> list[RecordPin]:
    """Pins of one kind or on one thing, or all, oldest first."""
    wanted = sa.select(table).order_by(table.c.at, table.c.kind, table.c.target, table.c.pinned_by)
    if kind is not None:
        wanted = wanted.where(table.c.kind == kind)
    if target is not None:
        wanted = wanted.where(table.c.target == target)
    found = connection.execute(wanted)
    return [RecordPin(row.kind, row.target, row.pinned_by, row.reason, rows.from_us(row.at)) for row in found]


def _same(kind: str, target: str) -> sa.ColumnElement[bool]:
    return (table.c.kind == kind) & (table.c.target == target)


def _check(connection: Connection, kind: str, target: str) -> None:
    if kind not in KINDS:
        raise InvalidInput("kind", f"{kind!r} cannot be pinned; known kinds: {', '.join(KINDS)}")
    if kind == "artifact":
        check_digest("target", target)
        return
    model, _, number = str(target).rpartition("/")
    if not (number.isascii() and number.isdigit() and str(int(number)) == number):
        raise InvalidInput("target", f"{str(target)[:80]!r} is no '<model>/<number>'")
    versions.usable(connection, model, int(number))
