"""What an online store keeps, as one narrow protocol, and opening one from its URL.

A store keeps bytes and knows no features: rows of field views (the newest event of each key wins), tiles of
windowed views with the events that were pushed beside them, and notes (declarations, services, cursors). Rows and
tiles belong to a view id, ``name@digest``: other versions of a view lie beside each other. Three implementations
(`sqlite`, `redis`, `postgres`) keep one contract, `tests/data/online/store_contract.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import urlsplit

from rayplat.errors import InvalidInput

NO_CREATED = -(2**63)
"""The created time of a row that has none: earlier than any."""

Row = tuple[bytes, int, int, bytes]
"""Key, event time and created time (microseconds since the epoch, UTC; `NO_CREATED`), encoded values."""

Tile = tuple[bytes, int, int, bytes, bytes]
"""Key, number of the clock, number of the tile (start / length), packed moments, packed raw events."""

TileId = tuple[bytes, int, int]
"""Key, clock, tile."""


@dataclass(frozen=True)
class Batch:
    """One write: all or nothing where the store has transactions (SQLite, PostgreSQL). On Redis the cursor is set
    last, so that a write that was cut off and is made again ends in the same state.

    ``removed`` are keys whose row goes if it still has that event time; ``removed_tiles`` go whatever they hold.
    ``fresh`` first drops what the view has (readers see the old state until the new one is whole), the pushed events
    too unless ``keep_pushed``. ``cursor`` None leaves the cursor.
    """

    rows: Iterable[Row] = ()
    tiles: Iterable[Tile] = ()
    removed: Iterable[tuple[bytes, int]] = ()
    removed_tiles: Iterable[TileId] = ()
    cursor: Mapping[str, Any] | None = None
    fresh: bool = False
    keep_pushed: bool = False


@dataclass(frozen=True)
class RowsOf:
    """Asks for the rows of ``keys`` (each once) of a view."""

    view: str
    keys: Sequence[bytes]


@dataclass(frozen=True)
class TilesOf:
    """Asks for one clock's tiles of one key: the moments of tiles ``first`` to ``last``, what was pushed into them,
    and the raw events of ``ends`` and of every tile with pushed events."""

    view: str
    key: bytes
    clock: int
    first: int
    last: int
    ends: tuple[int, ...]


Found = dict[bytes, tuple[int, bytes]]
"""Per key its row: event time in microseconds and the encoded values."""


@dataclass(frozen=True)
class FoundTiles:
    """The answer to one `TilesOf`, by number of the tile."""

    moments: dict[int, bytes] = field(default_factory=dict)
    events: dict[int, bytes] = field(default_factory=dict)
    pushed: dict[int, bytes] = field(default_factory=dict)


Change = Callable[[TileId, bytes | None, bytes | None], bytes | None]
"""From a tile, its packed raw events and what is pushed into it to what is to be there (None: nothing)."""


class OnlineStore(Protocol):
    """Bytes by view id. Safe to share between threads and to send to another process; connections are opened when
    first used. Every method raises `Unavailable` while the server cannot be reached, within seconds."""

    def put(self, kind: str, name: str, text: str | None) -> None:
        """Keep a note; None forgets it."""

    def notes(self, kind: str) -> dict[str, str]:
        """All notes of a kind by name."""

    def cursor(self, view: str) -> dict[str, Any] | None:
        """How far a view was materialized, as the last `Batch` with a cursor said."""

    def write(self, view: str, batch: Batch) -> None:
        """Write a batch. Of two rows of a key the one with the later event stays, then the later created one, then
        the one written later; a tile replaces the one that was there."""

    def read(self, rows: Sequence[RowsOf], tiles: Sequence[TilesOf] = ()) -> tuple[list[Found], list[FoundTiles]]:
        """The answers, in the order asked, in one round trip."""

    def amend(self, view: str, tiles: Sequence[TileId], change: Change) -> None:
        """Replace what is pushed into ``tiles`` by what ``change`` makes of it. No concurrent amendment is lost.
        ``change`` may be called again for the same tile."""

    def drop(self, view: str, before: int | None = None) -> None:
        """Forget a view's rows, tiles, pushed events and cursor; with ``before`` only tiles below that number."""


def open_store(url: str) -> OnlineStore:
    """The store at ``url``: a path, ``sqlite:///path``, ``redis://``, ``rediss://`` or ``postgresql://``.

    Raises `InvalidInput` for another scheme. Nothing is connected to yet.
    """
    scheme, separator, rest = url.partition("://")
    scheme = scheme.lower()
    if not separator or scheme == "sqlite":
        from rayplat.data.online.sqlite import SqliteStore

        path = rest.removeprefix("/") if separator else url
        if not path:
            raise InvalidInput("data.online_store", "the path of the SQLite file is empty")
        return SqliteStore(path)
    if scheme in ("redis", "rediss"):
        from rayplat.data.online.redis import RedisStore

        return RedisStore(url)
    if scheme in ("postgresql", "postgres"):
        from rayplat.data.online.postgres import PostgresStore

        return PostgresStore(url)
    raise InvalidInput(
        "data.online_store", f"unknown scheme {scheme!r}; give a path, sqlite:///, redis:// or postgresql://"
    )


def shown(url: str) -> str:
    """``url`` as errors and logs may show it: server and database, without user, password and options."""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return url.partition("://")[0] + "://…"
    return f"{parts.scheme}://{parts.hostname or 'localhost'}{port}{parts.path}"
