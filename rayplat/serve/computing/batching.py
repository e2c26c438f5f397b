"""Computing with a model: what waits while it is busy is computed together next, off the loop where it is slow.

An idle model begins at once, so nobody waits for company, and the batch grows with the load by itself. It waits a
little only where those it has just answered are known to come back soon and the learned cost says that all are served
earlier that way (`Returning`). A version that answers in a fraction of a millisecond is computed on the loop itself,
the requests of one turn of the loop together; one whose rows depend on each other, or whose code we do not know
(``batchable`` False), never is: it could hang. How long the queue may be is `admission`'s to say.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, OrderedDict
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np

from rayplat.errors import DeadlineExceeded, Overloaded, RayplatError, Unavailable
from rayplat.serve.computing.admission import AdmissionPolicy, Arrivals, Load
from rayplat.serve.computing.batches import Job, computed, predicted
from rayplat.serve.computing.cost import CostCurve
from rayplat.serve.computing.returning import Returning
from rayplat.serve.computing.turns import Turns
from rayplat.serve.computing.workers import Workers
from rayplat.serve.ports import LoadedVersion
from rayplat.types import Batching, Limits

log = logging.getLogger(__name__)

_MOST_STUCK = 3  # threads left behind; one more, and only a new process helps
_STUCK_CALLS, _STUCK_S, _LONG_S = 20.0, 1.0, 5.0  # times the usual; with nobody waiting for it; with somebody
_MOST_ROWS = 256
_CURVES = 64  # versions whose cost is remembered
_MEASURED_ROWS = (1, 16)
_MEASURED_S = 1.0
_POWERS = 15  # buckets of batch sizes: 1, 2, 4, ... 8192, and more


class _Running:
    """Jobs that a thread computes now."""

    __slots__ = ("began", "expected_s", "finished", "jobs", "results", "rows", "stuck", "took_s", "watch", "whole")

    def __init__(self, jobs: list[Job], rows: int, expected_s: float, now: float) -> None:
        self.jobs, self.rows, self.expected_s, self.began = jobs, rows, expected_s, now
        self.results: list[Any] = []
        self.took_s = 0.0
        self.whole = self.stuck = self.finished = False
        self.watch: asyncio.TimerHandle | None = None

    def work(self) -> None:
        began = time.perf_counter()
        self.results, self.whole = predicted(self.jobs)
        self.took_s = time.perf_counter() - began


class Batcher:
    """Computes for one endpoint. Belongs to one event loop, but for `measure`."""

    def __init__(self, batching: Batching, limits: Limits) -> None:
        self._batching, self._limits = batching, limits
        self._most_rows = _MOST_ROWS if batching.max_rows is None else batching.max_rows
        self._policy = AdmissionPolicy(limits, self._most_rows)
        self._arrivals, self._returning = Arrivals(), Returning()
        self._curves: OrderedDict[tuple[str, int, str], CostCurve] = OrderedDict()
        self._last: tuple[LoadedVersion | None, CostCurve] = (None, CostCurve())
        self._turns = Turns(self._counted)
        self._workers = Workers("predict")
        self._waiting: OrderedDict[Job, None] = OrderedDict()
        self._groups: dict[Hashable, OrderedDict[Job, None]] = {}
        self._waiting_rows = 0
        self._running: set[_Running] = set()
        self._stuck = 0
        self._idle_since = self._idle_at = float("-inf")
        self._timer: asyncio.TimerHandle | None = None
        self._shed: Counter[str] = Counter()
        self._sizes = {"batch_rows": [0] * _POWERS, "batch_requests": [0] * _POWERS}
        self._sums = {"batch_rows": 0, "batch_requests": 0}

    # --- a request ------------------------------------------------------------------------------------

    async def run(
        self,
        loaded: LoadedVersion,
        columns: Mapping[str, Any],
        rows: int,
        params: Mapping[str, Any],
        deadline: float | None = None,
    ) -> Mapping[str, Any]:
        """The model's outputs for ``rows`` rows, each with ``rows`` rows. ``deadline`` in `time.monotonic` seconds.

        Raises `Overloaded` at once where it could not be answered in time, `DeadlineExceeded`, `PartFailed` for a
        model that fails or gives another number of rows, and what else the model raises of our tree.
        """
        if loaded is not self._last[0]:
            self._take_over(loaded)
        curve = self._last[1]
        job = Job(loaded, columns, rows, params, 0.0)
        if loaded.batchable and not self._waiting and self._batching.window_ms is None and curve.inline(rows):
            if deadline is not None and time.monotonic() >= deadline:
                raise DeadlineExceeded(_name(loaded), 0.0)
            return await self._turns.run(job, curve)
        loop = asyncio.get_running_loop()
        job.at = time.monotonic()
        job.deadline = job.at + self._limits.deadline_s if deadline is None else deadline
        self._arrivals.came(job.at)
        self._admitted(job, curve)
        job.answer = loop.create_future()
        job.key = job.joins_by(self._joins(loaded))
        job.timer = loop.call_later(max(job.deadline - job.at, 0), self._expire, job)
        self._enter(job)
        self._returning.came(job.at)
        self._dispatch()
        try:
            return await job.answer
        finally:
            self._leave(job)  # where its client has gone
            if job.timer is not None:
                job.timer.cancel()

    def admit(self, deadline: float | None = None) -> None:
        """Raise `Overloaded` or `DeadlineExceeded` if a request of one row that came now would be refused by `run`:
        before its body is parsed."""
        if self._waiting:
            loaded, curve = self._last
            now = time.monotonic()
            left_s = self._limits.deadline_s if deadline is None else deadline - now
            self._decide(loaded, curve, 1, left_s, now)

    def measure(self, loaded: LoadedVersion) -> None:
        """Learn the cost of a version from its example, before its first request. Blocks; call it in a thread. An
        example that the model refuses teaches nothing."""
        curve = self._curve(loaded)
        if not loaded.example:
            return
        until = time.perf_counter() + _MEASURED_S
        for rows in _MEASURED_ROWS if self._joins(loaded) else (1,):
            columns = {name: _tiled(values, rows) for name, values in loaded.example.items()}
            took: list[float] = []
            for attempt in range(4):
                began = time.perf_counter()
                if isinstance(computed(loaded, columns, rows, {}, quiet=True), RayplatError):
                    return
                now = time.perf_counter()
                if attempt:  # the first one warms up
                    took.append(now - began)
                elif now > until:
                    curve.learn(rows, now - began)
                    return
            for _ in took:  # on a busy machine, the shortest says most of the model
                curve.learn(rows, min(took))

    def check_health(self) -> None:
        """Raises RuntimeError when so many threads are stuck in a model that only a new process helps."""
        if self._stuck > _MOST_STUCK:
            raise RuntimeError(f"{self._stuck} predictions have not returned and hold their threads for ever")

    def stats(self) -> dict[str, Any]:
        """Now: ``waiting`` requests and their ``waiting_rows``, ``running`` calls, ``stuck`` threads, ``in_flight``
        requests. Since the start: ``shed`` by reason, and how large calls were (counts by powers of two, and sums).
        ``fixed_ms`` and ``row_ms`` are the learned cost of the version asked last, ``inline`` where it runs."""
        curve = self._last[1]
        return {
            "waiting": len(self._waiting),
            "waiting_rows": self._waiting_rows,
            "running": len(self._running),
            "in_flight": len(self._waiting) + sum(len(r.jobs) for r in self._running) + self._turns.waiting,
            "stuck": self._stuck,
            "shed": dict(self._shed),
            **{name: list(counts) for name, counts in self._sizes.items()},
            **{f"{name}_sum": total for name, total in self._sums.items()},
            "fixed_ms": curve.fixed_s * 1000,
            "row_ms": curve.row_s * 1000,
            "inline": curve.inline(1),
        }

    def close(self) -> None:
        """End its threads once they are done."""
        if self._timer is not None:
            self._timer.cancel()
        self._workers.close()

    # --- the queue ------------------------------------------------------------------------------------

    def _joins(self, loaded: LoadedVersion) -> bool:
        """Whether requests of the version may be computed together: its format says so, or who serves it does."""
        return loaded.batchable or self._batching.max_rows is not None

    def _take_over(self, loaded: LoadedVersion) -> None:
        """Another version is asked from here on. Where it has no measured cost, its predecessor's is the best guess."""
        curve = self._curve(loaded)
        curve.guess(self._last[1])
        self._last = (loaded, curve)

    def _curve(self, loaded: LoadedVersion) -> CostCurve:
        key = (loaded.model, loaded.version, loaded.digest)
        curve = self._curves.get(key)
        if curve is None:
            curve = self._curves[key] = CostCurve()
            while len(self._curves) > _CURVES:
                self._curves.popitem(last=False)
        return curve

    def _admitted(self, job: Job, curve: CostCurve) -> None:
        if self._stuck > _MOST_STUCK and len(self._running) == 0:
            raise Unavailable(_name(job.loaded), "its predictions do not return; the host is being replaced")
        assert job.deadline is not None
        self._decide(job.loaded, curve, job.rows, job.deadline - job.at, job.at)

    def _decide(self, loaded: LoadedVersion | None, curve: CostCurve, rows: int, left_s: float, now: float) -> None:
        name = "the model" if loaded is None else _name(loaded)
        if left_s <= 0:  # no overload: it would be late on an idle machine, too
            raise DeadlineExceeded(name, 0.0)
        if not self._running and not self._waiting and now - self._idle_since >= curve.expect(rows):
            self._idle_at = now  # a gap shorter than a call is no rest
        residual_s = 0.0
        if len(self._running) >= self._limits.concurrency:
            residual_s = max(min(r.began + r.expected_s for r in self._running) - now, 0.0)
        load = Load(len(self._waiting), self._waiting_rows, residual_s, now - self._idle_at, self._arrivals.scv)
        refusal = self._policy.decide(load, curve, rows, left_s, loaded is None or self._joins(loaded))
        if refusal is not None:
            self._shed[refusal.reason] += 1
            raise Overloaded(name, refusal.text, refusal.retry_after_s)

    def _enter(self, job: Job) -> None:
        self._waiting[job] = None
        self._groups.setdefault(job.key, OrderedDict())[job] = None
        self._waiting_rows += job.rows

    def _leave(self, job: Job) -> None:
        if job not in self._waiting:
            return
        del self._waiting[job]
        group = self._groups[job.key]
        del group[job]
        if not group:
            del self._groups[job.key]
        self._waiting_rows -= job.rows

    def _expire(self, job: Job) -> None:
        self._leave(job)
        assert job.deadline is not None
        job.timer = None
        job.settle(DeadlineExceeded(_name(job.loaded), round(job.deadline - job.at, 3)))

    # --- computing ------------------------------------------------------------------------------------

    def _dispatch(self) -> None:
        """Begin what can begin now."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._waiting and len(self._running) < self._slots():
            now = time.monotonic()
            head = next(iter(self._waiting))
            pause_s = self._pause_s(head, now)
            if pause_s > 0:
                self._timer = asyncio.get_running_loop().call_later(pause_s, self._dispatch)
                return
            self._begin(self._taken(head), now)

    def _slots(self) -> int:
        """Calls at the same time. Threads beyond the replaceable number of stuck ones are not replaced."""
        return self._limits.concurrency - max(self._stuck - _MOST_STUCK, 0)

    def _pause_s(self, head: Job, now: float) -> float:
        rows = sum(job.rows for job in self._groups[head.key])
        if self._batching.window_ms is not None:
            full = rows >= self._most_rows or not self._joins(head.loaded)
            return 0.0 if full else head.at + self._batching.window_ms / 1000 - now
        if not self._joins(head.loaded) or rows >= self._most_rows:
            return 0.0
        return self._returning.pause_s(self._curve(head.loaded), rows, len(self._groups[head.key]), now)

    def _taken(self, head: Job) -> list[Job]:
        """``head`` and those that join it, out of the queue."""
        most = self._most_rows
        if self._batching.window_ms is None:
            most = self._policy.joined(self._curve(head.loaded), self._arrivals.scv)
            free = self._slots() - len(self._running)
            if free > 1:
                most = max(1, min(most, -(-self._waiting_rows // free)))
        jobs, rows = [head], head.rows
        for job in self._groups[head.key]:
            if job is not head:
                if rows + job.rows > most:
                    break
                jobs.append(job)
                rows += job.rows
        for job in jobs:
            self._leave(job)
        return jobs

    def _begin(self, jobs: list[Job], now: float) -> None:
        loop = asyncio.get_running_loop()
        rows = sum(job.rows for job in jobs)
        curve = self._curve(jobs[0].loaded)
        running = _Running(jobs, rows, curve.expect(rows), now)
        self._running.add(running)
        while self._workers.threads < len(self._running) + self._stuck:
            self._workers.start(loop)
        usual_s = _STUCK_CALLS * running.expected_s if curve.known else self._limits.deadline_s
        running.watch = loop.call_later(max(usual_s, _STUCK_S), self._suspect, running, max(usual_s, _LONG_S))
        self._workers.submit(running.work, lambda: self._done(running, curve))

    def _done(self, running: _Running, curve: CostCurve) -> None:
        running.finished = True
        if running.watch is not None:
            running.watch.cancel()
        now = time.monotonic()
        for job, result in zip(running.jobs, running.results, strict=True):
            job.settle(result)
        self._counted(len(running.jobs), running.rows)
        if running.stuck:
            self._stuck -= 1
            self._workers.retire()
        else:
            self._running.discard(running)
            if running.whole:
                curve.learn(running.rows, running.took_s)
        if not self._running and not self._waiting:
            self._idle_since = now
        self._returning.answered(len(running.jobs), curve, now)
        self._dispatch()

    def _suspect(self, running: _Running, long_s: float) -> None:
        """A call takes far longer than usual. Once nobody waits for it any more, or after ``long_s`` seconds, its
        thread is given up and another goes on with the queue."""
        loop = asyncio.get_running_loop()
        took_s = time.monotonic() - running.began
        if took_s < long_s and not all(job.answer.done() for job in running.jobs):
            running.watch = loop.call_later(min(0.25, long_s), self._suspect, running, long_s)
            return
        running.stuck, running.watch = True, None
        self._running.discard(running)
        self._stuck += 1
        fields = {"model": running.jobs[0].loaded.model, "version": running.jobs[0].loaded.version}
        log.error("a prediction has not returned in %.1f s, its thread is replaced", took_s, extra=fields)
        self._dispatch()
        if self._slots() <= 0:
            for job in list(self._waiting):
                self._leave(job)
                job.settle(Unavailable(_name(job.loaded), "its predictions do not return; the host is being replaced"))

    def _counted(self, requests: int, rows: int) -> None:
        self._sizes["batch_rows"][min((rows - 1).bit_length(), _POWERS - 1)] += 1
        self._sizes["batch_requests"][min((requests - 1).bit_length(), _POWERS - 1)] += 1
        self._sums["batch_rows"] += rows
        self._sums["batch_requests"] += requests


def _name(loaded: LoadedVersion) -> str:
    return f"model {loaded.model!r}"


def _tiled(values: Any, rows: int) -> Any:
    """The first ``rows`` rows, repeated where there are fewer."""
    repeats = -(-rows // max(len(values), 1))
    if isinstance(values, list):
        return (values * repeats)[:rows]
    return np.concatenate([values] * repeats)[:rows]
