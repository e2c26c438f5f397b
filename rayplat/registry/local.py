"""The registry in this process, without Ray: inside the actor, for tests, and where the platform is down."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Concatenate

from rayplat.registry.calls import P, R, name_of
from rayplat.registry.record.database import Record, Tx
from rayplat.registry.writer import Writer

if TYPE_CHECKING:
    from sqlalchemy import Connection


class LocalRegistry:
    """Operations on ``record``, called directly; the same interface and the same rules as the actor's client.

    With a ``writer``, writes wait their turn with everybody else's.
    """

    def __init__(self, record: Record, writer: Writer | None = None) -> None:
        self.record, self._writer = record, writer

    def read(self, query: Callable[Concatenate[Connection, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
        """What ``query`` finds."""
        name_of(query, "read")
        return self.record.read(lambda connection: query(connection, *args, **kwargs))

    def write(self, operation: Callable[Concatenate[Tx, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
        """``operation`` in one transaction of its own."""
        name_of(operation, "write")
        return self.apply(lambda tx: operation(tx, *args, **kwargs), uuid.uuid4().hex)

    def apply(self, change: Callable[[Tx], R], key: str | None = None) -> R:
        """Any change in one transaction: for the registry's own parts, which ask for nobody."""
        if self._writer is None:
            return self.record.write(change, key)
        return self._writer.submit(change, key).result()
