"""Transactions on the record: who may write (the epoch), retry while another process holds SQLite, and clear errors.

Opening a `Record` takes the next epoch, so whoever held it before can no longer write: only the actor opens one.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.exc import DatabaseError, DataError, IntegrityError, OperationalError, StatementError

from rayplat.errors import Conflict, InvalidInput, Unavailable
from rayplat.registry.egress import EgressRules
from rayplat.registry.record import opening, rows, schema
from rayplat.registry.record.journal import Journal
from rayplat.registry.record.prepared import Prepared
from rayplat.types import AliasHead, Release

log = logging.getLogger(__name__)
R = TypeVar("R")

_FENCE = Prepared(
    sa.update(schema.lease)
    .where(schema.lease.c.id == 1, schema.lease.c.epoch == sa.bindparam("mine"))
    .values(writes=schema.lease.c.writes + 1)
)
_ATTEMPTS = 5
_PASSING = ("locked", "deadlock detected")  # what another process's transaction causes, and is over when it is


@dataclass(frozen=True)
class Defaults:
    """Settings that operations need: where artifacts lie (a folder or URL), and the parity gate of the built-in
    policy (None: not asked for); where webhooks may be."""

    artifacts_root: str = ""
    max_parity_mismatch: float | None = None
    egress: EgressRules = field(default_factory=EgressRules)


@dataclass(frozen=True)
class Tx:
    """One write: its transaction, its moment, the caller's idempotency key, and the alias moves and changes of releases
    it has made so far."""

    connection: Connection
    at: datetime
    key: str | None
    defaults: Defaults = field(default_factory=Defaults)
    moved: list[AliasHead] = field(default_factory=list)
    released: list[Release] = field(default_factory=list)
    journal: Journal = field(default_factory=Journal)

    def wrote(self, table: sa.Table, columns: Mapping[str, Any]) -> None:
        """To be called after a row was inserted, changed or deleted, with all its columns or at least its key: the
        audit log gets its digest."""
        self.journal.wrote(self.connection, table, columns)

    def close(self) -> None:
        """Write the audit entries; `Record` does so when the operation has returned."""
        self.journal.close(self.connection, rows.to_us(self.at))


class Reader:
    """The record behind ``database_url`` for reading: takes nothing from its writer and changes no table.

    Raises `PartFailed` for a database whose tables are not those of this release, `Unavailable` where none answers.
    """

    def __init__(self, database_url: str) -> None:
        self.engine = opening.engine(database_url)
        _patiently(lambda: opening.make_ready(self.engine, migrate=False))

    @property
    def dialect(self) -> str:
        return self.engine.dialect.name

    def read(self, query: Callable[[Connection], R]) -> R:
        """What ``query`` finds. Raises `Unavailable` when the database does not answer, `InvalidInput` for a value
        that it cannot look for."""

        def attempt() -> R:
            with self.engine.connect() as connection:
                return query(connection)

        try:
            return _patiently(attempt)
        except (DataError, UnicodeEncodeError) as e:
            raise _refusal(e) from e

    def close(self) -> None:
        self.engine.dispose()


class Record(Reader):
    """The record behind ``database_url`` (SQLAlchemy: SQLite or PostgreSQL). Safe to use from several threads.

    ``on_move`` is told of every alias move and every new release, after its commit, in the thread that wrote it. A
    database of an earlier release is migrated first, or with ``migrate`` false refused as by `Reader`.
    """

    def __init__(
        self,
        database_url: str,
        on_move: Callable[[AliasHead | Release], None] = lambda _: None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        defaults: Defaults | None = None,
        migrate: bool = True,
    ) -> None:
        self.engine = opening.engine(database_url)
        self._on_move, self._clock = on_move, clock
        self._defaults = defaults or Defaults()
        _patiently(lambda: opening.make_ready(self.engine, migrate))
        self.epoch: int = _patiently(lambda: opening.take_epoch(self.engine))

    def now(self) -> datetime:
        """The record's clock."""
        return self._clock()

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

        def attempt() -> tuple[list[Any], list[AliasHead | Release]]:
            results: list[Any] = []
            moved: list[AliasHead | Release] = []
            with self.engine.begin() as connection:
                self._fence(connection)
                for operation, key in operations:
                    tx = Tx(connection, self._clock(), key, self._defaults)
                    try:
                        with _savepoint(connection):
                            result = operation(tx)
                            tx.close()
                        results.append(result)
                        moved += [*tx.moved, *tx.released]
                    except OperationalError:
                        raise  # the database's, not the operation's: the whole group is tried again
                    except Exception as e:  # noqa: BLE001 - it is this operation's answer
                        results.append(_refusal(e))
            return results, moved

        try:
            results, moved = _patiently(attempt)
        except (DataError, IntegrityError) as e:  # noticed at the commit only
            raise _refusal(e) from e
        for what in moved:
            self._on_move(what)
        return results

    def is_writer(self) -> bool:
        """Whether this incarnation still holds the epoch."""
        return self.read(lambda s: s.scalar(sa.select(schema.lease.c.epoch))) == self.epoch

    def _fence(self, connection: Connection) -> None:
        """Take the write lock; refuse if replaced. It must be a transaction's first statement (see `schema.lease`)."""
        if _FENCE(connection, {"mine": self.epoch}).rowcount != 1:
            now = connection.scalar(sa.select(schema.lease.c.epoch))
            raise Unavailable("the registry", f"another incarnation took over (epoch {now}, this one had {self.epoch})")


@contextmanager
def _savepoint(connection: Connection) -> Iterator[None]:
    """What is done in it is taken back when it raises. (`Connection.begin_nested` takes three times as long.)"""
    connection.exec_driver_sql("SAVEPOINT operation")
    try:
        yield
    except Exception as e:
        if not isinstance(e, OperationalError):
            connection.exec_driver_sql("ROLLBACK TO SAVEPOINT operation")
        raise
    connection.exec_driver_sql("RELEASE SAVEPOINT operation")


def _refusal(error: Exception) -> Exception:
    """What the database itself refuses (a rule of a table, a value no column holds) as an error of ours."""
    if isinstance(error, IntegrityError):
        return Conflict(f"the database refuses it: {_reason(error)}")
    if isinstance(error, DataError | OverflowError | UnicodeEncodeError):
        return InvalidInput("value", f"the database cannot hold it: {_reason(error)}")
    return error


def _reason(error: Exception) -> str:
    lines = str(error.orig if isinstance(error, StatementError) else error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _patiently(attempt: Callable[[], R]) -> R:
    """``attempt()``, again while another process (MLflow's server) holds SQLite's lock, a bounded number of times."""
    for n in range(1, _ATTEMPTS + 1):
        try:
            return attempt()
        except DatabaseError as e:
            if not isinstance(e, OperationalError) and type(e) is not DatabaseError:
                raise  # a statement's own fault
            reason = _reason(e)
            if not any(word in reason for word in _PASSING) or n == _ATTEMPTS:
                raise Unavailable("the registry's database", reason) from e
            log.warning("the registry's database: %s, attempt %d of %d", reason, n, _ATTEMPTS)
            time.sleep(random.uniform(0.5, 1.0) * 0.05 * 2**n)
    raise AssertionError("the loop ends by return or raise")
