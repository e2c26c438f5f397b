"""Opening the record's database: its engine, its tables at the revision this release knows, and the writer's epoch.

Whatever stands against it is one error that names the rule, and then nothing has been changed: a migration is one
transaction, and those that open at the same time wait for each other.
"""

from __future__ import annotations

import logging
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from rayplat.errors import PartFailed
from rayplat.registry.record import mlflow_rows, schema

log = logging.getLogger(__name__)

_BUSY_TIMEOUT_S = 2.0  # how long SQLite itself waits for another writer, each time
_LOCK_TIMEOUT_MS = 5_000  # the same on PostgreSQL
_IDLE_TIMEOUT_MS = 30_000  # a writer that was frozen inside a transaction: PostgreSQL then takes its locks away
_MIGRATION_LOCK = 0x72617970  # of PostgreSQL's advisory locks: the one for this
_WHAT = "the registry"


def engine(database_url: str) -> sa.Engine:
    """Connections to SQLite or PostgreSQL, set up so that a commit is on disk and no wait is endless."""
    url = sa.make_url(database_url)
    if url.drivername in ("postgresql", "postgres"):
        url = url.set(drivername="postgresql+psycopg")
    if url.get_backend_name() != "sqlite":
        options = f"-c lock_timeout={_LOCK_TIMEOUT_MS} -c idle_in_transaction_session_timeout={_IDLE_TIMEOUT_MS}"
        arguments = {"options": options, "connect_timeout": 10, "application_name": "rayplat-registry"}
        return sa.create_engine(url, pool_pre_ping=True, connect_args=arguments)
    made = sa.create_engine(url, connect_args={"timeout": _BUSY_TIMEOUT_S})

    @sa.event.listens_for(made, "connect")
    def _configure(connection: Any, _: Any) -> None:
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA synchronous = FULL")

    return made


def revision(connection: Connection) -> str | None:
    """The revision of the ``rp_*`` tables; None where there are none.

    The first release had no migrations: it noted ``1`` in ``rp_schema``, which is revision 0001. Later ones go on
    counting there, so that the first release refuses their databases.
    """
    tables = sa.inspect(connection)
    if tables.has_table(schema.VERSION_TABLE):
        found = connection.exec_driver_sql(f"select version_num from {schema.VERSION_TABLE}").scalar()
        return None if found is None else str(found)
    if not tables.has_table(schema.schema.name):
        return None
    return f"{connection.scalar(sa.select(schema.schema.c.version)) or 1:04d}"


def make_ready(database: sa.Engine, migrate: bool) -> None:
    """Tables as this release needs them. MLflow's come first: its migrations expect an empty database for themselves.

    Raises `PartFailed` for a database of a later release and, unless ``migrate``, for one of an earlier release or
    without tables.
    """
    with database.connect() as connection:
        found = revision(connection)
    if found == schema.REVISION:
        return
    _check(found, migrate)
    mlflow_rows.ensure_tables(database)
    if found is None and database.dialect.name == "sqlite":
        with database.connect() as connection:  # kept in the file: readers and the writer no longer block each other
            connection.exec_driver_sql("PRAGMA journal_mode = WAL")
    with database.connect() as connection:
        if database.dialect.name == "sqlite":
            # To change a table is to put another in its place, and rows of others point at it.
            connection.exec_driver_sql("PRAGMA foreign_keys = OFF")
            connection.commit()
        try:
            _migrate(connection)
        finally:
            connection.invalidate()  # its settings were for this only


def take_epoch(database: sa.Engine) -> int:
    """The next epoch, now this process's: whoever held the one before can no longer write."""
    with database.begin() as connection:
        connection.execute(sa.update(schema.lease).values(epoch=schema.lease.c.epoch + 1))
        return int(connection.scalar(sa.select(schema.lease.c.epoch)) or 0)


def _migrate(connection: Connection) -> None:
    """Create or upgrade in one transaction, behind one lock."""
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    else:
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_MIGRATION_LOCK)))
    found = revision(connection)  # another process may have been faster
    if found is None:
        schema.metadata.create_all(connection)
        connection.execute(sa.insert(schema.schema).values(id=1, version=int(schema.REVISION)))
        connection.execute(sa.insert(schema.lease).values(id=1, epoch=0, writes=0))
        _alembic(connection, "stamp", schema.REVISION)
    elif found != schema.REVISION:
        _check(found, migrate=True)
        _alembic(connection, "stamp", found)
        _alembic(connection, "upgrade", schema.REVISION)
        log.info("registry's tables migrated from revision %s to %s", found, schema.REVISION)
    connection.commit()


def _check(found: str | None, migrate: bool) -> None:
    if found is not None and not (found.isdigit() and int(found) < int(schema.REVISION)):
        reason = f"the database has schema revision {found}, this release knows {schema.REVISION}: use its own release"
        raise PartFailed(_WHAT, reason)
    if not migrate:
        state = "has no tables of the registry" if found is None else f"is at schema revision {found}"
        todo = f"this release needs {schema.REVISION}; back it up, then 'rayplat up' migrates it"
        raise PartFailed(_WHAT, f"the database {state}, {todo}")


def _alembic(connection: Connection, command: str, to: str) -> None:
    import alembic.command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "rayplat:registry/migrations")
    config.attributes["connection"] = connection
    getattr(alembic.command, command)(config, to)
