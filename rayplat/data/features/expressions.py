"""Expressions over the columns of one row: a JSON tree that Arrow's kernels compute, the same ones everywhere.

``(col("dep_delay") > 15) & ~col("cancelled")`` is a value: it can be compared, stored and digested, and it knows no
table, store or Ray. `Expr.evaluate` computes it on columns in memory (a block of a backfill, a batch of pushed
events, the features of one request), `Expr.to_arrow` gives the same computation to a scan.

Null in, null out, but for ``is_null``, ``coalesce``, ``fill_null``, ``if_else`` and Kleene logic of ``& |``; NaN is a
number. Whole numbers that overflow are refused. ``/`` divides as floats (by zero: infinite or NaN). Times are UTC.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from rayplat.data.features.operations import EPOCH, MICROSECOND, arrow_type, check, columns, compute, shown
from rayplat.errors import InvalidInput, SchemaMismatch

Plain = bool | int | float | str | datetime | timedelta | None


@dataclass(frozen=True, eq=False, repr=False)
class Expr:
    """One expression. Build it with `col`, `lit`, operators, methods and the functions of this module.

    ``==`` makes an expression; as a truth value that one says whether both sides are the same expression. Any other
    comparison has no truth value: combine with ``& | ~``.
    """

    tree: Mapping[str, Any]

    def __repr__(self) -> str:
        return shown(self.tree)

    def __hash__(self) -> int:
        return hash(json.dumps(self.tree, sort_keys=True))

    def __bool__(self) -> bool:
        if self.tree.get("op") in ("equal", "not_equal"):
            left, right = (json.dumps(side, sort_keys=True) for side in self.tree["args"])
            same = left == right
            return same if self.tree["op"] == "equal" else not same
        raise InvalidInput("expression", f"{self} has no truth value of its own; combine with & | ~")

    def __add__(self, other: Expr | Plain) -> Expr:
        return _call("add", self, other)

    def __radd__(self, other: Expr | Plain) -> Expr:
        return _call("add", other, self)

    def __sub__(self, other: Expr | Plain) -> Expr:
        return _call("subtract", self, other)

    def __rsub__(self, other: Expr | Plain) -> Expr:
        return _call("subtract", other, self)

    def __mul__(self, other: Expr | Plain) -> Expr:
        return _call("multiply", self, other)

    def __rmul__(self, other: Expr | Plain) -> Expr:
        return _call("multiply", other, self)

    def __truediv__(self, other: Expr | Plain) -> Expr:
        return _call("divide", self, other)

    def __rtruediv__(self, other: Expr | Plain) -> Expr:
        return _call("divide", other, self)

    def __neg__(self) -> Expr:
        return _call("negate", self)

    def __abs__(self) -> Expr:
        return _call("abs", self)

    def __eq__(self, other: object) -> Expr:  # type: ignore[override]
        return _call("equal", self, other)

    def __ne__(self, other: object) -> Expr:  # type: ignore[override]
        return _call("not_equal", self, other)

    def __lt__(self, other: Expr | Plain) -> Expr:
        return _call("less", self, other)

    def __le__(self, other: Expr | Plain) -> Expr:
        return _call("less_equal", self, other)

    def __gt__(self, other: Expr | Plain) -> Expr:
        return _call("greater", self, other)

    def __ge__(self, other: Expr | Plain) -> Expr:
        return _call("greater_equal", self, other)

    def __and__(self, other: Expr | Plain) -> Expr:
        return _call("and", self, other)

    def __or__(self, other: Expr | Plain) -> Expr:
        return _call("or", self, other)

    def __invert__(self) -> Expr:
        return _call("not", self)

    def is_null(self) -> Expr:
        return _call("is_null", self)

    def is_nan(self) -> Expr:
        return _call("is_nan", self)

    def is_in(self, *values: Plain) -> Expr:
        """Whether it is one of ``values``; null is in none."""
        found = lit(False)
        for value in values:
            found = found | (self == value)
        return coalesce(found, False)

    def fill_null(self, value: Expr | Plain) -> Expr:
        return coalesce(self, value)

    def cast(self, dtype: str) -> Expr:
        """To an Arrow type by name (``double``, ``timestamp[us, tz=UTC]``); what does not fit is refused."""
        arrow_type(dtype)
        return _call("cast", self, dtype=dtype)

    def round(self, digits: int = 0) -> Expr:
        return _call("round", self, digits=digits)

    def seconds(self) -> Expr:
        """A difference of two times as a number of seconds (double)."""
        return _call("seconds", self)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns it reads, each once, in order."""
        return tuple(dict.fromkeys(columns(self.tree)))

    def to_dict(self) -> dict[str, Any]:
        return dict(self.tree)

    @staticmethod
    def from_dict(tree: Mapping[str, Any]) -> Expr:
        """Raises `InvalidInput` for an operation there is not."""
        check(tree)
        return Expr(tree)

    def to_arrow(self) -> pc.Expression:
        """The same as an Arrow expression, for scans and filters."""
        found = compute(self.tree, pc.field, pc.scalar)
        return found if isinstance(found, pc.Expression) else pc.scalar(found)

    def evaluate(self, rows: pa.Table | Mapping[str, Any], count: int | None = None) -> pa.Array | pa.ChunkedArray:
        """Its value for each row of ``rows``: a table, or arrays of ``count`` rows by column name.

        Raises `SchemaMismatch` for a column that is not there, `InvalidInput` where the types do not fit, a number
        overflows or a cast loses something.
        """
        names = rows.column_names if isinstance(rows, pa.Table) else list(rows)
        size = rows.num_rows if isinstance(rows, pa.Table) else count

        def column(name: str) -> Any:
            if name not in names:
                raise SchemaMismatch(name, f"no such column for {self}; there are {', '.join(names)}")
            return rows[name]

        try:
            found = compute(self.tree, column, pa.scalar)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as e:
            raise InvalidInput(f"expression {self}", str(e)) from e
        if isinstance(found, pa.Scalar):
            size = len(next(iter(rows.values()))) if size is None and isinstance(rows, Mapping) else size
            return pa.repeat(found, size)
        return found


