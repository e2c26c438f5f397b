"""What happened, in order, as lineage sees it: registrations, moves of aliases, and the steps of promotions.

Read from the audit log, which has an entry for each and loses none, with the rows that the entry is about. Also how
far a lineage server has been told of it.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from rayplat.errors import InvalidInput, NotFound
from rayplat.registry.record import lineage, promotions, rows, versions
from rayplat.registry.record.database import Tx
from rayplat.registry.record.schema import alias_history, audit, lineage_sent
from rayplat.types import AliasHead, AuditEntry, Happening, PromotionState
from rayplat.types.lineage import training_set_node

MOST = 1_000
_REGISTER = "model.register"
_runs = sa.table("runs", *(sa.column(c) for c in ("run_uuid", "name", "status", "start_time", "end_time")))


def after(connection: Connection, seq: int, limit: int = MOST, since: datetime | None = None) -> list[Happening]:
    """What happened after the entry numbered ``seq`` of the audit log, and not before ``since``; oldest first.

    Every entry of those looked at becomes one value, also where it is of no concern to lineage, so that the last one's
    ``seq`` says from where to go on; fewer than ``limit`` means that the end was reached.
    """
    if not 1 <= limit <= MOST:
        raise InvalidInput("limit", f"{limit} is not between 1 and {MOST}")
    wanted = sa.select(audit).where(audit.c.seq > seq).order_by(audit.c.seq).limit(limit)
    if since is not None:
        if since.tzinfo is None:
            raise InvalidInput("since", f"{since.isoformat()} has no time zone")
        wanted = wanted.where(audit.c.at >= rows.to_us(since))
    return [_happening(connection, rows.audit_entry(row)) for row in connection.execute(wanted).all()]


def sent(connection: Connection) -> int:
    """Up to which entry a lineage server has been told; 0: of nothing yet."""
    return int(connection.scalar(sa.select(lineage_sent.c.seq)) or 0)


def note_sent(tx: Tx, seq: int) -> None:
    """Everything up to ``seq`` has arrived; it never goes back. It changes nothing that is audited, so it is not."""
    if tx.connection.scalar(sa.select(lineage_sent.c.seq)) is None:
        tx.connection.execute(sa.insert(lineage_sent).values(id=1, seq=seq))
    else:
        tx.connection.execute(sa.update(lineage_sent).where(lineage_sent.c.seq < seq).values(seq=seq))


def _happening(connection: Connection, entry: AuditEntry) -> Happening:
    found = Happening(entry)
    if entry.action == _REGISTER:
        return _registered(connection, found)
    if entry.action.startswith(("alias.", "promotion.")):
        return _moved(connection, _promoted(connection, found))
    return found


def _registered(connection: Connection, found: Happening) -> Happening:
    model, _, number = found.entry.subject.rpartition("/")
    try:
        version = versions.get(connection, model, int(number))
        made_from = lineage.upstream(connection, training_set_node(version.training_set))
    except NotFound:
        return found
    run = connection.execute(sa.select(_runs).where(_runs.c.run_uuid == version.run_id)).first()
    started, ended = (None, None) if run is None else (_moment(run.start_time), _moment(run.end_time))
    return replace(found, version=version, made_from=made_from, run_started_at=started, run_ended_at=ended)


def _promoted(connection: Connection, found: Happening) -> Happening:
    promotion_id = found.entry.detail.get("promotion_id")
    if not isinstance(promotion_id, str):
        return found
    try:
        asked = promotions.get(connection, promotion_id)
    except NotFound:
        return found
    noted: Any = found.entry.detail.get("state", asked.state)
    return replace(found, promotion=asked, state=PromotionState(noted))


def _moved(connection: Connection, found: Happening) -> Happening:
    """With the head that the entry is about, and the one before it."""
    generation, (model, _, alias) = found.entry.detail.get("generation"), found.entry.subject.rpartition("@")
    if not isinstance(generation, int):
        return found
    here = (alias_history.c.model == model) & (alias_history.c.alias == alias)
    near = alias_history.c.generation.in_([generation - 1, generation])
    heads: dict[int, AliasHead] = {
        row.generation: rows.alias_head(row) for row in connection.execute(sa.select(alias_history).where(here, near))
    }
    head = heads.get(generation)
    if head is None or head.moved_at != found.entry.at:
        return found
    return replace(found, head=head, before=heads.get(generation - 1))


def _moment(milliseconds: int | None) -> datetime | None:
    return None if milliseconds is None else datetime.fromtimestamp(milliseconds / 1000, UTC)
