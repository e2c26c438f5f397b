"""What a host counts, and how Prometheus reads it.

On the loop a request costs a few additions to plain lists; `prometheus_client`, which this module alone imports, only
writes the text when somebody asks for it. One `HostMetrics` for each served alias and process; `merged` makes one page
of many.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from rayplat.serve.routing.counts import BOUNDS_MS, VariantCounts

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
WINDOW_S = 60.0

_PREFIX = "rayplat_serve_"
_SERIES = 64  # (variant, version) pairs that are kept: a host that moves for ever must not grow
_SNAPSHOT_S = 5.0
_OVERLOADED = 429
_EVERY = 3  # buckets of ours in one of Prometheus's: 27 of them, each 1.7 times the one before


class _Series:
    """The counts of one version as one variant."""

    __slots__ = ("active_at", "buckets", "statuses", "sum_ms")

    def __init__(self, now: float) -> None:
        self.statuses: dict[int, int] = {}
        self.buckets = [0] * (len(BOUNDS_MS) + 1)
        self.sum_ms = 0.0
        self.active_at = now

    def counts(self) -> VariantCounts:
        errors = sum(n for status, n in self.statuses.items() if status >= 500)
        return VariantCounts(sum(self.statuses.values()), errors, tuple(self.buckets))


class HostMetrics:
    """Counts of the host of ``model`` at ``alias``. Belongs to one event loop."""

    def __init__(self, model: str, alias: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._labels = {"model": model, "alias": alias}
        self._clock = clock
        self._series: dict[tuple[str, int], _Series] = {}
        self._refused: Counter[int] = Counter()
        self._began = clock()
        self._past: deque[tuple[float, dict[tuple[str, int], VariantCounts]]] = deque()

    # --- counting, on the loop ------------------------------------------------------------------------

    def answered(self, variant: str, version: int, status: int, latency_ms: float) -> None:
        """Count a request that a model was asked. Refusals for lack of time have no latency of the model's."""
        series = self._series.get((variant, version))
        if series is None:
            series = self._added(variant, version)
        statuses = series.statuses
        statuses[status] = statuses.get(status, 0) + 1
        if status != _OVERLOADED:
            series.buckets[bisect_left(BOUNDS_MS, latency_ms)] += 1
            series.sum_ms += latency_ms

    def refused(self, status: int) -> None:
        """Count a request that was answered before it came to a model: unauthenticated, malformed, given up."""
        self._refused[status] += 1

    def _added(self, variant: str, version: int) -> _Series:
        self._snapshot(self._clock())
        if len(self._series) >= _SERIES:
            quietest = min(self._series, key=lambda key: self._series[key].active_at)
            del self._series[quietest]
        series = self._series[variant, version] = _Series(self._clock())
        return series

    # --- reading --------------------------------------------------------------------------------------

    def statuses(self) -> dict[str, int]:
        """Answers since the start by status."""
        total = Counter(self._refused)
        for series in self._series.values():
            total.update(series.statuses)
        return {str(status): n for status, n in sorted(total.items())}

    def variants(self) -> dict[str, dict[str, Any]]:
        """By variant, of the version it has now: ``requests``, ``errors`` (5xx), ``p50_ms``, ``p99_ms`` (None without
        an answer) and ``latencies`` (a number for each bucket of `BOUNDS_MS` and one above) in the last ``window_s``
        seconds, which is about `WINDOW_S` where somebody reads this regularly and never less."""
        now = self._clock()
        self._snapshot(now)
        newest = dict(list(self._series))
        while len(self._past) > 1 and now - self._past[1][0] >= WINDOW_S:
            self._past.popleft()
        since, before = self._past[0] if self._past else (self._began, {})
        if now - since < WINDOW_S:  # younger than the window: everything since the start
            since, before = self._began, {}
        found = {}
        for variant, version in newest.items():
            then = before.get((variant, version), VariantCounts())
            window = _minus(self._series[variant, version].counts(), then)
            answered = window.answers > 0
            found[variant] = {
                "version": version,
                "window_s": now - since,
                "requests": window.requests,
                "errors": window.errors,
                "p50_ms": window.quantile_ms(0.5) if answered else None,
                "p99_ms": window.quantile_ms(0.99) if answered else None,
                "latencies": list(window.latencies),
            }
        return found

    def text(self, stats: Mapping[str, Any]) -> str:
        """Everything in Prometheus's text format; ``stats`` are the host's (`ModelHost.stats`)."""
        from prometheus_client.exposition import generate_latest

        self._snapshot(self._clock())
        labels = {**self._labels, "replica": str(stats.get("replica", ""))}
        return generate_latest(_Page([*self._request_families(labels), *_host_families(labels, stats)])).decode()

    def _snapshot(self, now: float) -> None:
        """Remember the counts, from time to time: what windows are cut from costs requests nothing."""
        if self._past and now - self._past[-1][0] < _SNAPSHOT_S:
            return
        last = self._past[-1][1] if self._past else {}
        counts = {key: series.counts() for key, series in self._series.items()}
        for key, found in counts.items():
            if key not in last or last[key].requests != found.requests:
                self._series[key].active_at = now
        self._past.append((now, counts))
        while len(self._past) > 2 + WINDOW_S / _SNAPSHOT_S:
            self._past.popleft()

    def _request_families(self, labels: dict[str, str]) -> Iterator[Any]:
        names = [*labels, "version", "variant"]
        requests = _family(
            "counter", "requests", "Requests that a model was asked, by status class", [*names, "status"]
        )
        errors = _family("counter", "errors", "Requests that ended with a 5xx status", names)
        latency = _family("histogram", "latency_seconds", "Time from the parsed request to the model's answer", names)
        for (variant, version), series in list(self._series.items()):
            values = [*labels.values(), str(version), variant]
            for status, n in sorted(_classes(series.statuses).items()):
                requests.add_metric([*values, status], n)
            errors.add_metric(values, series.counts().errors)
            latency.add_metric(values, _cumulative(series.buckets), series.sum_ms / 1000)
        refused = _family("counter", "refused", "Requests answered before they came to a model", [*labels, "status"])
        for code, n in sorted(self._refused.items()):
            refused.add_metric([*labels.values(), str(code)], n)
        yield from (requests, errors, latency, refused)


