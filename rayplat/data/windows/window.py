"""Declarations of trailing-window features. Values only: no data.

A feature is ``function`` of ``column`` over the events in ``(T - length, T]``.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

import pyarrow as pa

from rayplat.errors import InvalidInput

FUNCTIONS = (
    "count",
    "sum",
    "mean",
    "min",
    "max",
    "stddev",
    "last",
    "distinct_count",
    "approx_distinct_count",
)
"""What a window can compute. An empty window has count, sum and distinct counts 0 and all others null."""

COUNTS = ("count", "distinct_count", "approx_distinct_count")
ORDERED = ("min", "max", "last")
VALUE_DTYPES = ("double", "int64", "bool", "string", "timestamp[us, tz=UTC]")

MOMENT = pa.timestamp("us", tz="UTC")
MICROSECOND = timedelta(microseconds=1)
LONGEST = timedelta(days=36_525)

_NEEDS = {
    "count": (),
    "sum": ("sum",),
    "mean": ("sum",),
    "min": ("min",),
    "max": ("max",),
    "stddev": ("sum", "squares", "min", "max"),
    "last": ("last",),
    "distinct_count": ("distinct",),
    "approx_distinct_count": ("sketch",),
}


@dataclass(frozen=True)
class Window:
    """One feature: ``function`` of ``column`` over the trailing ``length``, from 1 microsecond to 100 years.

    ``event_time`` is the clock: the column that says when the value became known; None takes the view's own. Null
    and NaN values are no events: ``count`` counts the others. ``stddev`` is that of a sample (n - 1), null for fewer
    than two. Of events of one moment, ``last`` takes the largest value, whatever the order of arrival. ``dtype``
    names the column's type for ``min``, ``max`` and ``last`` of anything but numbers (which give doubles).
    """

    name: str
    column: str
    function: str
    length: timedelta
    event_time: str | None = None
    dtype: str | None = None

    def __post_init__(self) -> None:
        what = f"window {self.name}"
        if not self.name or not self.column:
            raise InvalidInput(what, "a name and a column are needed")
        if self.function not in FUNCTIONS:
            raise InvalidInput(what, f"function {self.function!r} is none of {', '.join(FUNCTIONS)}")
        if not timedelta(0) < self.length <= LONGEST:
            raise InvalidInput(what, f"length must be positive (1 microsecond to 100 years), got {self.length}")
        if self.dtype is not None and (self.function not in ORDERED or self.dtype not in VALUE_DTYPES):
            raise InvalidInput(what, f"dtype goes with min, max and last and is one of {', '.join(VALUE_DTYPES)}")
        if self.function in ("min", "max") and self.dtype in ("string", "bool"):
            raise InvalidInput(what, f"{self.function} is for numbers and timestamps, not {self.dtype}")

    @property
    def result_dtype(self) -> str:
        """The feature's type, one of `VALUE_DTYPES`: counts are int64, all else double unless ``dtype`` says more."""
        if self.function in COUNTS:
            return "int64"
        return self.dtype or "double"

    @property
    def length_us(self) -> int:
        return self.length // MICROSECOND

    @property
    def needs(self) -> tuple[str, ...]:
        """The parts of a tile's state that this function is computed from, besides the count."""
        return _NEEDS[self.function]
