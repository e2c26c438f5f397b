"""The online store in PostgreSQL: two tables for all views, made when first used, and one of notes.

A connection per thread; one that was lost is opened again. Every wait has an end (`_ANSWER_S`, `_WRITE_S`), so a
server that hangs is an error and no hang. Batches are copied to a temporary table and merged by one statement.
"""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from rayplat.data.online.store import Batch, Change, Found, FoundTiles, RowsOf, TileId, TilesOf, shown
from rayplat.data.online.values import view_number
from rayplat.errors import InvalidInput, Unavailable

if TYPE_CHECKING:
    import psycopg

_CONNECT_S, _ANSWER_S, _WRITE_S = 3, 5.0, 300.0
_MOMENTS, _EVENTS, _PUSHED = 0, 1, 2
_SCHEMA_LOCK = 7_261_903
_SCHEMA = """
CREATE TABLE IF NOT EXISTS rp_online_notes (
    kind TEXT NOT NULL, name TEXT NOT NULL, text TEXT NOT NULL, PRIMARY KEY (kind, name));
CREATE TABLE IF NOT EXISTS rp_online_rows (
    view BIGINT NOT NULL, key BYTEA NOT NULL, event_us BIGINT NOT NULL, created_us BIGINT NOT NULL,
    value BYTEA NOT NULL, PRIMARY KEY (view, key));
CREATE TABLE IF NOT EXISTS rp_online_tiles (
    view BIGINT NOT NULL, key BYTEA NOT NULL, kind SMALLINT NOT NULL, clock INTEGER NOT NULL, tile BIGINT NOT NULL,
    value BYTEA NOT NULL, PRIMARY KEY (view, key, kind, clock, tile));
"""
_NEW_ROWS = "rp_new_rows", ("view bigint", "key bytea", "event_us bigint", "created_us bigint", "value bytea")
_NEW_TILES = "rp_new_tiles", ("view bigint", "key bytea", "kind int2", "clock int4", "tile bigint", "value bytea")
_MERGE_ROWS = """
INSERT INTO rp_online_rows AS old SELECT view, key, event_us, created_us, value FROM (
    SELECT DISTINCT ON (key) * FROM rp_new_rows ORDER BY key, event_us DESC, created_us DESC, place DESC) AS new
ON CONFLICT (view, key) DO UPDATE SET
    event_us = excluded.event_us, created_us = excluded.created_us, value = excluded.value
WHERE (excluded.event_us, excluded.created_us) >= (old.event_us, old.created_us)
"""
_MERGE_TILES = """
INSERT INTO rp_online_tiles SELECT view, key, kind, clock, tile, value FROM (
    SELECT DISTINCT ON (key, kind, clock, tile) * FROM rp_new_tiles
    ORDER BY key, kind, clock, tile, place DESC) AS new
ON CONFLICT (view, key, kind, clock, tile) DO UPDATE SET value = excluded.value
"""
_PUT_TILE = """
INSERT INTO rp_online_tiles VALUES (%s, %s, %s, %s, %s, %s)
ON CONFLICT (view, key, kind, clock, tile) DO UPDATE SET value = excluded.value
"""
_DROP_TILE = "DELETE FROM rp_online_tiles WHERE view = %s AND key = %s AND kind = %s AND clock = %s AND tile = %s"
_TILE = """
SELECT kind, value FROM rp_online_tiles WHERE view = %s AND key = %s AND kind > 0 AND clock = %s AND tile = %s
"""
_READ_ROWS = """
SELECT asked.n, r.key, r.event_us, r.value
FROM unnest(%s::int[], %s::bigint[], %s::bytea[]) AS asked (n, view, key)
JOIN rp_online_rows r ON r.view = asked.view AND r.key = asked.key
"""
# The raw events are those of the ends and of every tile into which something was pushed.
_READ_TILES = """
SELECT asked.n, t.kind, t.tile, t.value
FROM unnest(%s::int[], %s::bigint[], %s::bytea[], %s::int[], %s::bigint[], %s::bigint[], %s::text[])
    AS asked (n, view, key, clock, first, last, ends)
JOIN LATERAL (
    SELECT kind, tile, value FROM rp_online_tiles t WHERE t.view = asked.view AND t.key = asked.key
        AND t.kind IN (0, 2) AND t.clock = asked.clock AND t.tile BETWEEN asked.first AND asked.last
    UNION ALL
    SELECT kind, tile, value FROM rp_online_tiles t WHERE t.view = asked.view AND t.key = asked.key
        AND t.kind = 1 AND t.clock = asked.clock AND (
            t.tile = ANY (asked.ends::bigint[]) OR t.tile IN (
                SELECT p.tile FROM rp_online_tiles p WHERE p.view = asked.view AND p.key = asked.key AND p.kind = 2
                    AND p.clock = asked.clock AND p.tile BETWEEN asked.first AND asked.last))
) AS t ON TRUE
"""

