"""Row-level checks on what is written: nulls, ranges, uniqueness, freshness. Knows Arrow tables, and nothing of
files or commits: the write paths call it, on the driver or on the workers, and merge what each block found.

::

    found = inspect(block, checks)          # on each worker, blocks in the types of the table
    found = found.merge(other)              # in the order of the rows
    found = found.seen(("id",), keys)       # uniqueness against rows that the table already holds
    found.raise_if_bad("flights")           # BadRows: all broken rules, counted and sampled
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rayplat.errors import BadRows, InvalidInput, SchemaMismatch

SAMPLES = 5
_SAMPLED_COLUMNS = 12
_LISTED_KEYS = 1000

Bound = int | float | str | date | datetime | Decimal


@dataclass(frozen=True)
class Range:
    """``low <= column <= high``; a missing bound is no bound. Nulls are left to ``not_null``; NaN is in no range.
    A moment without a zone is UTC; moments and dates may be given as text (ISO 8601)."""

    column: str
    low: Bound | None = None
    high: Bound | None = None

    def __post_init__(self) -> None:
        if self.low is None and self.high is None:
            raise InvalidInput("range", f"{self.column!r} has neither low nor high")


@dataclass(frozen=True)
class Fresh:
    """The newest moment of ``column`` in a batch is at most ``within`` ago. An empty batch is fresh."""

    column: str
    within: timedelta

    def __post_init__(self) -> None:
        if self.within <= timedelta(0):
            raise InvalidInput("fresh", f"{self.column!r}: within must be positive, not {self.within}")


@dataclass(frozen=True)
class Checks:
    """What every row must fulfil. ``unique`` holds one tuple of columns per key: no two rows of the table have equal
    ones. As in SQL, a key with a null in it equals no other."""

    not_null: tuple[str, ...] = ()
    ranges: tuple[Range, ...] = ()
    unique: tuple[tuple[str, ...], ...] = ()
    fresh: Fresh | None = None

    def __post_init__(self) -> None:
        for key in self.unique:
            if isinstance(key, str) or not key:
                raise InvalidInput("unique", f"{key!r} is no tuple of column names")

    def __bool__(self) -> bool:
        return bool(self.not_null or self.ranges or self.unique or self.fresh)

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns that a rule speaks of, each once."""
        named = [*self.not_null, *(r.column for r in self.ranges), *(c for key in self.unique for c in key)]
        return tuple(dict.fromkeys(named + ([self.fresh.column] if self.fresh else [])))

    def also(self, other: Checks | None) -> Checks:
        """Both: the rules stored with a table and those of one write. Of two ``fresh`` rules ``other``'s holds."""
        if other is None:
            return self
        return Checks(
            tuple(dict.fromkeys(self.not_null + other.not_null)),
            tuple(dict.fromkeys(self.ranges + other.ranges)),
            tuple(dict.fromkeys(self.unique + other.unique)),
            other.fresh or self.fresh,
        )

    def fit(self, schema: pa.Schema) -> None:
        """Raises `SchemaMismatch` naming the first column that ``schema`` lacks or that a rule cannot judge."""
        for name in self.columns:
            if name not in schema.names:
                raise SchemaMismatch(name, f"a check names it, and the columns are {', '.join(schema.names)}")
        for rule in self.ranges:
            for bound in (rule.low, rule.high):
                _bound(bound, schema.field(rule.column))
        for name in dict.fromkeys(c for key in self.unique for c in key):
            if pa.types.is_nested(schema.field(name).type):
                raise SchemaMismatch(name, f"{schema.field(name).type} cannot be a unique key")
        if self.fresh and not _is_time(schema.field(self.fresh.column).type):
            dtype = schema.field(self.fresh.column).type
            raise SchemaMismatch(self.fresh.column, f"freshness needs a timestamp or date, and it is {dtype}")

    def to_dict(self) -> dict[str, Any]:
        """The same as JSON values."""
        ranges = [{"column": r.column, "low": _to_json(r.low), "high": _to_json(r.high)} for r in self.ranges]
        fresh = {"column": self.fresh.column, "within_s": self.fresh.within.total_seconds()} if self.fresh else None
        return {
            "not_null": list(self.not_null),
            "ranges": ranges,
            "unique": [list(key) for key in self.unique],
            "fresh": fresh,
        }

    @classmethod
    def from_dict(cls, tree: Mapping[str, Any]) -> Checks:
        """The inverse of `to_dict`. Raises `InvalidInput` for anything else."""
        unknown = sorted(set(tree) - {"not_null", "ranges", "unique", "fresh"})
        if unknown:
            raise InvalidInput("checks", f"unknown rule {unknown[0]!r}; there are not_null, ranges, unique, fresh")
        try:
            fresh = tree.get("fresh")
            return cls(
                tuple(tree.get("not_null") or ()),
                tuple(Range(r["column"], _bare(r.get("low")), _bare(r.get("high"))) for r in tree.get("ranges") or ()),
                tuple((key,) if isinstance(key, str) else tuple(key) for key in tree.get("unique") or ()),
                Fresh(fresh["column"], timedelta(seconds=fresh["within_s"])) if fresh else None,
            )
        except (KeyError, TypeError, ValueError, ArithmeticError, AttributeError) as e:
            raise InvalidInput("checks", f"not understood: {type(e).__name__} {e}") from e


