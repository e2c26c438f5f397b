"""Whether a request may still wait for the model. Pure rules; `batching` asks them.

A queue that is allowed to grow answers everybody too late. How long it may be follows from the model's own times: a
request is let in while its answer is expected within twice the 99th percentile that the model would have at 70 % of
its capacity. That percentile is computed, not waited for: the waiting time in a queue with general arrivals and
services has about an exponential tail (Kingman 1962, "On queues in heavy traffic"),

    P(W > t) = p * exp(-2 c (1 - r) t / ((a + s) D)),    p = r ** (sqrt(2 (c + 1)) - 1)    (Sakasegawa 1977)

with c servers, load r, service time D and squared coefficients of variation a of arrivals and s of services. Both are
measured. A model that computes many rows at once is a server of whole batches.

The formula knows the model's time only. On a machine that does something else as well a thread waits for its turn and
for the interpreter's lock, and a queue forms meanwhile that says nothing about the model: for one of 50 µs "twice the
99th percentile" would be gone in the time of one such wait. So the percentile is never taken for less than `_HICCUP_S`.

A short burst is not an overload: while the model was idle a moment ago, requests are let in as far as their deadlines
allow. That a queue which never empties is what tells one from the other is the idea of CoDel (Nichols and Jacobson
2012, "Controlling queue delay").
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from rayplat.serve.computing.cost import CostCurve
from rayplat.types import Limits

LOAD = 0.7  # of capacity: what counts as normal
FACTOR = 2.0  # times the normal 99th percentile that an accepted request may take

# One wait for the interpreter's lock (`sys.getswitchinterval`), about a time slice of Linux. A model that takes this
# long has no lower percentile anyway, so nothing changes for it.
_HICCUP_S = 0.005
# A model quicker than this answers hundreds of requests while a busy machine makes its host stand still: then only a
# queue that lasts says anything about the model.
_QUICK_S, _QUICK_HICCUP_S, _QUICK_BURST_S = 0.001, 0.03, 0.25
_MARGIN = 0.8  # the rest is for what the formula and the estimates leave out
_SLOWEST = 0.01
_MOST = 4096  # waiting requests, whatever else is allowed: what they hold must fit the memory
_UNKNOWN = 256  # waiting requests for a model that has not answered once
_BURST_CALLS, _BURST_S = 3.0, 0.025  # how long after an idle moment a burst is believed: calls, and seconds at least
_GAPS = 100  # arrivals that the measured spread looks back on
_FEW = 30  # too few to tell anything of it


@dataclass(frozen=True)
class Load:
    """What is there when a request comes: requests and rows that wait, seconds until a thread is free
    (``residual_s``) and since the model was last idle for as long as a call takes (``busy_s``). ``arrival_scv`` is
    `Arrivals.scv`."""

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
    """The squared coefficient of variation of the time between requests: 0 for a clock, 1 for a Poisson process.

    From how much neighbouring gaps differ, r = mean of ((g - h) / (g + h))^2, which a change of the rate does not touch
    (the local variation of Shinomoto, Shima and Tanji 2003): for gamma distributed gaps it is 2 r / (1 - r).
    """

    __slots__ = ("_differ", "_gap", "_last", "_n")

    def __init__(self) -> None:
        self._last = self._gap = self._differ = 0.0
        self._n = 0

    def came(self, now: float) -> None:
        """One arrived at ``now``."""
        gap = now - self._last
        both = gap + self._gap
        if self._n > 1 and both > 0:
            ratio = (gap - self._gap) / both
            self._differ += (ratio * ratio - self._differ) / min(self._n - 1, _GAPS)
        self._n += 1
        self._last, self._gap = now, gap

    @property
    def scv(self) -> float:
        """1 before enough have come, and never more: a queue is not made longer for traffic that comes in heaps."""
        if self._n <= _FEW:
            return 1.0
        return min(2 * self._differ / (1 - self._differ + 1e-9), 1.0)


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
            if not full or (curve.guessed and self._likely_in_time(load, curve, rows, left_s, batchable)):
                return None
            return Refusal("queue", f"{load.waiting} requests wait for its first answer", 1.0)
        joined = self.joined(curve, load.arrival_scv) if batchable else 1
        expected_s = self.expected_s(load, curve, rows, joined)
        if expected_s > left_s:
            text = f"the answer is expected in {expected_s:.3g} s, and {left_s:.3g} s are left"
            return Refusal("deadline", text, max(expected_s - left_s, curve.expect(rows)))
        if self._limits.queue is not None or load.waiting == 0 or self._is_burst(load, curve):
            return None
        usual_rows = (load.waiting_rows + rows) / (load.waiting + 1)
        allowed_s = self.allowed_s(curve, load.arrival_scv, batchable, usual_rows)
        if expected_s <= allowed_s and load.waiting < _MOST:
            return None
        text = f"{load.waiting} requests wait already, the answer would take {expected_s:.3g} s"
        return Refusal("latency", text, max(expected_s - allowed_s, curve.expect(rows)))

    def joined(self, curve: CostCurve, arrival_scv: float) -> int:
        """Rows that are computed together at most: while that is worth it, and while who just missed one call is still
        answered in time by the next."""
        most = curve.efficient_rows(self._most_rows)
        if self._limits.queue is not None or most == 1 or curve.row_s <= 0:
            return most
        in_time = (self.allowed_s(curve, arrival_scv, True) / 2 - curve.fixed_s) / curve.row_s
        return max(1, min(most, int(in_time)))

    def expected_s(self, load: Load, curve: CostCurve, rows: int, joined: int) -> float:
        """Seconds until the answer: the call that runs, full calls before ours, and ours."""
        if joined <= 1:  # one request, one call
            before_s = load.waiting * curve.fixed_s + load.waiting_rows * curve.row_s
            return load.residual_s + before_s / self._limits.concurrency + curve.expect(rows)
        full, rest = divmod(load.waiting_rows, joined)
        before_s = full * curve.expect(joined) / self._limits.concurrency
        ours = max(joined, rows) if full else rest + rows  # behind a full call ours will be full as well
        return load.residual_s + before_s + curve.expect(ours)

    def allowed_s(self, curve: CostCurve, arrival_scv: float, batchable: bool, usual_rows: float = 1.0) -> float:
        """What an accepted request may take while the model is busy without a break. ``usual_rows`` is how many a
        request has: where they fill a call by themselves, that call is what everybody waits for."""
        joined = curve.efficient_rows(self._most_rows) if batchable else 1
        if usual_rows > joined:
            normal_s = _normal_p99_s(curve.expect(usual_rows), curve, 1, self._limits.concurrency, arrival_scv)
        else:
            normal_s = normal_p99_s(curve, joined, self._limits.concurrency, arrival_scv)
        hiccup_s = _QUICK_HICCUP_S if curve.expect(usual_rows) < _QUICK_S else _HICCUP_S
        return FACTOR * _MARGIN * max(normal_s, hiccup_s)

    def _likely_in_time(self, load: Load, curve: CostCurve, rows: int, left_s: float, batchable: bool) -> bool:
        """Of a version that has just taken over: whether its predecessor would answer within ``left_s`` seconds. Who
        waits now is no overload of its own: it has had no time to answer."""
        joined = self.joined(curve, load.arrival_scv) if batchable else 1
        return load.waiting < _MOST and self.expected_s(load, curve, rows, joined) <= left_s

    def _is_burst(self, load: Load, curve: CostCurve) -> bool:
        lasts_s = _QUICK_BURST_S if curve.expect(1) < _QUICK_S else max(_BURST_CALLS * curve.expect(1), _BURST_S)
        return load.busy_s < lasts_s and load.waiting < _MOST


def normal_p99_s(curve: CostCurve, joined: int, servers: int, arrival_scv: float) -> float:
    """The 99th percentile of waiting and service at `LOAD` of the capacity that ``joined`` rows in a call give."""
    full_s = curve.expect(joined)
    if joined > 1:
        usual_s = _usual_calls_s(curve, joined, arrival_scv)
        if usual_s is not None:
            return usual_s
    return _normal_p99_s(full_s, curve, joined, servers, arrival_scv)


def _normal_p99_s(full_s: float, curve: CostCurve, joined: int, servers: int, arrival_scv: float) -> float:
    """The formula, for calls of ``full_s`` seconds that answer ``joined`` requests each."""
    spread = arrival_scv / joined + min(curve.scv, 1.0)
    waits = LOAD ** (math.sqrt(2 * (servers + 1)) - 1)
    tail_s = max(spread * full_s / (2 * servers * (1 - LOAD)) * math.log(waits / _SLOWEST), 0.0)
    rest_s = (1 - 1 / joined) * full_s  # of the call that runs, which a request alone has in its tail already
    return full_s + max(tail_s, rest_s) + 0.35 * min(tail_s, rest_s)


def _usual_calls_s(curve: CostCurve, joined: int, arrival_scv: float) -> float | None:
    """The same where each call takes all that came during the one before; None where calls are full too often.

    With r rows arriving per second the sizes follow n' = r (a + b n) + noise of variance n: a first-order
    autoregression with mean r a / (1 - r b) and variance mean / (1 - (r b)^2). A row is in a large call more often than
    in a small one, by variance / mean.
    """
    rate = LOAD * joined / curve.expect(joined)
    follows = rate * curve.row_s
    mean = rate * curve.fixed_s / (1 - follows)
    if mean < 1:
        return None
    variance = arrival_scv * mean / (1 - follows * follows)
    large = mean + variance / mean + 2.33 * math.sqrt(variance)
    if large >= joined:
        return None
    return curve.expect(large) + curve.expect(rate * curve.expect(large))
