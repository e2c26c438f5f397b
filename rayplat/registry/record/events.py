"""The outbox: what the outside is told of, written in the transaction of the change itself, in order."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from rayplat.registry.record import rows
from rayplat.registry.record.database import Tx
from rayplat.registry.record.schema import outbox


def emit(tx: Tx, event: str, subject: str, body: dict[str, Any]) -> None:
    """Note ``event`` (``promotion.live``) about ``subject`` (``flight-delay@champion``) for delivery."""
    columns = {"event": event, "subject": subject, "body": rows.to_json(body), "at": rows.to_us(tx.at)}
    tx.connection.execute(sa.insert(outbox).values(**columns))