@dataclass(frozen=True)
class Broken:
    """How many rows break one rule, the positions of the first of them in the batch, and their values."""

    count: int = 0
    rows: tuple[int, ...] = ()
    samples: tuple[dict[str, Any], ...] = ()

    def merge(self, other: Broken) -> Broken:
        rows, samples = (self.rows + other.rows)[:SAMPLES], (self.samples + other.samples)[:SAMPLES]
        return Broken(self.count + other.count, rows, samples)


@dataclass(frozen=True)
class Findings:
    """What `inspect` found in some rows; can be sent and merged. ``broken`` is per rule of ``not_null`` and ``ranges``,
    ``keys`` holds the key columns of each ``unique`` rule and ``taken`` those that the table has already."""

    checks: Checks
    rows: int
    broken: tuple[Broken, ...]
    keys: tuple[pa.Table, ...]
    taken: tuple[pa.Table, ...]
    newest: datetime | None = None

    def merge(self, other: Findings) -> Findings:
        """Those of both; ``other``'s rows come after these. Both are of the same checks."""
        moments = [m for m in (self.newest, other.newest) if m is not None]
        return Findings(
            self.checks,
            self.rows + other.rows,
            tuple(a.merge(b) for a, b in zip(self.broken, other.broken, strict=True)),
            tuple(pa.concat_tables([a, b]) for a, b in zip(self.keys, other.keys, strict=True)),
            tuple(pa.concat_tables([a, b]) for a, b in zip(self.taken, other.taken, strict=True)),
            max(moments, default=None),
        )

    def reach(self, key: Sequence[str]) -> pc.Expression:
        """Holds for all rows of a table that can have one of the keys found: what has to be read for `seen`."""
        found, holds = self.keys[self.checks.unique.index(tuple(key))], pc.scalar(True)
        for name in key if found.num_rows else ():
            values = found[name]
            if found.num_rows <= _LISTED_KEYS:
                holds = holds & pc.field(name).isin(values.combine_chunks())
            elif not pa.types.is_boolean(values.type):
                ends = pc.min_max(values)
                holds = holds & (pc.field(name) >= ends["min"]) & (pc.field(name) <= ends["max"])
        return holds

    def seen(self, key: Sequence[str], existing: pa.Table) -> Findings:
        """With ``existing``, rows (their key columns suffice) that the table holds beside the batch. May be called
        once per file: no row may come twice."""
        at = self.checks.unique.index(tuple(key))
        wanted, names = self.keys[at], list(key)
        others = existing.select(names).cast(wanted.schema)
        both = wanted.join(others, keys=names, join_type="left semi").select(names) if others.num_rows else others
        taken = pa.concat_tables([self.taken[at], both.group_by(names).aggregate([]).cast(wanted.schema)])
        return replace(self, taken=(*self.taken[:at], taken, *self.taken[at + 1 :]))

    def violations(self, now: datetime | None = None) -> list[dict[str, Any]]:
        """One JSON object per broken rule: ``rule``, ``column``, ``count``, ``rows`` (positions in the batch, where
        known), ``samples`` (values of at most 5 rows)."""
        rules = [("not_null", name) for name in self.checks.not_null] + [
            (_text(r), r.column) for r in self.checks.ranges
        ]
        found = [_violation(rule, name, b) for (rule, name), b in zip(rules, self.broken, strict=True) if b.count]
        for key, keys, taken in zip(self.checks.unique, self.keys, self.taken, strict=True):
            repeated = _repeated(keys, taken)
            if repeated.count:
                found.append(_violation("unique", ", ".join(key), repeated))
        fresh, now = self.checks.fresh, now or datetime.now(UTC)
        if fresh and self.rows and (self.newest is None or self.newest < now - fresh.within):
            newest = {fresh.column: None if self.newest is None else self.newest.isoformat()}
            found.append(_violation(f"fresh within {fresh.within}", fresh.column, Broken(self.rows, (), (newest,))))
        return found

    def raise_if_bad(self, table: str, now: datetime | None = None) -> None:
        """Raises `BadRows` with all broken rules."""
        found = self.violations(now)
        if found:
            raise BadRows(f"table {table}", self.rows, found)


def inspect(rows: pa.Table, checks: Checks, offset: int = 0) -> Findings:
    """What of ``rows`` breaks ``checks``; ``offset`` is the position of the first row in its batch. Raises
    `SchemaMismatch` where a check names a column that is not there or that it cannot judge."""
    checks.fit(rows.schema)
    shown = [*checks.columns, *(n for n in rows.column_names if n not in checks.columns)][:_SAMPLED_COLUMNS]
    sampled = rows.select(shown)
    broken = [_broken(sampled, _nulls(rows[name]), offset) for name in checks.not_null]
    broken += [_broken(sampled, _outside(rows, rule), offset) for rule in checks.ranges]
    keys = tuple(rows.select(list(key)).replace_schema_metadata().drop_null() for key in checks.unique)
    newest = _moment(pc.max(rows[checks.fresh.column]).as_py()) if checks.fresh else None
    return Findings(checks, rows.num_rows, tuple(broken), keys, tuple(k.schema.empty_table() for k in keys), newest)


