"""Transactions on the record: who may write (the epoch), retry while another process holds SQLite, and clear errors.

Opening a `Record` takes the next epoch, so whoever held it before can no longer write: only the actor opens one.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError

from rayplat.errors import PartFailed, Unavailable
from rayplat.registry.record import mlflow_rows, schema
from rayplat.types import AliasHead

log = logging.getLogger(__name__)
R = TypeVar("R")

_ATTEMPTS = 5
_BUSY_TIMEOUT_S = 2.0  # how long SQLite itself waits for another writer, each time


@dataclass(frozen=True)
class Defaults:
    """Settings that operations need: where artifacts lie (a folder or URL), and the parity gate of the built-in
    policy (None: not asked for)."""

    artifacts_root: str = ""
    max_parity_mismatch: float | None = None


@dataclass(frozen=True)
class Tx:
    """One write: its transaction, its moment, the caller's idempotency key, and the alias moves it has made so far."""

    connection: Connection
    at: datetime
    key: str | None
    defaults: Defaults = Defaults()
    moved: list[AliasHead] = field(default_factory=list)


class Record:
    """The record behind ``database_url`` (SQLAlchemy: SQLite or PostgreSQL). Safe to use from several threads.

    ``on_move`` is told of every alias move, after its commit, in the thread that wrote it.
    """

    def __init__(
        self,
        database_url: str,
        on_move: Callable[[AliasHead], None] = lambda _: None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        defaults: Defaults | None = None,
    ) -> None:
        self._engine = _engine(database_url)
        self._on_move, self._clock = on_move, clock
        self._defaults = defaults or Defaults()
        _patiently(lambda: _ensure_tables(self._engine))
        self.epoch: int = _patiently(lambda: _take_epoch(self._engine))

    @property
    def dialect(self) -> str:
        return self._engine.dialect.name

    def read(self, query: Callable[[Connection], R]) -> R:
        """What ``query`` finds. Raises `Unavailable` when the database does not answer."""

        def attempt() -> R:
            with self._engine.connect() as connection:
                return query(connection)

        return _patiently(attempt)

    def write(self, operation: Callable[[Tx], R], key: str | None = None) -> R:
        """Run ``operation`` in one transaction: all of it is committed, or nothing.

        ``key`` makes a repeated call return the first one's result (see `audit.replayed`). Raises `Unavailable` when
        another incarnation has taken the epoch, or the database stays locked.
        """
        result: R | Exception = self.write_all([(operation, key)])[0]
        if isinstance(result, Exception):
            raise result
        return result

    def write_all(self, operations: Sequence[tuple[Callable[[Tx], Any], str | None]]) -> list[Any]:
        """Run several operations, each with its key, in order and in one commit: the result or the error of each.

        An operation that raises takes back what it did, and only that. Raises like `write` where none was written.
        """

        def attempt() -> tuple[list[Any], list[AliasHead]]:
            results: list[Any] = []
            moved: list[AliasHead] = []
            with self._engine.begin() as connection:
                self._fence(connection)
                for operation, key in operations:
                    tx = Tx(connection, self._clock(), key, self._defaults)
                    try:
                        with connection.begin_nested():
                            results.append(operation(tx))
                        moved += tx.moved
                    except OperationalError:
                        raise  # the database's, not the operation's: the whole group is tried again
                    except Exception as e:  # noqa: BLE001 - it is this operation's answer
                        results.append(e)
            return results, moved

        results, moved = _patiently(attempt)
        for head in moved:
            self._on_move(head)
        return results

    def is_writer(self) -> bool:
        """Whether this incarnation still holds the epoch."""
        return self.read(lambda s: s.scalar(sa.select(schema.lease.c.epoch))) == self.epoch

    def close(self) -> None:
        self._engine.dispose()

    def _fence(self, connection: Connection) -> None:
        """Take the write lock; refuse if replaced. It must be a transaction's first statement (see `schema.lease`)."""
        lease = schema.lease
        mine = sa.update(lease).where(lease.c.id == 1, lease.c.epoch == self.epoch).values(writes=lease.c.writes + 1)
        if connection.execute(mine).rowcount != 1:
            now = connection.scalar(sa.select(lease.c.epoch))
            raise Unavailable("the registry", f"another incarnation took over (epoch {now}, this one had {self.epoch})")


def _engine(database_url: str) -> sa.Engine:
    url = sa.make_url(database_url)
    if url.get_backend_name() != "sqlite":
        return sa.create_engine(url, pool_pre_ping=True)
    engine = sa.create_engine(url, connect_args={"timeout": _BUSY_TIMEOUT_S})

    @sa.event.listens_for(engine, "connect")
    def _configure(connection: Any, _: Any) -> None:
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA synchronous = FULL")

    return engine


def _ensure_tables(engine: sa.Engine) -> None:
    """MLflow's tables first (its migrations expect to be alone in an empty database), then ours; once."""
    if not sa.inspect(engine).has_table(schema.schema.name):
        mlflow_rows.ensure_tables(engine)
        if engine.dialect.name == "sqlite":
            with engine.connect() as connection:  # kept in the file: readers and the writer no longer block each other
                connection.exec_driver_sql("PRAGMA journal_mode = WAL")
        schema.metadata.create_all(engine)
    with engine.begin() as connection:
        found = connection.scalar(sa.select(schema.schema.c.version))
        if found is None:
            connection.execute(sa.insert(schema.schema).values(id=1, version=schema.VERSION))
            connection.execute(sa.insert(schema.lease).values(id=1, epoch=0, writes=0))
    if found not in (None, schema.VERSION):
        reason = f"the database has schema version {found}, this release knows {schema.VERSION}: use its own release"
        raise PartFailed("the registry", reason)


def _take_epoch(engine: sa.Engine) -> int:
    with engine.begin() as connection:
        connection.execute(sa.update(schema.lease).values(epoch=schema.lease.c.epoch + 1))
        return int(connection.scalar(sa.select(schema.lease.c.epoch)) or 0)


def _patiently(attempt: Callable[[], R]) -> R:
    """``attempt()``, again while another process (MLflow's server) holds SQLite's lock, a bounded number of times."""
    for n in range(1, _ATTEMPTS + 1):
        try:
            return attempt()
        except OperationalError as e:
            reason = str(e.orig).strip().splitlines()[0]
            if "locked" not in reason or n == _ATTEMPTS:
                raise Unavailable("the registry's database", reason) from e
            log.warning("the registry's database is locked, attempt %d of %d", n, _ATTEMPTS)
            time.sleep(random.uniform(0.5, 1.0) * 0.05 * 2**n)
    raise AssertionError("the loop ends by return or raise")
