"""Statements whose SQL is made once, for what many wait for.

SQLAlchemy looks a statement up, binds it and prepares its result at each execution, which takes ten times as long as
SQLite needs to run it. A `Prepared` keeps the text for each dialect and hands it to the driver, within the
connection's transaction. Only for plain columns (text, numbers): values go in and come out as the driver has them.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import Connection

Values = Mapping[str, Any]


class Found(NamedTuple):
    """``rows`` have their columns by name; ``rowcount`` is how many rows an update changed."""

    rows: list[Any]
    rowcount: int

    def first(self) -> Any:
        """The first row, None where there is none."""
        return self.rows[0] if self.rows else None


class _Made(NamedTuple):
    sql: str
    order: Sequence[str] | None
    fixed: dict[str, Any]
    row: Any

    def bound(self, given: Values) -> Any:
        found = {**self.fixed, **given}
        return found if self.order is None else [found[name] for name in self.order]


class Prepared:
    """``statement`` with named parameters, to be called with a connection and their values."""

    def __init__(self, statement: sa.Executable) -> None:
        self._statement = statement
        self._made: dict[tuple[str, ...], _Made] = {}

    def __call__(self, connection: Connection, values: Values | list[Values]) -> Found:
        """Execute it; with a list of values, once for each. Raises what SQLAlchemy raises for the driver's errors."""
        many = isinstance(values, list)
        made = self._for(connection, values[0] if isinstance(values, list) else values)
        bound = [made.bound(v) for v in values] if isinstance(values, list) else made.bound(values)
        driver = connection.dialect.loaded_dbapi
        cursor = connection.connection.cursor()
        try:
            (cursor.executemany if many else cursor.execute)(made.sql, bound)
            found = [made.row(*row) for row in cursor.fetchall()] if made.row is not None else []
            return Found(found, cursor.rowcount)
        except driver.Error as e:
            dialect = connection.dialect
            raise sa.exc.DBAPIError.instance(made.sql, None, e, driver.Error, True, dialect=dialect) from e
        finally:
            cursor.close()

    def _for(self, connection: Connection, values: Values) -> _Made:
        key = (connection.dialect.name, *values)
        made = self._made.get(key)
        if made is None:
            statement: Any = self._statement
            compiled = statement.compile(dialect=connection.dialect, column_keys=list(values))
            fixed = {name: value for name, value in compiled.params.items() if name not in values}
            columns = statement.selected_columns if isinstance(statement, sa.Select) else ()
            row = namedtuple("row", [column.key for column in columns]) if columns else None  # type: ignore[misc]
            made = self._made[key] = _Made(
                compiled.string, compiled.positiontup if compiled.positional else None, fixed, row
            )
        return made
