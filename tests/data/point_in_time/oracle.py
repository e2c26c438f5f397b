"""Two oracles for the join: its contract row by row, and DuckDB; and generated sides that hold every kind of edge."""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, datetime, timedelta
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

TIME = pa.timestamp("us", tz="UTC")
BASE = int(datetime(2013, 1, 1, tzinfo=UTC).timestamp()) * 1_000_000


def moments(values: np.ndarray, null: np.ndarray | None = None) -> pa.Array:
    """Microseconds after `BASE` as timestamps."""
    return pa.array(np.asarray(values) + BASE, TIME, mask=null)


def keys_of(kind: str, numbers: np.ndarray, null: np.ndarray) -> dict[str, pa.Array]:
    """Key columns ``k`` (and ``k2``) of a kind for key numbers."""
    if kind == "string":
        return {"k": pa.array([f"key {'x' * (n % 11)}{n}" for n in numbers.tolist()], mask=null)}
    if kind == "wide":
        return {"k": pa.array(numbers * 0x1234567890ABC - 2**61, mask=null)}
    if kind == "composite":
        second = pa.array([chr(97 + n) for n in (numbers // 7 % 5).tolist()], mask=null[::-1])
        return {"k": pa.array(numbers // 35 * 7 + numbers % 7, pa.int32(), mask=null), "k2": second}
    return {"k": pa.array(numbers, pa.int64(), mask=null)}


def sides(
    rng: np.random.Generator, kind: str, spine_rows: int, feature_rows: int, *, keys: int = 200, hot: float = 0.0
) -> tuple[pa.Table, pa.Table]:
    """A spine (keys, event_time, row) and features (keys, event_time, created, value, number). Few moments: ties,
    ends of the ttl and duplicates come by the thousand. ``hot`` is the share of rows that key 0 has. Only the
    second half of the rows holds nulls."""

    def numbers(rows: int, known: int) -> np.ndarray:
        return np.where(rng.random(rows) < hot, 0, rng.integers(0, known, rows))

    def nulls(rows: int, share: float = 0.04) -> np.ndarray:
        return (rng.random(rows) < share) & (np.arange(rows) >= rows // 2)

    span = max(4, 6 * feature_rows // keys)
    spine = {
        **keys_of(kind, numbers(spine_rows, keys + keys // 10), nulls(spine_rows)),
        "event_time": moments(rng.integers(-span // 10, span, spine_rows), nulls(spine_rows)),
        "row": pa.array(np.arange(spine_rows)),
    }
    happened = rng.integers(0, span, feature_rows)
    value = np.where(rng.random(feature_rows) < 0.05, np.nan, rng.random(feature_rows))
    features = {
        **keys_of(kind, numbers(feature_rows, keys), nulls(feature_rows)),
        "event_time": moments(happened, nulls(feature_rows)),
        "created": moments(happened + rng.integers(-2, span // 4 + 1, feature_rows) // 2 * 2, nulls(feature_rows)),
        "value": pa.array(value, mask=nulls(feature_rows)),
        "number": pa.array(np.arange(feature_rows)),
    }
    return pa.table(spine), pa.table(features)


def brute_force(
    spine: pa.Table,
    features: pa.Table,
    keys: tuple[str, ...],
    *,
    ttl: timedelta | None = None,
    created: bool = False,
    known_by: bool = False,
) -> list[int | None]:
    """The ``number`` of the winning feature row of each spine row, by definition."""
    reach = None if ttl is None else ttl // timedelta(microseconds=1)
    of_key: dict[tuple[Any, ...], list[tuple[int, int, int]]] = defaultdict(list)
    for *key, at, since, number in _rows(features, (*keys, "event_time", "created", "number")):
        if None not in key and at is not None:
            of_key[tuple(key)].append((at, -(2**63) if since is None or not created else since, number))
    winners: list[int | None] = []
    for *key, at in _rows(spine, (*keys, "event_time")):
        known = [
            row
            for row in of_key.get(tuple(key), [])
            if at is not None and row[0] <= at and (reach is None or row[0] >= at - reach)
            if not known_by or row[1] <= at
        ]
        winners.append(max(known)[2] if known else None)
    return winners


def _rows(table: pa.Table, names: tuple[str, ...]) -> Any:
    columns = []
    for name in names:
        column = table[name]
        columns.append((column.cast(pa.int64()) if pa.types.is_timestamp(column.type) else column).to_pylist())
    return zip(*columns, strict=True)


def duckdb_asof(
    spine: pa.Table, features: pa.Table, keys: tuple[str, ...], *, ttl: timedelta | None, created: bool
) -> pa.Array:
    """The same by DuckDB: ties settled by an aggregate first, then its ASOF join."""
    reach = 2**62 if ttl is None else ttl // timedelta(microseconds=1)
    same = " and ".join(f"e.{k} = f.{k}" for k in keys)
    names = ", ".join(keys)
    tie = "struct_pack(c := coalesce(epoch_us(created), -4611686018427387904), n := number)" if created else "number"
    known = f"where {' and '.join(f'{k} is not null' for k in keys)} and event_time is not null"
    query = f"""
        with f as (select {names}, epoch_us(event_time) as at, arg_max(number, {tie}) as number
                   from features {known} group by all),
             e as (select {names}, epoch_us(event_time) as at, row from spine)
        select case when f.at >= e.at - {reach} then f.number end as number
        from e asof left join f on {same} and e.at >= f.at order by e.row"""
    with duckdb.connect() as connection:
        connection.register("spine", spine)
        connection.register("features", features)
        return connection.sql(query).to_arrow_table()["number"].combine_chunks()
