"""How often each variant answered since the release in force began, how often it failed, and how long it took.

`Tally` counts on a host's loop; `VariantCounts` are added up over hosts. Latencies fall into buckets that grow by 20 %,
so a quantile of many hosts together is right to within that.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

BOUNDS_MS = tuple(0.05 * 1.2**i for i in range(80))  # 0.05 ms to 90 s; the last bucket is open
_OVERLOADED = 429


class Counting(Protocol):
    """Who else is told of each answer: the host's metrics."""

    def answered(self, variant: str, version: int, status: int, latency_ms: float) -> None: ...


@dataclass(frozen=True)
class VariantCounts:
    """``errors`` of ``requests`` ended with a 5xx or were refused as too many. ``latencies`` counts the answers, one
    number for each bucket that ends at `BOUNDS_MS` and one for what is longer."""

    requests: int = 0
    errors: int = 0
    latencies: tuple[int, ...] = (0,) * (len(BOUNDS_MS) + 1)

    @property
    def error_rate(self) -> float:
        return self.errors / self.requests if self.requests else 0.0

    @property
    def answers(self) -> int:
        return sum(self.latencies)

    def plus(self, other: VariantCounts) -> VariantCounts:
        both = tuple(a + b for a, b in zip(self.latencies, other.latencies, strict=True))
        return VariantCounts(self.requests + other.requests, self.errors + other.errors, both)

    def quantile_ms(self, q: float) -> float:
        """The end of the bucket that holds the ``q`` quantile of the answers; NaN without one."""
        wanted, seen = math.ceil(q * self.answers), 0
        for i, n in enumerate(self.latencies):
            seen += n
            if n and seen >= wanted:
                return BOUNDS_MS[i] if i < len(BOUNDS_MS) else math.inf
        return math.nan

    def slower(self, limit_ms: float) -> int:
        """Answers that certainly took longer than ``limit_ms``."""
        first = bisect_left(BOUNDS_MS, limit_ms) + 1  # the bucket that holds the limit may be on either side of it
        return sum(self.latencies[first:])


class Tally:
    """Counts one host's answers by variant. ``then`` is told of each as well. Counts begin anew with each release, so
    that they are about what is in force, and a controller that restarts needs no memory of its own."""

    def __init__(self, then: Counting | None = None) -> None:
        self.then = then
        self._generation = 0
        self._variants: dict[str, list[int]] = {}

    def answered(self, variant: str, version: int, status: int, latency_ms: float) -> None:
        """Count one. ``latency_ms`` is what the host that computed it took: the way there is not the variant's."""
        if self.then is not None:
            self.then.answered(variant, version, status, latency_ms)
        found = self._variants.get(variant)
        if found is None:
            found = self._variants[variant] = [0] * (len(BOUNDS_MS) + 3)
        found[0] += 1
        if status >= 500 or status == _OVERLOADED:
            found[1] += 1
        elif status < 400:
            found[2 + bisect_left(BOUNDS_MS, latency_ms)] += 1

    def restart(self, generation: int) -> None:
        """Begin anew, for the release of ``generation``."""
        self._generation, self._variants = generation, {}

    def stats(self) -> dict[str, Any]:
        """``generation`` and, by variant, what `read` reads; with p50 and p99 for people."""
        return {
            "generation": self._generation,
            "variants": {name: _told(_counts(found)) for name, found in self._variants.items()},
        }


def read(stats: Sequence[Mapping[str, Any]], generation: int) -> dict[str, VariantCounts]:
    """The counts of all hosts together, by variant; hosts that are not at ``generation`` are left out."""
    found: dict[str, VariantCounts] = {}
    for host in stats:
        if host.get("generation") != generation:
            continue
        for variant, told in host.get("variants", {}).items():
            counts = VariantCounts(told["requests"], told["errors"], tuple(told["latencies"]))
            found[variant] = found.get(variant, VariantCounts()).plus(counts)
    return found


def _counts(found: list[int]) -> VariantCounts:
    return VariantCounts(found[0], found[1], tuple(found[2:]))


def _told(counts: VariantCounts) -> dict[str, Any]:
    p50, p99 = counts.quantile_ms(0.5), counts.quantile_ms(0.99)
    return {
        "requests": counts.requests,
        "errors": counts.errors,
        "p50_ms": None if math.isnan(p50) else p50,
        "p99_ms": None if math.isnan(p99) else p99,
        "latencies": list(counts.latencies),
    }