Answer = TypeVar("Answer")


class PostgresStore:
    """`OnlineStore` in the database that ``url`` names."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._local = threading.local()

    def __reduce__(self) -> tuple[type[PostgresStore], tuple[str]]:
        return PostgresStore, (self._url,)

    def __repr__(self) -> str:
        return f"PostgresStore({shown(self._url)})"

    def put(self, kind: str, name: str, text: str | None) -> None:
        def work(db: psycopg.Connection) -> None:
            if text is None:
                db.execute("DELETE FROM rp_online_notes WHERE kind = %s AND name = %s", (kind, name))
            else:
                _note(db, kind, name, text)

        self._run(work)

    def notes(self, kind: str) -> dict[str, str]:
        query = "SELECT name, text FROM rp_online_notes WHERE kind = %s"
        return dict(sorted(self._run(lambda db: db.execute(query, (kind,)).fetchall())))

    def cursor(self, view: str) -> dict[str, Any] | None:
        query = "SELECT text FROM rp_online_notes WHERE kind = 'cursor' AND name = %s"
        row = self._run(lambda db: db.execute(query, (view,)).fetchone())
        return None if row is None else dict(json.loads(row[0]))

    def write(self, view: str, batch: Batch) -> None:
        number = view_number(view)

        def work(db: psycopg.Connection) -> None:
            if batch.fresh:
                kept = _PUSHED if batch.keep_pushed else -1
                db.execute("DELETE FROM rp_online_rows WHERE view = %s", (number,))
                db.execute("DELETE FROM rp_online_tiles WHERE view = %s AND kind <> %s", (number, kept))
            with db.cursor() as cursor:
                gone = [(number, *pair) for pair in batch.removed]
                cursor.executemany("DELETE FROM rp_online_rows WHERE view = %s AND key = %s AND event_us = %s", gone)
                old = [(number, key, k, c, t) for key, c, t in batch.removed_tiles for k in (_MOMENTS, _EVENTS)]
                cursor.executemany(_DROP_TILE, old)
            _merge(db, _NEW_ROWS, ((number, *row, place) for place, row in enumerate(batch.rows)), _MERGE_ROWS)
            _merge(db, _NEW_TILES, _split(number, batch), _MERGE_TILES)
            if batch.cursor is not None:
                _note(db, "cursor", view, json.dumps(dict(batch.cursor)))

        self._run(work, within_s=_WRITE_S, again=False)

    def read(self, rows: Sequence[RowsOf], tiles: Sequence[TilesOf] = ()) -> tuple[list[Found], list[FoundTiles]]:
        found: list[Found] = [{} for _ in rows]
        found_tiles = [FoundTiles() for _ in tiles]
        asked = [(n, view_number(ask.view), key) for n, ask in enumerate(rows) for key in ask.keys]
        spans = [
            (n, view_number(t.view), t.key, t.clock, t.first, t.last, "{" + ",".join(map(str, t.ends)) + "}")
            for n, t in enumerate(tiles)
        ]

        def work(db: psycopg.Connection) -> tuple[list[Any], list[Any]]:
            with db.pipeline() if asked and spans else _nothing():
                one = db.execute(_READ_ROWS, _turned(asked), binary=True) if asked else None
                two = db.execute(_READ_TILES, _turned(spans), binary=True) if spans else None
            return one.fetchall() if one else [], two.fetchall() if two else []

        all_rows, all_tiles = self._run(work)
        for n, key, event_us, value in all_rows:
            found[n][key] = (event_us, value)
        for n, kind, tile, value in all_tiles:
            answer = found_tiles[n]
            (answer.moments, answer.events, answer.pushed)[kind][tile] = value
        return found, found_tiles

    def amend(self, view: str, tiles: Sequence[TileId], change: Change) -> None:
        number = view_number(view)

        def work(db: psycopg.Connection) -> None:
            for key in sorted({key for key, _, _ in tiles}):  # in one order, so that two pushes never wait in a ring
                db.execute("SELECT pg_advisory_xact_lock(%s)", (_lock(number, key),))
            for key, clock, tile in tiles:
                now: dict[int, bytes] = dict(db.execute(_TILE, (number, key, clock, tile)).fetchall())
                made = change((key, clock, tile), now.get(_EVENTS), now.get(_PUSHED))
                place = (number, key, _PUSHED, clock, tile)
                if made is None:
                    db.execute(_DROP_TILE, place)
                else:
                    db.execute(_PUT_TILE, (*place, made))

        self._run(work, again=False)

    def drop(self, view: str, before: int | None = None) -> None:
        number = view_number(view)

        def work(db: psycopg.Connection) -> None:
            if before is not None:
                db.execute("DELETE FROM rp_online_tiles WHERE view = %s AND tile < %s", (number, before))
                return
            db.execute("DELETE FROM rp_online_rows WHERE view = %s", (number,))
            db.execute("DELETE FROM rp_online_tiles WHERE view = %s", (number,))
            db.execute("DELETE FROM rp_online_notes WHERE kind = 'cursor' AND name = %s", (view,))

        self._run(work, within_s=_WRITE_S)

    def _run(
        self, work: Callable[[psycopg.Connection], Answer], *, within_s: float = _ANSWER_S, again: bool = True
    ) -> Answer:
        """``work`` in one transaction. A connection that turns out to be lost is opened anew once: for ``again``
        even if it broke in the middle, else only before anything was sent."""
        import psycopg

        try:
            db = self._connection()
            if not again:
                db = self._alive(db)
            try:
                return _transaction(db, work, within_s)
            except psycopg.OperationalError:
                if not again or not db.closed:
                    raise
                self._local.db = None
                return _transaction(self._connection(), work, within_s)
        except psycopg.OperationalError as e:
            self._close()
            raise Unavailable("the online store", f"PostgreSQL at {shown(self._url)}: {_first_line(e)}") from e
        except psycopg.Error as e:
            raise Unavailable("the online store", f"PostgreSQL at {shown(self._url)} refuses: {_first_line(e)}") from e

    def _alive(self, db: psycopg.Connection) -> psycopg.Connection:
        import psycopg

        try:
            _transaction(db, lambda db: db.execute("SELECT 1"), _ANSWER_S)
            return db
        except psycopg.OperationalError:
            self._close()
            return self._connection()

    def _close(self) -> None:
        db = getattr(self._local, "db", None)
        self._local.db = None
        if db is not None:
            db.close()

    def _connection(self) -> psycopg.Connection:
        db: psycopg.Connection | None = getattr(self._local, "db", None)
        if db is None or db.closed:
            db = _connect(self._url)
            self._local.db = db
        return db


def _connect(url: str) -> psycopg.Connection:
    import psycopg

    try:
        psycopg.conninfo.conninfo_to_dict(url)
    except psycopg.ProgrammingError:  # its text would show the URL
        raise InvalidInput("data.online_store", f"{shown(url)} is no PostgreSQL URL") from None
    db: psycopg.Connection = _bounded().connect(
        url, connect_timeout=_CONNECT_S, autocommit=True, application_name="rayplat online store"
    )
    with db.transaction():
        db.execute("SELECT pg_advisory_xact_lock(%s)", (_SCHEMA_LOCK,))
        db.execute(_SCHEMA)
    return db


def _bounded() -> Any:
    """A connection class whose every wait ends after `within_s`."""
    import psycopg

    class Bounded(psycopg.Connection[Any]):
        within_s = _ANSWER_S

        def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
            return super().wait(gen, interval, self.within_s if timeout is None else timeout)

    return Bounded


def _transaction(db: Any, work: Callable[[Any], Answer], within_s: float) -> Answer:
    db.within_s = within_s
    with db.transaction():
        return work(db)


@contextmanager
def _nothing() -> Iterator[None]:
    yield


def _merge(
    db: psycopg.Connection, table: tuple[str, tuple[str, ...]], rows: Iterator[tuple[Any, ...]], statement: str
) -> None:
    """Copy rows into a temporary table, their place in the batch last, and merge it by ``statement``."""
    first = next(rows, None)
    if first is None:
        return
    name, columns = table[0], (*table[1], "place bigint")
    db.execute(f"CREATE TEMPORARY TABLE IF NOT EXISTS {name} ({', '.join(columns)}) ON COMMIT DELETE ROWS")
    with db.cursor() as cursor, cursor.copy(f"COPY {name} FROM STDIN (FORMAT BINARY)") as copy:
        copy.set_types([column.split()[1] for column in columns])
        for row in itertools.chain([first], rows):
            copy.write_row(row)
    db.execute(statement)


def _split(number: int, batch: Batch) -> Iterator[tuple[Any, ...]]:
    for place, (key, clock, tile, moments, events) in enumerate(batch.tiles):
        yield number, key, _MOMENTS, clock, tile, moments, place
        yield number, key, _EVENTS, clock, tile, events, place


def _note(db: psycopg.Connection, kind: str, name: str, text: str) -> None:
    query = (
        "INSERT INTO rp_online_notes VALUES (%s, %s, %s) ON CONFLICT (kind, name) DO UPDATE SET text = excluded.text"
    )
    db.execute(query, (kind, name, text))


def _turned(rows: Sequence[Sequence[Any]]) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)]


def _lock(number: int, key: bytes) -> int:
    return view_number(f"{number}:{key.hex()}")


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:200]