def _nulls(column: pa.ChunkedArray) -> pa.ChunkedArray | None:
    return pc.is_null(column) if column.null_count else None


def _outside(rows: pa.Table, rule: Range) -> pa.ChunkedArray | None:
    """Which rows lie outside; None: none."""
    column, field = rows[rule.column], rows.schema.field(rule.column)
    inside = None
    for bound, holds in ((rule.low, pc.greater_equal), (rule.high, pc.less_equal)):
        if bound is not None:
            ok = holds(column, _bound(bound, field))
            inside = ok if inside is None else pc.and_(inside, ok)
    return pc.fill_null(pc.invert(inside), False)


def _broken(sampled: pa.Table, bad: pa.ChunkedArray | None, offset: int) -> Broken:
    count = 0 if bad is None else int(pc.sum(bad).as_py() or 0)
    if bad is None or not count:
        return Broken()
    first = np.flatnonzero(bad.to_numpy())[:SAMPLES]
    samples = tuple(_plain(row) for row in sampled.take(pa.array(first)).to_pylist())
    return Broken(count, tuple(int(i) + offset for i in first), samples)


def _repeated(keys: pa.Table, taken: pa.Table) -> Broken:
    """Rows whose key an earlier row of the batch, or a row of the table, has already."""
    names = keys.column_names
    counts = keys.group_by(names).aggregate([([], "count_all")])
    twice = counts.filter(pc.greater(counts["count_all"], 1))
    known = taken.group_by(names).aggregate([])
    surplus = keys.num_rows - counts.num_rows + known.num_rows
    shown = pa.concat_tables([known.select(names), twice.select(names).cast(known.select(names).schema)])
    samples = shown.group_by(names, use_threads=False).aggregate([]).slice(0, SAMPLES).to_pylist()
    return Broken(surplus, (), tuple(_plain(row) for row in samples)) if surplus else Broken()


def _violation(rule: str, column: str, broken: Broken) -> dict[str, Any]:
    rows, samples = list(broken.rows), list(broken.samples)
    return {"rule": rule, "column": column, "count": broken.count, "rows": rows, "samples": samples}


def _text(rule: Range) -> str:
    low, high = (None if b is None else str(b) for b in (rule.low, rule.high))
    if high is None:
        return f"at least {low}"
    return f"at most {high}" if low is None else f"between {low} and {high}"


def _bound(bound: Bound | None, field: pa.Field) -> pa.Scalar | None:
    """``bound`` as a value to compare with ``field``."""
    if bound is None:
        return None
    dtype = field.type
    try:
        if pa.types.is_timestamp(dtype):
            moment = _moment(bound)
            return pa.scalar(moment if dtype.tz else moment and moment.replace(tzinfo=None), dtype)
        if pa.types.is_date(dtype) and isinstance(bound, str):
            bound = date.fromisoformat(bound)
        number = pa.types.is_integer(dtype) or pa.types.is_floating(dtype) or pa.types.is_decimal(dtype)
        if number and isinstance(bound, int | float | Decimal) and not isinstance(bound, bool):
            return pa.scalar(bound)
        if not number and not pa.types.is_nested(dtype):
            return pa.scalar(bound, dtype)
    except (pa.ArrowException, TypeError, ValueError) as e:
        raise SchemaMismatch(field.name, f"{dtype} cannot be compared with {bound!r}: {e}") from e
    raise SchemaMismatch(field.name, f"{dtype} cannot be compared with {bound!r}")


def _moment(value: Any) -> datetime | None:
    if value is None:
        return None
    if isinstance(value, datetime):
        return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day, tzinfo=UTC)
    if isinstance(value, str):
        return _moment(datetime.fromisoformat(value))
    raise TypeError(f"{value!r} is no moment")


def _is_time(dtype: pa.DataType) -> bool:
    return bool(pa.types.is_timestamp(dtype) or pa.types.is_date(dtype))


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """Values that JSON can hold."""
    return {k: v if v is None or isinstance(v, bool | int | str) else _plain_value(v) for k, v in row.items()}


def _plain_value(value: Any) -> Any:
    if isinstance(value, float):
        return value if np.isfinite(value) else str(value)
    return value.isoformat() if isinstance(value, date) else str(value)


def _to_json(bound: Bound | None) -> Any:
    for kind in (datetime, date):  # a datetime is a date too
        if isinstance(bound, kind):
            return {kind.__name__: bound.isoformat()}
    return {"decimal": str(bound)} if isinstance(bound, Decimal) else bound


def _bare(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    (kind, text), *_ = value.items()
    readers: dict[str, Callable[[str], Bound]] = {"datetime": datetime.fromisoformat, "date": date.fromisoformat}
    return readers.get(kind, Decimal)(text)
