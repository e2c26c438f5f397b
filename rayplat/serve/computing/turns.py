"""Quick models: computed on the event loop, requests of the same turn of the loop together.

Requests that arrive close to each other are read by the loop in one turn; each is a task of its own by the time it
comes here. Waiting for the end of the turn costs a few microseconds and no time of the clock, and one call of the model
serves them all. Whether there is ever company is tried from time to time, so a single client pays nothing for it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Hashable, Mapping
from typing import Any

from rayplat.errors import RayplatError
from rayplat.serve.computing.batches import Job, predicted
from rayplat.serve.computing.cost import CostCurve

_WORTH_S = 60e-6  # a call's fixed cost above which sharing it is worth the detour
_COMPANY = 1.2  # requests in a turn on average
_TRY_EVERY, _LEARN_EVERY = 31, 8  # a prime: else the same one of a crowd is tried every time
_TURN_S = 0.001  # the longest that the loop computes at once


class Turns:
    """Belongs to one event loop. ``counted`` is told of each call: requests and rows."""

    def __init__(self, counted: Callable[[int, int], None]) -> None:
        self._counted = counted
        self._jobs: list[tuple[Job, CostCurve]] = []
        self._company = 1.0
        self._seen = 0

    @property
    def waiting(self) -> int:
        return len(self._jobs)

    async def run(self, job: Job, curve: CostCurve) -> Mapping[str, Any]:
        """The job's outputs. Raises what its model raises of our tree."""
        self._seen += 1
        if curve.fixed_s < _WORTH_S:
            return self._alone(job, curve)
        pays = self._company >= _COMPANY and curve.fixed_s >= curve.row_s
        if not self._jobs and not pays and self._seen % _TRY_EVERY:  # both are only learned by trying
            return self._alone(job, curve)
        loop = asyncio.get_running_loop()
        job.answer = loop.create_future()
        if not self._jobs:
            loop.call_soon(self._compute)
        self._jobs.append((job, curve))
        return await job.answer

    def _alone(self, job: Job, curve: CostCurve) -> Mapping[str, Any]:
        began = time.perf_counter()
        ((result,), whole) = predicted((job,))
        took_s = time.perf_counter() - began
        self._counted(1, job.rows)
        if whole and self._seen % _LEARN_EVERY == 0:
            curve.learn(job.rows, took_s)
        else:
            curve.touch(job.rows, took_s)
        if isinstance(result, RayplatError):
            raise result
        return result

    def _compute(self) -> None:
        waiting, self._jobs = self._jobs, []
        groups: dict[Hashable, tuple[CostCurve, list[Job]]] = {}
        for job, curve in waiting:
            if not job.answer.done():  # its client may have gone within the turn
                groups.setdefault(job.joins_by(True) if len(waiting) > 1 else None, (curve, []))[1].append(job)
        for curve, jobs in groups.values():
            self._company += (len(jobs) - self._company) / _LEARN_EVERY
            most = max((_TURN_S - curve.fixed_s) / curve.row_s, 1) if curve.row_s > 0 else len(jobs) + 1
            while jobs:
                taken = [jobs.pop(0)]
                rows = taken[0].rows
                while jobs and rows + jobs[0].rows <= most:
                    rows += jobs[0].rows
                    taken.append(jobs.pop(0))
                self._together(taken, rows, curve)

    def _together(self, jobs: list[Job], rows: int, curve: CostCurve) -> None:
        began = time.perf_counter()
        results, whole = predicted(jobs)
        took_s = time.perf_counter() - began
        self._counted(len(jobs), rows)
        if whole:
            curve.learn(rows, took_s)
        for job, result in zip(jobs, results, strict=True):
            job.settle(result)
