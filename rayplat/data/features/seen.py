"""What a pass over the rows of a source found out: how far its history reaches, and values out of their time.

Blocks are looked at where they are; the findings are small and merge.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta

import pyarrow as pa
import pyarrow.compute as pc

from rayplat.data.features.declarations import FeatureView
from rayplat.errors import InvalidInput

_SHOWN = 3


@dataclass(frozen=True)
class Span:
    """The first and last moment of a clock, in microseconds since the epoch; None where there is no event."""

    first: int | None = None
    last: int | None = None

    @staticmethod
    def of(times: pa.ChunkedArray) -> Span:
        ends = pc.min_max(times.cast(pa.int64()))
        return Span(ends["min"].as_py(), ends["max"].as_py())

    def merge(self, other: Span) -> Span:
        if self.first is None or self.last is None or other.first is None or other.last is None:
            return other if self.first is None else self
        return Span(min(self.first, other.first), max(self.last, other.last))

    @property
    def length(self) -> timedelta:
        """From the first event to the last; nothing where there is none."""
        return timedelta(microseconds=(self.last or 0) - (self.first or 0))


@dataclass(frozen=True)
class Leak:
    """``rows`` values of ``column`` that were used as of ``clock`` but known at ``known_at``, later or never."""

    column: str
    known_at: str
    clock: str
    rows: int
    samples: tuple[str, ...]


@dataclass(frozen=True)
class Seen:
    """``rows`` counts the source rows that count for the view; ``spans`` are by clock."""

    rows: int = 0
    spans: Mapping[str, Span] = field(default_factory=dict)
    leaks: tuple[Leak, ...] = ()

    @staticmethod
    def merged(parts: Iterable[Seen]) -> Seen:
        rows, spans, leaks = 0, dict[str, Span](), dict[tuple[str, str, str], Leak]()
        for part in parts:
            rows += part.rows
            for clock, span in part.spans.items():
                spans[clock] = spans.get(clock, Span()).merge(span)
            for leak in part.leaks:
                where = (leak.column, leak.known_at, leak.clock)
                before = leaks.get(where, replace(leak, rows=0, samples=()))
                samples = (before.samples + leak.samples)[:_SHOWN]
                leaks[where] = replace(leak, rows=before.rows + leak.rows, samples=samples)
        return Seen(rows, spans, tuple(leaks.values()))

    def refuse_future(self, view: FeatureView) -> None:
        """Raises `InvalidInput` where a value was used before it was known."""
        for leak in self.leaks:
            raise InvalidInput(
                f"feature view {view.name}",
                f"reads its own future: {leak.column!r} is known at {leak.known_at!r} but used as of {leak.clock!r}, "
                f"which is earlier in {leak.rows} rows, e.g. {'; '.join(leak.samples)}",
            )

    def refuse_short_history(self, view: FeatureView) -> None:
        """Raises `InvalidInput` for a window that is longer than the events reach back."""
        for window in view.windows:
            span = self.spans.get(window.event_time or view.event_time, Span())
            if window.length > span.length:
                raise InvalidInput(
                    f"feature view {view.name}",
                    f"window {window.name!r} looks back {window.length}, but the events of {view.source!r} span only "
                    f"{span.length}: its values would be cut off; shorten it or allow_short_history",
                )
