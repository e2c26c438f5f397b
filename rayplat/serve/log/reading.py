"""Reading the inference log for verdicts: rows of a model in a time, with the columns asked for as plain columns.

Logs of an earlier release lack the columns that tell variants apart; they have nothing to compare, and say so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from rayplat.errors import InvalidInput, NotFound
from rayplat.serve.log.schema import TABLE
from rayplat.types import TableVersion

if TYPE_CHECKING:
    import pandas as pd

    from rayplat.data.tables import Tables

COLUMNS = ("request_id", "row", "received_at", "version", "status", "latency_ms", "prediction", "answer")
_MAPS = ("numeric", "categorical")


@dataclass(frozen=True)
class Window:
    """Requests of ``model`` received in ``since <= t < until`` (UTC)."""

    model: str
    since: datetime
    until: datetime

    def __post_init__(self) -> None:
        if self.since.tzinfo is None or self.until.tzinfo is None:
            raise InvalidInput("since", "it needs a time zone, for example 2026-11-01T00:00:00Z")
        if self.since >= self.until:
            raise InvalidInput("since", f"{self.since.isoformat()} is not before {self.until.isoformat()}")

    def rows(self) -> pc.Expression:
        """True for them. The day is said too: files of other days are not even opened."""
        kind = pa.timestamp("us", tz="UTC")
        received, day = pc.field("received_at"), pc.field("date")
        return (
            (pc.field("model") == self.model)
            & (received >= pa.scalar(self.since, kind))
            & (received < pa.scalar(self.until, kind))
            & (day >= pa.scalar(pc.cast(pa.scalar(self.since, kind), pa.date32()).as_py(), pa.date32()))
            & (day <= pa.scalar(pc.cast(pa.scalar(self.until, kind), pa.date32()).as_py(), pa.date32()))
        )


class LogReader:
    """One version of the log, the latest when this is made. Raises `NotFound` where there is no log, or none that
    tells variants apart."""

    def __init__(self, tables: Tables) -> None:
        if TABLE not in tables.names():
            raise NotFound("table", TABLE, "nothing has been logged yet: serve a model and send it requests")
        self.version: TableVersion = tables.version(TABLE)
        self._tables = tables
        self._names = set(tables.scan(self.version).schema.names)
        if not {"variant", "role", "status", "answer"} <= self._names:
            hint = "the log was written by an earlier release: it has the columns from the next request on"
            raise NotFound("variants in the inference log", TABLE, hint)

    def frame(
        self, window: Window, where: pc.Expression, inputs: Sequence[str] = (), more: Sequence[str] = ()
    ) -> pd.DataFrame:
        """The rows for which ``where`` is true: `COLUMNS`, those of ``more``, and one ``input:<name>`` for each of
        ``inputs`` (its number or its text, None where a row has none)."""
        columns = [*COLUMNS, *more, *(_MAPS if inputs else ())]
        rows = self._tables.read(self.version, columns=columns, where=window.rows() & where)
        for name in inputs:
            number = pc.map_lookup(rows.column("numeric"), query_key=name, occurrence="first")
            text = pc.map_lookup(rows.column("categorical"), query_key=name, occurrence="first")
            rows = rows.append_column(f"input:{name}", _shown(number, text))
        return rows.drop_columns(list(_MAPS) if inputs else []).to_pandas()


def _shown(number: pa.ChunkedArray, text: pa.ChunkedArray) -> pa.Array:
    texts = [
        found if found is not None else None if value is None else f"{value:g}"
        for value, found in zip(number.to_pylist(), text.to_pylist(), strict=True)
    ]
    return pa.array(texts, pa.string())
