"""The registry in this process, without Ray: for tests and for work on a database whose platform is down."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Concatenate

from rayplat.registry.calls import P, R, name_of
from rayplat.registry.record.database import Record

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from rayplat.registry.record.database import Tx


class LocalRegistry:
    """Operations on ``record``, called directly; the same interface and the same rules as the actor's client."""

    def __init__(self, record: Record) -> None:
        self.record = record

    def read(self, query: Callable[Concatenate[Connection, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
        """What ``query`` finds."""
        name_of(query, "read")
        return self.record.read(lambda connection: query(connection, *args, **kwargs))

    def write(self, operation: Callable[Concatenate[Tx, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
        """``operation`` in one transaction of its own."""
        name_of(operation, "write")
        return self.record.write(lambda tx: operation(tx, *args, **kwargs), uuid.uuid4().hex)
