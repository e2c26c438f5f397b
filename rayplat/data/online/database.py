"""The rows of the online store in SQLite: for each feature view the newest known row of each key.

This is the layout under Feast's online store (`feast_online_store`) and needs no Feast itself, whose import takes
ten seconds: a model host reads here what Feast's own API would read. One row holds all features of a key as a
JSON array in the order of the declared columns; with it stands the definition that the rows were made from.
Readers never wait for a writer (WAL), and an older event never replaces a newer one.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rayplat.errors import NotFound

_SCHEMA = """
CREATE TABLE IF NOT EXISTS rp_views (
    name TEXT PRIMARY KEY, digest TEXT NOT NULL, columns TEXT NOT NULL, declaration TEXT, cursor TEXT);
CREATE TABLE IF NOT EXISTS rp_services (name TEXT PRIMARY KEY, declaration TEXT NOT NULL);
"""
_KEYS_PER_QUERY = 500
_BUSY_S = 30

Row = tuple[str, int, str]
"""Key, event time in microseconds since the epoch (UTC), JSON array of the values."""


@dataclass(frozen=True)
class Definition:
    """What the rows of a view mean; ``declaration`` is a `FeatureView` as JSON, None for one that Feast alone knows."""

    name: str
    digest: str
    columns: tuple[str, ...]
    declaration: str | None


class OnlineDatabase:
    """One database file; a connection per thread, opened when first used, so it can be shared and sent."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._local = threading.local()

    def __reduce__(self) -> tuple[type[OnlineDatabase], tuple[str]]:
        return OnlineDatabase, (self.path,)

    def declare(self, definition: Definition) -> None:
        """Make room for a view's rows. Rows of another definition of the same name are dropped: they mean
        something else."""
        with self.transaction() as db:
            found = self.find(definition.name)
            if found == definition:
                return
            if found is None or (found.digest, found.columns) != (definition.digest, definition.columns):
                db.execute(f"DROP TABLE IF EXISTS {_rows(definition.name)}")
            db.execute(
                f"CREATE TABLE IF NOT EXISTS {_rows(definition.name)} "
                "(key TEXT PRIMARY KEY, event_us INTEGER NOT NULL, features TEXT NOT NULL) WITHOUT ROWID"
            )
            db.execute(
                "INSERT OR REPLACE INTO rp_views (name, digest, columns, declaration) VALUES (?, ?, ?, ?)",
                (definition.name, definition.digest, json.dumps(definition.columns), definition.declaration),
            )

    def drop(self, name: str) -> None:
        """Forget a view and its rows."""
        with self.transaction() as db:
            db.execute(f"DROP TABLE IF EXISTS {_rows(name)}")
            db.execute("DELETE FROM rp_views WHERE name = ?", (name,))

    def clear(self, name: str) -> None:
        """Forget a view's rows and how far they reached."""
        with self.transaction() as db:
            db.execute(f"DELETE FROM {_rows(name)}")
            db.execute("UPDATE rp_views SET cursor = NULL WHERE name = ?", (name,))

    def find(self, name: str) -> Definition | None:
        query = "SELECT name, digest, columns, declaration FROM rp_views WHERE name = ?"
        row = self._connection().execute(query, (name,)).fetchone()
        return None if row is None else Definition(row[0], row[1], tuple(json.loads(row[2])), row[3])

    def get(self, name: str) -> Definition:
        found = self.find(name)
        if found is None:
            raise NotFound("feature view", name, f"there are {', '.join(self.names()) or 'none'}; apply it first")
        return found

    def names(self) -> list[str]:
        return [row[0] for row in self._connection().execute("SELECT name FROM rp_views ORDER BY name")]

    def put_service(self, name: str, declaration: str) -> None:
        with self.transaction() as db:
            db.execute("INSERT OR REPLACE INTO rp_services VALUES (?, ?)", (name, declaration))

    def services(self) -> dict[str, str]:
        """Declarations of the feature services by name."""
        return dict(self._connection().execute("SELECT name, declaration FROM rp_services ORDER BY name").fetchall())

    def cursor(self, name: str) -> dict[str, Any] | None:
        """How far a view's rows reach, as `upsert` noted it."""
        row = self._connection().execute("SELECT cursor FROM rp_views WHERE name = ?", (name,)).fetchone()
        return json.loads(row[0]) if row and row[0] else None

    def upsert(self, name: str, rows: Iterable[Row], cursor: dict[str, Any] | None = None) -> None:
        """Write rows; one whose event is older than the stored one changes nothing. All or nothing, cursor included."""
        with self.transaction() as db:
            db.executemany(
                f"INSERT INTO {_rows(name)} VALUES (?, ?, ?) ON CONFLICT (key) DO UPDATE "
                "SET event_us = excluded.event_us, features = excluded.features "
                "WHERE excluded.event_us >= event_us",
                rows,
            )
            if cursor is not None:
                db.execute("UPDATE rp_views SET cursor = ? WHERE name = ?", (json.dumps(cursor), name))

    def read(self, name: str, keys: Sequence[str]) -> dict[str, tuple[int, list[Any]]]:
        """Event time (microseconds) and values of the keys that have a row."""
        found: dict[str, tuple[int, list[Any]]] = {}
        for start in range(0, len(keys), _KEYS_PER_QUERY):
            part = keys[start : start + _KEYS_PER_QUERY]
            query = f"SELECT key, event_us, features FROM {_rows(name)} WHERE key IN ({','.join('?' * len(part))})"
            for key, event_us, features in self._connection().execute(query, part):
                found[key] = event_us, json.loads(features)
        return found

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """One write transaction; calls inside it join in."""
        db = self._connection()
        if db.in_transaction:
            yield db
            return
        db.execute("BEGIN IMMEDIATE")
        try:
            yield db
        except BaseException:
            db.execute("ROLLBACK")
            raise
        db.execute("COMMIT")

    def _connection(self) -> sqlite3.Connection:
        db: sqlite3.Connection | None = getattr(self._local, "db", None)
        if db is None:
            Path(self.path).parent.mkdir(parents=True, exist_ok=True)
            db = sqlite3.connect(self.path, timeout=_BUSY_S, isolation_level=None)
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = NORMAL")
            db.executescript(_SCHEMA)
            self._local.db = db
        return db


def _rows(name: str) -> str:
    return '"rows_' + name.replace('"', '""') + '"'
