"""Operations on signals: verdicts about a version by whoever watches it. Release control acts on them.

They are added, never changed; the newest of a kind is what holds.
"""

from __future__ import annotations

from collections.abc import Mapping

import sqlalchemy as sa
from sqlalchemy import Connection

from rayplat.errors import InvalidInput
from rayplat.identity import require
from rayplat.registry import documents
from rayplat.registry.record import audit, rows, versions
from rayplat.registry.record.database import Tx
from rayplat.registry.record.schema import signal as table
from rayplat.types import Principal, Role, Signal, check_name

_DETAIL_LENGTH, _MOST_NUMBERS = 2000, 100


def put(
    tx: Tx,
    model: str,
    version: int,
    kind: str,
    bad: bool,
    *,
    detail: str = "",
    numbers: Mapping[str, float] | None = None,
    by: Principal,
) -> Signal:
    """Say what was seen of a version: ``kind`` (``drift``, ``quality``, a name of one's own), whether it is ``bad``,
    why, and the ``numbers`` behind it. Needs a developer, or a service with that role. Raises `InvalidInput`,
    `NotFound`."""
    require(by, Role.DEVELOPER)
    versions.get(tx.connection, model, version)
    check_name("kind", kind)
    if not isinstance(bad, bool):
        raise InvalidInput("bad", "true or false is needed")
    if not isinstance(detail, str):
        raise InvalidInput("detail", "a text is needed")
    if len(numbers or {}) > _MOST_NUMBERS:
        raise InvalidInput("numbers", f"{len(numbers or {})} numbers, {_MOST_NUMBERS} at most")
    made = Signal(model, version, kind, bad, detail.strip()[:_DETAIL_LENGTH], tx.at, by.name, dict(numbers or {}))
    documents.check(made, "signal")
    said = {"version": version, "kind": kind, "bad": bad, "detail": made.detail}
    if audit.replayed(tx, "signal.put", model, **said) is not None:
        return listed(tx.connection, model, version, kind=kind, limit=1)[0]
    newest = tx.connection.scalar(sa.select(sa.func.max(table.c.seq)).where(table.c.model == model)) or 0
    columns = {**vars(made), "seq": newest + 1, "at": rows.to_us(made.at), "numbers": documents.text(made.numbers)}
    tx.connection.execute(sa.insert(table).values(**columns))
    tx.wrote(table, columns)
    audit.append(tx, by.name, "signal.put", model, said)
    return made


def listed(
    connection: Connection, model: str, version: int | None = None, *, kind: str | None = None, limit: int = 100
) -> list[Signal]:
    """The newest ``limit`` (1 to 10,000) signals about a model, or one version of it, newest first."""
    if not 1 <= limit <= 10_000:
        raise InvalidInput("limit", f"{limit} is not between 1 and 10000")
    wanted = sa.select(table).where(table.c.model == model).order_by(table.c.seq.desc()).limit(limit)
    if version is not None:
        wanted = wanted.where(table.c.version == version)
    if kind is not None:
        wanted = wanted.where(table.c.kind == kind)
    return [rows.signal(row) for row in connection.execute(wanted)]
