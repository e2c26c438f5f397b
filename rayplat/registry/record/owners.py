"""Operations on ownership: who answers for a model, a table or an endpoint, and which team."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import Connection

from rayplat.errors import Forbidden, InvalidInput, NotFound
from rayplat.identity import require
from rayplat.registry.record import audit, rows, versions
from rayplat.registry.record.database import Tx
from rayplat.registry.record.schema import owner as table
from rayplat.types import Owner, Principal, Role, check_name, check_principal

KINDS = ("model", "table", "endpoint")


def set_owner(tx: Tx, kind: str, name: str, owner: str, team: str = "", *, by: Principal) -> Owner:
    """Name who owns the thing. Where it has an owner, only they or an admin may; else any developer.

    Raises `Forbidden`, `InvalidInput`, and `NotFound` for a model that is not registered.
    """
    require(by, Role.DEVELOPER)
    _check(kind, name)
    check_principal(owner)
    if team:
        check_name("team", team)
    if kind == "model":
        versions.listed(tx.connection, name)
    before = find(tx.connection, kind, name)
    if before is not None and by.name != before.owner and not by.role.includes(Role.ADMIN):
        raise Forbidden(by.name, f"{kind} {name} is owned by {before.owner}: only they, or an admin, change that")
    made = Owner(kind, name, owner, team, by.name, tx.at)
    tx.connection.execute(sa.delete(table).where(_same(kind, name)))
    columns = {**vars(made), "at": rows.to_us(made.at)}
    tx.connection.execute(sa.insert(table).values(**columns))
    tx.wrote(table, columns)
    was = None if before is None else [before.owner, before.team]
    audit.append(tx, by.name, "owner.set", f"{kind}:{name}", {"owner": owner, "team": team, "was": was})
    return made


def find(connection: Connection, kind: str, name: str) -> Owner | None:
    """Who owns the thing; None where nobody said so."""
    row = connection.execute(sa.select(table).where(_same(kind, name))).first()
    return None if row is None else _owner(row)


def get(connection: Connection, kind: str, name: str) -> Owner:
    """Who owns the thing. Raises `NotFound`."""
    _check(kind, name)
    found = find(connection, kind, name)
    if found is None:
        raise NotFound("owner", f"{kind}:{name}", "nobody has been named yet")
    return found


def listed(connection: Connection, kind: str | None = None, owner: str | None = None) -> list[Owner]:
    """All that is owned, of one kind or by one person, by name."""
    wanted = sa.select(table).order_by(table.c.kind, table.c.name)
    if kind is not None:
        wanted = wanted.where(table.c.kind == kind)
    if owner is not None:
        wanted = wanted.where(table.c.owner == owner)
    return [_owner(row) for row in connection.execute(wanted)]


def _owner(row: rows.Row) -> Owner:
    return Owner(row.kind, row.name, row.owner, row.team, row.set_by, rows.from_us(row.at))


def _same(kind: str, name: str) -> sa.ColumnElement[bool]:
    return (table.c.kind == kind) & (table.c.name == name)


def _check(kind: str, name: str) -> None:
    if kind not in KINDS:
        raise InvalidInput("kind", f"{kind!r} has no owner; known kinds: {', '.join(KINDS)}")
    check_name(kind, name)