def col(name: str) -> Expr:
    """The column ``name`` of the row."""
    return Expr({"col": name})


def lit(value: Plain) -> Expr:
    """A constant. Raises `InvalidInput` for what is no plain value (infinite and NaN included)."""
    if isinstance(value, datetime):
        moment = value if value.tzinfo else value.replace(tzinfo=UTC)
        return Expr({"lit": (moment - EPOCH) // MICROSECOND, "dtype": "timestamp[us, tz=UTC]"})
    if isinstance(value, timedelta):
        return Expr({"lit": value // MICROSECOND, "dtype": "duration[us]"})
    if value is not None and not isinstance(value, bool | int | float | str):
        raise InvalidInput("expression", f"{value!r} is no number, string, truth value, time, duration or None")
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidInput("expression", f"{value!r} is no constant; use is_nan() or a comparison")
    return Expr({"lit": value})


def if_else(condition: Expr, then: Expr | Plain, otherwise: Expr | Plain) -> Expr:
    """``then`` where ``condition`` is true, ``otherwise`` where it is false, null where it is null."""
    return _call("if_else", condition, then, otherwise)


def coalesce(*values: Expr | Plain) -> Expr:
    """The first that is not null."""
    return _call("coalesce", *values)


def least(*values: Expr | Plain) -> Expr:
    """The smallest; null where any is null."""
    return _call("least", *values)


def greatest(*values: Expr | Plain) -> Expr:
    """The largest; null where any is null."""
    return _call("greatest", *values)


def concat(*values: Expr | Plain, separator: str = "") -> Expr:
    """Strings joined by ``separator``; null where any is null."""
    return _call("concat", *values, separator=separator)


def log(value: Expr) -> Expr:
    """The natural logarithm; of zero minus infinity, of less NaN."""
    return _call("log", value)


def log1p(value: Expr) -> Expr:
    return _call("log1p", value)


def exp(value: Expr) -> Expr:
    return _call("exp", value)


def sqrt(value: Expr) -> Expr:
    """The square root; of less than zero NaN."""
    return _call("sqrt", value)


def power(value: Expr | Plain, exponent: Expr | Plain) -> Expr:
    """``value`` to the ``exponent``, as floats."""
    return _call("power", value, exponent)


def floor(value: Expr) -> Expr:
    return _call("floor", value)


def ceil(value: Expr) -> Expr:
    return _call("ceil", value)


def hour(moment: Expr, zone: str = "UTC") -> Expr:
    """The hour of the day, 0 to 23, in a time zone such as ``America/New_York``."""
    return _call("hour", moment, zone=zone)


def minute(moment: Expr, zone: str = "UTC") -> Expr:
    return _call("minute", moment, zone=zone)


def weekday(moment: Expr, zone: str = "UTC") -> Expr:
    """The day of the week, Monday 0 to Sunday 6."""
    return _call("weekday", moment, zone=zone)


def day(moment: Expr, zone: str = "UTC") -> Expr:
    """The day of the month, from 1."""
    return _call("day", moment, zone=zone)


def month(moment: Expr, zone: str = "UTC") -> Expr:
    return _call("month", moment, zone=zone)


def year(moment: Expr, zone: str = "UTC") -> Expr:
    return _call("year", moment, zone=zone)


def lower(text: Expr) -> Expr:
    return _call("lower", text)


def upper(text: Expr) -> Expr:
    return _call("upper", text)


def length(text: Expr) -> Expr:
    """How many characters."""
    return _call("length", text)


def contains(text: Expr, part: str) -> Expr:
    return _call("contains", text, part=part)


def starts_with(text: Expr, part: str) -> Expr:
    return _call("starts_with", text, part=part)


def _call(op: str, *args: object, **options: str | int) -> Expr:
    trees = [arg.tree if isinstance(arg, Expr) else lit(arg).tree for arg in args]  # type: ignore[arg-type]
    return Expr({"op": op, "args": trees, **({"options": options} if options else {})})