def merged(pages: Iterable[str]) -> str:
    """One page of many: each metric's lines together, under one heading, as the format wants it."""
    lines: dict[str, list[str]] = {}
    headings: dict[str, list[str]] = {}
    for page in pages:
        name = ""
        for line in page.splitlines():
            if line.startswith("# "):
                name = line.split(" ", 3)[2]
                heading = headings.setdefault(name, [])
                if line not in heading and len(heading) < 2:
                    heading.append(line)
            elif line:
                lines.setdefault(name, []).append(line)
    text = [line for name, heading in headings.items() for line in (*heading, *lines.get(name, ()))]
    return "\n".join(text) + "\n" if text else ""


# --- what the host's own numbers are called -----------------------------------------------------------

# name, kind, help, where it lies in the host's stats
_NUMBERS: tuple[tuple[str, str, str, tuple[str, ...]], ...] = (
    ("in_flight", "gauge", "Requests that wait for the model or are computed", ("queue", "in_flight")),
    ("queue_length", "gauge", "Requests that wait for the model", ("queue", "waiting")),
    ("queue_rows", "gauge", "Rows that wait for the model", ("queue", "waiting_rows")),
    ("stuck_threads", "gauge", "Threads in a prediction that does not return", ("queue", "stuck")),
    ("rate_limited", "counter", "Requests above their caller's rate", ("rate_limited",)),
    ("alias_generation", "gauge", "Generation of the alias that answers", ("generation",)),
    ("alias_swaps", "counter", "Moves of the alias that were followed", ("swaps",)),
    ("alias_lag_seconds", "gauge", "Of the last move: from its commit to the swap", ("lag_s",)),
    ("load_seconds", "gauge", "Loading the version of the last move", ("load_s",)),
    ("log_recorded_rows", "counter", "Rows handed to the inference log", ("log", "recorded")),
    ("log_dropped_rows", "counter", "Rows lost to the inference log", ("log", "dropped")),
    ("log_waiting_rows", "gauge", "Rows not yet acknowledged by the inference log", ("log", "waiting")),
)
METRICS = frozenset(
    _PREFIX + name + ("_total" if kind == "counter" else "") for name, kind, _, _ in _NUMBERS
) | frozenset(
    _PREFIX + name
    for name in (
        "requests_total",
        "errors_total",
        "refused_total",
        "latency_seconds",
        "batch_rows",
        "batch_requests",
        "shed_total",
        "shadow_dropped_total",
        "follow_failing",
        "version",
    )
)


