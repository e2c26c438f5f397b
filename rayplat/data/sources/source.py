"""Bringing a source's new rows into a table, each row once. Knows tables and watermarks; what a watermark means is
the source's own affair.

A commit of an ingestion holds the rows, the watermark they were read up to, and an application transaction numbered
one higher than the last: all in one, so a killed ingestion has happened wholly or not at all, and the next one goes
on from the watermark of the last that happened. Of two at the same time one commits and the other does nothing.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa

from rayplat.data.tables.checks import Checks
from rayplat.errors import AlreadyExists, Conflict, InvalidInput, NotFound, SchemaMismatch
from rayplat.types import Ingested, check_name

if TYPE_CHECKING:
    from ray.data import Dataset

    from rayplat.data.tables import Tables

log = logging.getLogger(__name__)

Watermark = Mapping[str, Any]
_SOURCE, _WATERMARK, _NUMBER = "ingested_from", "watermark", "ingestion"


class Source(Protocol):
    """Rows that grow. ``name`` is what its ingestions are remembered under, in every table: choose it once."""

    @property
    def name(self) -> str: ...

    def schema(self) -> pa.Schema:
        """The columns of its rows, declared or found; the first ingestion makes the table with them."""

    def read(self, after: Watermark | None, declared: pa.Schema | None) -> tuple[pa.Table | Dataset, Watermark]:
        """The rows that came after ``after`` (None: all there are) and the watermark up to which they were read (JSON
        values). ``declared`` are the columns of the table, for sources whose values have no types of their own."""


def ingest(
    tables: Tables,
    name: str,
    source: Source,
    *,
    run_id: str | None = None,
    checks: Checks | None = None,
    evolve: bool = False,
) -> Ingested:
    """Append what is new in ``source`` to table ``name``; the first time makes the table, with ``checks`` stored.
    ``evolve`` adds columns that are new in the source. Nothing new: no commit.

    Raises `SchemaMismatch` naming a column that differs from the table's, `BadRows` for rows that break a check,
    `Conflict` where the watermark of the last ingestion is no longer in the log, and what the source raises.
    """
    check_name("source", source.name)
    _make(tables, name, source, checks)
    app = f"ingest:{source.name}"
    last = tables.transaction_version(name, app)
    after = None if last is None else _noted(tables, name, source.name, last)[1]
    declared = tables.scan(name).schema
    rows, watermark = source.read(after, declared)
    if not isinstance(rows, pa.Table):
        rows.context.raise_original_map_exception = True  # else our errors would come back as Ray's
    if after is not None and dict(watermark) == dict(after):
        return Ingested(tables.version(name), source.name, 0, dict(after))
    number = 0 if last is None else last + 1
    noted = {_SOURCE: source.name, _NUMBER: str(number), _WATERMARK: _text(watermark)}
    try:
        tables.append(
            name, rows, run_id=run_id, transaction=(app, number), checks=checks, evolve=evolve, metadata=noted
        )
    except SchemaMismatch as e:
        raise SchemaMismatch(e.field, f"{e.reason} (source {source.name}, table {name})") from e
    version, found = _noted(tables, name, source.name, number)
    if found != json.loads(_text(watermark)):
        log.info("another ingestion came first", extra={"table": name, "source": source.name})
        return Ingested(tables.version(name, version), source.name, 0, found)
    added = int(tables.metadata(name, version).get("rows", 0))
    log.info("ingested", extra={"table": name, "source": source.name, "rows": added, "table_version": version})
    return Ingested(tables.version(name, version), source.name, added, found)


def watermark(tables: Tables, name: str, source: str) -> dict[str, Any] | None:
    """Up to where ``source`` was ingested into table ``name``; None: never."""
    last = tables.transaction_version(name, f"ingest:{source}")
    return None if last is None else _noted(tables, name, source, last)[1]


def require_package(module: str, package: str, what: str) -> None:
    """Raises `InvalidInput` naming what to install where ``module`` cannot be imported."""
    import importlib.util

    try:
        found = importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of a parent package
        found = False
    if not found:
        raise InvalidInput("source", f"{what} needs the package {package} on every node: pip install {package}")


def _make(tables: Tables, name: str, source: Source, checks: Checks | None) -> None:
    """The table, empty, where there is none yet."""
    try:
        tables.info(name)
    except NotFound:
        try:
            tables.create(name, source.schema(), checks=checks)
        except AlreadyExists:
            log.info("another writer made the table first", extra={"table": name})


def _noted(tables: Tables, name: str, source: str, number: int) -> tuple[int, dict[str, Any]]:
    """The version and the watermark of one ingestion."""
    for version in range(tables.version(name).version, -1, -1):
        try:
            noted = tables.metadata(name, version)
        except NotFound:
            break
        if noted.get(_SOURCE) == source and noted.get(_NUMBER) == str(number):
            return version, json.loads(noted[_WATERMARK])
    raise Conflict(
        f"the log of table {name!r} no longer holds the watermark of source {source!r} (ingestion {number}); "
        "ingest into a new table, or under a new source name from a watermark of your own"
    )


def _text(watermark: Watermark) -> str:
    return json.dumps(watermark, sort_keys=True, separators=(",", ":"), allow_nan=False)
