"""Operations on platform tokens. Only hashes come here: a secret is made and shown by the caller (`identity`)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

import sqlalchemy as sa
from sqlalchemy import Connection

from rayplat.errors import AlreadyExists, Conflict, Forbidden, InvalidInput, NotFound
from rayplat.identity import require, same_hash
from rayplat.registry.record import audit, rows
from rayplat.registry.record.database import Tx
from rayplat.registry.record.schema import token
from rayplat.types import Principal, PrincipalKind, Role, TokenInfo, check_principal

PLATFORM = "rayplat"


def create(tx: Tx, info: TokenInfo, token_hash: str, by: Principal | None) -> TokenInfo:
    """Store a token; ``info`` says for whom, which role and kind and until when, the rest of it is set here.

    ``by`` None is the platform making its first token: refused once any token exists. A repeated call (same id, same
    hash) returns what the first one made. Raises `Conflict` where the name is one of the other kind: a service must
    not pass for a person.
    """
    known = tx.connection.execute(sa.select(token).where(token.c.token_id == info.token_id)).first()
    if known is not None:
        if not same_hash(known.token_hash, token_hash):
            raise AlreadyExists(f"token id {info.token_id} is taken; make another")
        return rows.token_info(known)
    if by is not None:
        require(by, Role.ADMIN)
    elif tx.connection.scalar(sa.select(sa.func.count()).select_from(token)):
        raise Forbidden("nobody", "only the first token is made without an admin's token")
    check_principal(info.principal)
    _check_expiry(info.expires_at, tx.at)
    _check_kind(tx.connection, info)
    made_by = by.name if by is not None else PLATFORM
    given = (info.token_id, info.principal, Role(info.role))
    made = TokenInfo(*given, tx.at, made_by, info.expires_at, kind=PrincipalKind(info.kind))
    columns = {
        **vars(made),
        "role": made.role.value,
        "kind": made.kind.value,
        "created_at": rows.to_us(made.created_at),
        "expires_at": None if made.expires_at is None else rows.to_us(made.expires_at),
    }
    tx.connection.execute(sa.insert(token).values(**columns, token_hash=token_hash))
    tx.wrote(token, {**columns, "token_hash": token_hash})
    said = {name: columns[name] for name in ("principal", "role", "kind", "expires_at")}
    audit.append(tx, made_by, "token.create", made.token_id, said)
    return made


def revoke(tx: Tx, token_id: str, by: Principal) -> TokenInfo:
    """Refuse a token from now on; again is no error. The last admin token stays, or nobody could make another."""
    require(by, Role.ADMIN)
    same = token.c.token_id == token_id
    row = tx.connection.execute(sa.select(token).where(same)).first()
    if row is None:
        raise NotFound("token", token_id, "'rayplat token ls' shows the known ids")
    if row.revoked_at is not None:
        return rows.token_info(row)
    others = sa.select(sa.func.count()).where(_valid(tx.at), token.c.role == Role.ADMIN.value, ~same)
    if row.role == Role.ADMIN.value and not tx.connection.scalar(others):
        raise Conflict(f"token {token_id} is the last admin token: make another first")
    tx.connection.execute(sa.update(token).where(same).values(revoked_at=rows.to_us(tx.at)))
    tx.wrote(token, {"token_id": token_id})
    audit.append(tx, by.name, "token.revoke", token_id, {"principal": row.principal})
    return rows.token_info(tx.connection.execute(sa.select(token).where(same)).one())


def listed(connection: Connection) -> list[TokenInfo]:
    """All tokens, oldest first; never a secret or a hash."""
    return [rows.token_info(row) for row in connection.execute(sa.select(token).order_by(token.c.created_at))]


def authenticate(connection: Connection, token_hash: str, at: datetime | None = None) -> Principal | None:
    """Whose token has this hash; None if unknown, expired or revoked."""
    valid = sa.select(token).where(token.c.token_hash == token_hash, _valid(at or datetime.now(UTC)))
    row = connection.execute(valid).first()
    if row is None or not same_hash(row.token_hash, token_hash):
        return None
    return Principal(row.principal, Role(row.role), PrincipalKind(row.kind))


def used(tx: Tx, last_used: Mapping[str, datetime]) -> None:
    """Note when tokens were last used, by their hashes. It is called now and then with what was gathered since, and
    not audited: nobody decided anything."""
    for token_hash, at in last_used.items():
        at_us = rows.to_us(at)
        older = token.c.last_used_at.is_(None) | (token.c.last_used_at < at_us)
        same = sa.update(token).where(token.c.token_hash == token_hash, older)
        tx.connection.execute(same.values(last_used_at=at_us))


def _check_kind(connection: Connection, info: TokenInfo) -> None:
    other = sa.select(token.c.kind).where(token.c.principal == info.principal, token.c.kind != info.kind.value)
    found = connection.scalar(other.limit(1))
    if found is not None:
        raise Conflict(f"{info.principal} has a token as a {found}: give the {info.kind.value} another name")


def _valid(at: datetime) -> sa.ColumnElement[bool]:
    return token.c.revoked_at.is_(None) & (token.c.expires_at.is_(None) | (token.c.expires_at > rows.to_us(at)))


def _check_expiry(expires_at: datetime | None, now: datetime) -> None:
    if expires_at is not None and (expires_at.tzinfo is None or expires_at <= now):
        raise InvalidInput("expires_at", "a moment in the future with a time zone is needed")