def _host_families(labels: dict[str, str], stats: Mapping[str, Any]) -> Iterator[Any]:
    names, values = list(labels), list(labels.values())
    for name, kind, text, path in _NUMBERS:
        value = _at(stats, path)
        if isinstance(value, int | float):
            family = _family(kind, name, text, names)
            family.add_metric(values, value)
            yield family
    failing = _family("gauge", "follow_failing", "1 while the version the alias points at cannot be used", names)
    failing.add_metric(values, 1 if stats.get("failure") else 0)
    yield failing
    version = _family("gauge", "version", "The model version that answers", names)
    version.add_metric(values, stats.get("version") or 0)
    yield version
    yield from _batch_families(names, values, _at(stats, ("queue",)) or {})
    dropped = _family("counter", "shadow_dropped", "Copies for shadows that were dropped", [*names, "variant"])
    for target, shadow in (_at(stats, ("release", "shadows")) or {}).items():
        dropped.add_metric([*values, str(target)], shadow.get("dropped", 0))
    yield dropped


def _batch_families(names: list[str], values: list[str], queue: Mapping[str, Any]) -> Iterator[Any]:
    for name, text in (
        ("batch_rows", "Rows computed together"),
        ("batch_requests", "Requests computed together"),
    ):
        counts = queue.get(name)
        if counts:
            family = _family("histogram", name, text, names)
            family.add_metric(values, _powers(counts), queue.get(f"{name}_sum", 0))
            yield family
    shed = _family("counter", "shed", "Requests refused for lack of time or room, by reason", [*names, "reason"])
    for reason, n in sorted(queue.get("shed", {}).items()):
        shed.add_metric([*values, reason], n)
    yield shed


class _Page:
    """What `generate_latest` takes: something that collects families."""

    def __init__(self, families: Sequence[Any]) -> None:
        self._families = families

    def collect(self) -> Sequence[Any]:
        return self._families


def _family(kind: str, name: str, text: str, labels: Sequence[str]) -> Any:
    from prometheus_client import core

    makers = {
        "counter": core.CounterMetricFamily,
        "gauge": core.GaugeMetricFamily,
        "histogram": core.HistogramMetricFamily,
    }
    return makers[kind](_PREFIX + name, text, labels=list(labels))


def _classes(statuses: Mapping[int, int]) -> dict[str, int]:
    found: dict[str, int] = {}
    for status, n in statuses.items():
        name = f"{status // 100}xx"
        found[name] = found.get(name, 0) + n
    return found


def _cumulative(buckets: Sequence[int]) -> list[tuple[str, float]]:
    """Every third of our buckets, in seconds, as Prometheus has them: each counts all below its end."""
    found: list[tuple[str, float]] = []
    total = 0
    for i, n in enumerate(buckets):
        total += n
        if i < len(BOUNDS_MS) and i % _EVERY == _EVERY - 1:
            found.append((f"{BOUNDS_MS[i] / 1000:.4g}", total))
    return [*found, ("+Inf", total)]


def _powers(counts: Sequence[int]) -> list[tuple[str, float]]:
    """Buckets that end at 1, 2, 4, ... and an open one."""
    found: list[tuple[str, float]] = []
    total = 0
    for i, n in enumerate(counts):
        total += n
        found.append((str(float(1 << i)) if i < len(counts) - 1 else "+Inf", total))
    return found


def _minus(now: VariantCounts, then: VariantCounts) -> VariantCounts:
    latencies = tuple(a - b for a, b in zip(now.latencies, then.latencies, strict=True))
    return VariantCounts(now.requests - then.requests, now.errors - then.errors, latencies)


def _at(stats: Mapping[str, Any], path: Sequence[str]) -> Any:
    found: Any = stats
    for name in path:
        found = found.get(name) if isinstance(found, Mapping) else None
    return found
