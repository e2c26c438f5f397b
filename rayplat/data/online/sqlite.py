"""The online store in one SQLite file.

Readers never wait for a writer (WAL). One connection per thread. A view id is kept as 8 bytes of its sha256: a
row costs its key, two times and its values.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rayplat.data.online.store import Batch, Change, Found, FoundTiles, RowsOf, TileId, TilesOf
from rayplat.data.online.values import view_number
from rayplat.errors import Unavailable

_SCHEMA = """
CREATE TABLE IF NOT EXISTS rp_notes (
    kind TEXT NOT NULL, name TEXT NOT NULL, text TEXT NOT NULL, PRIMARY KEY (kind, name)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS rp_rows (
    view INTEGER NOT NULL, key BLOB NOT NULL, event_us INTEGER NOT NULL, created_us INTEGER NOT NULL,
    value BLOB NOT NULL, PRIMARY KEY (view, key)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS rp_tiles (
    view INTEGER NOT NULL, key BLOB NOT NULL, kind INTEGER NOT NULL, clock INTEGER NOT NULL, tile INTEGER NOT NULL,
    value BLOB NOT NULL, PRIMARY KEY (view, key, kind, clock, tile)) WITHOUT ROWID;
"""
_MOMENTS, _EVENTS, _PUSHED = 0, 1, 2
_KEYS_PER_QUERY = 500
_BUSY_S = 30
_CACHE_KIB = 32_768  # of each thread's connection; the default of 2 MiB costs reads of a large store their pages

_UPSERT = """
INSERT INTO rp_rows VALUES (?, ?, ?, ?, ?) ON CONFLICT (view, key) DO UPDATE SET
    event_us = excluded.event_us, created_us = excluded.created_us, value = excluded.value
WHERE (excluded.event_us, excluded.created_us) >= (event_us, created_us)
"""
_PUT_TILE = "INSERT OR REPLACE INTO rp_tiles VALUES (?, ?, ?, ?, ?, ?)"
_DROP_TILE = "DELETE FROM rp_tiles WHERE view = ? AND key = ? AND kind = ? AND clock = ? AND tile = ?"
_TILE = "SELECT value FROM rp_tiles WHERE view = ? AND key = ? AND kind = ? AND clock = ? AND tile = ?"
_SOME_TILES = "SELECT tile, value FROM rp_tiles WHERE view = ? AND key = ? AND kind = ? AND clock = ?"
_TILES = _SOME_TILES + " AND tile BETWEEN ? AND ?"


class SqliteStore:
    """`OnlineStore` in the file ``path``, which is made when first used."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._local = threading.local()

    def __reduce__(self) -> tuple[type[SqliteStore], tuple[str]]:
        return SqliteStore, (self.path,)

    def put(self, kind: str, name: str, text: str | None) -> None:
        with self._transaction() as db:
            if text is None:
                db.execute("DELETE FROM rp_notes WHERE kind = ? AND name = ?", (kind, name))
            else:
                db.execute("INSERT OR REPLACE INTO rp_notes VALUES (?, ?, ?)", (kind, name, text))

    def notes(self, kind: str) -> dict[str, str]:
        with self._reading() as db:
            query = "SELECT name, text FROM rp_notes WHERE kind = ? ORDER BY name"
            return dict(db.execute(query, (kind,)).fetchall())

    def cursor(self, view: str) -> dict[str, Any] | None:
        with self._reading() as db:
            query = "SELECT text FROM rp_notes WHERE kind = 'cursor' AND name = ?"
            row = db.execute(query, (view,)).fetchone()
        return None if row is None else dict(json.loads(row[0]))

    def write(self, view: str, batch: Batch) -> None:
        number = view_number(view)
        with self._transaction() as db:
            if batch.fresh:
                db.execute("DELETE FROM rp_rows WHERE view = ?", (number,))
                kept = _PUSHED if batch.keep_pushed else -1
                db.execute("DELETE FROM rp_tiles WHERE view = ? AND kind <> ?", (number, kept))
            gone = ((number, key, event_us) for key, event_us in batch.removed)
            db.executemany("DELETE FROM rp_rows WHERE view = ? AND key = ? AND event_us = ?", gone)
            db.executemany(_UPSERT, ((number, *row) for row in batch.rows))
            for key, clock, tile in batch.removed_tiles:
                for kind in (_MOMENTS, _EVENTS):
                    db.execute(_DROP_TILE, (number, key, kind, clock, tile))
            db.executemany(_PUT_TILE, _split(number, batch))
            if batch.cursor is not None:
                text = json.dumps(dict(batch.cursor))
                db.execute("INSERT OR REPLACE INTO rp_notes VALUES ('cursor', ?, ?)", (view, text))

    def read(self, rows: Sequence[RowsOf], tiles: Sequence[TilesOf] = ()) -> tuple[list[Found], list[FoundTiles]]:
        with self._reading() as db:
            found = [_rows(db, ask) for ask in rows]
            if not tiles:
                return found, []
            db.execute("BEGIN")  # one state of all tiles
            try:
                return found, [_tiles(db, ask) for ask in tiles]
            finally:
                db.execute("COMMIT")

    def amend(self, view: str, tiles: Sequence[TileId], change: Change) -> None:
        number = view_number(view)
        with self._transaction() as db:
            for key, clock, tile in tiles:
                events = db.execute(_TILE, (number, key, _EVENTS, clock, tile)).fetchone()
                pushed = db.execute(_TILE, (number, key, _PUSHED, clock, tile)).fetchone()
                made = change((key, clock, tile), events and events[0], pushed and pushed[0])
                if made is None:
                    db.execute(_DROP_TILE, (number, key, _PUSHED, clock, tile))
                else:
                    db.execute(_PUT_TILE, (number, key, _PUSHED, clock, tile, made))

    def drop(self, view: str, before: int | None = None) -> None:
        number = view_number(view)
        with self._transaction() as db:
            if before is not None:
                db.execute("DELETE FROM rp_tiles WHERE view = ? AND tile < ?", (number, before))
                return
            db.execute("DELETE FROM rp_rows WHERE view = ?", (number,))
            db.execute("DELETE FROM rp_tiles WHERE view = ?", (number,))
            db.execute("DELETE FROM rp_notes WHERE kind = 'cursor' AND name = ?", (view,))

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._reading() as db:
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
            except BaseException:
                db.execute("ROLLBACK")
                raise
            db.execute("COMMIT")

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        try:
            yield self._connection()
        except sqlite3.Error as e:
            hint = "check that the file can be written and is an SQLite file (settings: data.online_store)"
            raise Unavailable("the online store", f"{self.path}: {e}; {hint}") from e

    def _connection(self) -> sqlite3.Connection:
        db: sqlite3.Connection | None = getattr(self._local, "db", None)
        if db is None:
            try:
                Path(self.path).parent.mkdir(parents=True, exist_ok=True)
            except OSError as e:
                raise Unavailable("the online store", f"{self.path} cannot be made: {e.strerror}") from e
            db = sqlite3.connect(self.path, timeout=_BUSY_S, isolation_level=None)
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = NORMAL")
            db.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
            db.executescript(_SCHEMA)
            self._local.db = db
        return db


def _split(number: int, batch: Batch) -> Iterator[tuple[int, bytes, int, int, int, bytes]]:
    for key, clock, tile, moments, events in batch.tiles:
        yield number, key, _MOMENTS, clock, tile, moments
        yield number, key, _EVENTS, clock, tile, events


def _rows(db: sqlite3.Connection, ask: RowsOf) -> Found:
    number, found = view_number(ask.view), {}
    for start in range(0, len(ask.keys), _KEYS_PER_QUERY):
        part = ask.keys[start : start + _KEYS_PER_QUERY]
        marks = ",".join("?" * len(part))
        query = f"SELECT key, event_us, value FROM rp_rows WHERE view = ? AND key IN ({marks})"
        for key, event_us, value in db.execute(query, (number, *part)):
            found[key] = (event_us, value)
    return found


def _tiles(db: sqlite3.Connection, ask: TilesOf) -> FoundTiles:
    place, span = (view_number(ask.view), ask.key), (ask.clock, ask.first, ask.last)
    moments = dict(db.execute(_TILES, (*place, _MOMENTS, *span)).fetchall())
    pushed = dict(db.execute(_TILES, (*place, _PUSHED, *span)).fetchall())
    wanted = [tile for tile in {*ask.ends, *pushed} if tile in moments]
    events: dict[int, bytes] = {}
    for start in range(0, len(wanted), _KEYS_PER_QUERY):
        part = wanted[start : start + _KEYS_PER_QUERY]
        query = f"{_SOME_TILES} AND tile IN ({','.join('?' * len(part))})"
        events |= db.execute(query, (*place, _EVENTS, ask.clock, *part)).fetchall()
    return FoundTiles(moments, events, pushed)
