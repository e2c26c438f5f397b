"""Whether a request may still wait for the model. Pure rules; `batching` asks them.

A queue that is allowed to grow answers everybody too late. How long it may be follows from the model's own times: a
request is let in while its answer is expected within twice the 99th percentile that the model would have at 70 % of
its capacity. That percentile is computed, not waited for: the waiting time in a queue with general arrivals and
services has about an exponential tail (Kingman 1962, "On queues in heavy traffic"),

    P(W > t) = p * exp(-2 c (1 - r) t / ((a + s) D)),    p = r ** (sqrt(2 (c + 1)) - 1)    (Sakasegawa 1977)

with c servers, load r, service time D and squared coefficients of variation a of arrivals and s of services. Both are
measured. A model that computes many rows at once is a server of whole batches.

A short burst is not an overload: while the model was idle a moment ago, requests are let in as far as their deadlines
allow. That a queue which never empties is what tells one from the other is the idea of CoDel (Nichols and Jacobson
2012, "Controlling queue delay").
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from rayplat.serve.cost import CostCurve
from rayplat.types import Limits

LOAD = 0.7  # of capacity: what counts as normal
FACTOR = 2.0  # times the normal 99th percentile that an accepted request may take

_MARGIN = 0.8  # the rest is for what the formula and the estimates leave out
_SLOWEST = 0.01
_MOST = 4096  # waiting requests, whatever else is allowed: what they hold must fit the memory
_UNKNOWN = 256  # waiting requests for a model that has not answered once
_BURST_CALLS, _BURST_S = 3.0, 0.025  # how long after an idle moment a burst is believed: calls, and seconds at least
_GAPS = 50  # arrivals that the measured spread looks back on


@dataclass(frozen=True)
class Load:
    """What is there when a request comes: requests and rows that wait, seconds until a thread is free
    (``residual_s``), and seconds since the model was idle (0 where it is). ``arrival_scv`` is `Arrivals.scv`."""

    waiting: int
    waiting_rows: int
    residual_s: float
    busy_s: float
    arrival_scv: float = 1.0


@dataclass(frozen=True)
class Refusal:
    """``reason`` is ``queue`` (full), ``latency`` (it would take too long) or ``deadline`` (later than asked)."""

    reason: str
    text: str
    retry_after_s: float


class Arrivals:
    """The squared coefficient of variation of the time between requests: 0 for a clock, 1 for a Poisson process."""

    __slots__ = ("_last", "_mean", "_n", "_square")

    def __init__(self) -> None:
        self._last = self._mean = self._square = 0.0
        self._n = 0

    def came(self, now: float) -> None:
        """One arrived at ``now``. Long silences count as ten ordinary gaps at most: they are no traffic."""
        if self._n:
            gap = now - self._last
            if self._n > _GAPS // 2:
                gap = min(gap, 10 * self._mean)
            weight = max(1 / self._n, 1 / _GAPS)
            self._mean += (gap - self._mean) * weight
            self._square += (gap * gap - self._square) * weight
        self._n += 1
        self._last = now

    @property
    def scv(self) -> float:
        """At most 2; 1 before enough have come."""
        if self._n <= _GAPS or self._mean <= 0:
            return 1.0
        return min(max(self._square / (self._mean * self._mean) - 1, 0.0), 2.0)


class AdmissionPolicy:
    """Decides for one endpoint. ``most_rows`` are computed together at most."""

    def __init__(self, limits: Limits, most_rows: int) -> None:
        self._limits, self._most_rows = limits, most_rows

    def decide(self, load: Load, curve: CostCurve, rows: int, left_s: float, batchable: bool) -> Refusal | None:
        """None lets a request of ``rows`` rows in, which wants its answer within ``left_s`` seconds."""
        if self._limits.queue is not None and load.waiting >= self._limits.queue:
            after_s = curve.expect(1) if curve.known else 1.0
            return Refusal("queue", f"{load.waiting} requests wait already, which is its limit", after_s)
        if not curve.known:
            full = self._limits.queue is None and load.waiting >= _UNKNOWN
            return Refusal("queue", f"{load.waiting} requests wait for its first answer", 1.0) if full else None
        joined = curve.efficient_rows(self._most_rows) if batchable else 1
        expected_s = self.expected_s(load, curve, rows, joined)
        if expected_s > left_s:
            text = f"the answer is expected in {expected_s:.3g} s, and {left_s:.3g} s are left"
            return Refusal("deadline", text, max(expected_s - left_s, curve.expect(rows)))
        if self._limits.queue is not None or load.waiting == 0 or self._is_burst(load, curve):
            return None
        allowed_s = self.allowed_s(curve, joined, load.arrival_scv)
        if expected_s <= allowed_s and load.waiting < _MOST:
            return None
        text = f"{load.waiting} requests wait already, the answer would take {expected_s:.3g} s"
        return Refusal("latency", text, max(expected_s - allowed_s, curve.expect(rows)))

    def expected_s(self, load: Load, curve: CostCurve, rows: int, joined: int) -> float:
        """Seconds until the answer: the call that runs, full calls before ours, and ours."""
        if joined <= 1:  # one request, one call; requests of many rows are on average what waits now
            before_s = load.waiting * curve.fixed_s + load.waiting_rows * curve.row_s
            return load.residual_s + before_s / self._limits.concurrency + curve.expect(rows)
        full, rest = divmod(load.waiting_rows, joined)
        before_s = full * curve.expect(joined) / self._limits.concurrency
        return load.residual_s + before_s + curve.expect(rest + rows)

    def allowed_s(self, curve: CostCurve, joined: int, arrival_scv: float) -> float:
        """What an accepted request may take while the model is busy without a break."""
        return FACTOR * _MARGIN * normal_p99_s(curve, joined, self._limits.concurrency, arrival_scv)

    def _is_burst(self, load: Load, curve: CostCurve) -> bool:
        return load.busy_s < max(_BURST_CALLS * curve.expect(1), _BURST_S) and load.waiting < _MOST


def normal_p99_s(curve: CostCurve, joined: int, servers: int, arrival_scv: float) -> float:
    """The 99th percentile of waiting and service at `LOAD` of the capacity that ``joined`` rows in a call give."""
    whole_s = curve.expect(joined)
    typical = LOAD * joined * curve.fixed_s / (curve.fixed_s + (1 - LOAD) * joined * curve.row_s + 1e-12)
    if joined > 1 and typical + 2.33 * math.sqrt(typical) < joined:
        # Calls take what has come during the one before: hardly anybody waits for more than that one.
        return 2 * curve.expect(max(typical, 1.0))
    spread = arrival_scv / joined + min(curve.scv, 1.0)
    waits = LOAD ** (math.sqrt(2 * (servers + 1)) - 1)
    tail_s = spread * whole_s / (2 * servers * (1 - LOAD)) * math.log(waits / _SLOWEST)
    return whole_s + max(tail_s, 0.0)
