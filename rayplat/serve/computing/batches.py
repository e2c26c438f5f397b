"""One prediction for several requests: rows put together, computed, checked and taken apart. Runs where it is called.

Whatever one member does to the others' prediction is undone by computing halves again, down to the single request, so
that only who is at fault is told so.
"""

from __future__ import annotations

import asyncio
import logging
import pickle
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from rayplat.errors import PartFailed, RayplatError
from rayplat.serve.ports import LoadedVersion
from rayplat.serve.request import concatenated

log = logging.getLogger(__name__)

Result = Mapping[str, Any] | RayplatError


class Job:
    """A request that waits for its model. ``answer`` is done once nobody waits for it any more."""

    __slots__ = ("answer", "at", "columns", "deadline", "key", "loaded", "params", "rows", "timer")

    def __init__(
        self, loaded: LoadedVersion, columns: Mapping[str, Any], rows: int, params: Mapping[str, Any], at: float
    ) -> None:
        self.loaded, self.columns, self.rows, self.params, self.at = loaded, columns, rows, params, at
        self.answer: asyncio.Future[Mapping[str, Any]]
        self.key: Hashable = None
        self.deadline: float | None = None
        self.timer: asyncio.TimerHandle | None = None

    def joins_by(self, joins: bool) -> Hashable:
        """Equal for requests that may be computed together: same version, parameters, and names, types and shapes of
        inputs. A request that does not join (``joins`` False) equals none but itself."""
        if not joins:
            return id(self)
        shapes = tuple([(name, _shape(values)) for name, values in self.columns.items()])
        return id(self.loaded), pickle.dumps(sorted(self.params.items())) if self.params else b"", shapes

    def settle(self, result: Result) -> None:
        """Tell who waits, if anybody still does."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        if self.answer.done():
            return
        if isinstance(result, RayplatError):
            self.answer.set_exception(result)
        else:
            self.answer.set_result(result)


def predicted(jobs: Sequence[Job]) -> tuple[list[Result], bool]:
    """A result for each of ``jobs``, which join; and whether one call of the model was enough."""
    if len(jobs) == 1:
        result = computed(jobs[0].loaded, jobs[0].columns, jobs[0].rows, jobs[0].params)
        return [result], not isinstance(result, RayplatError)
    first = jobs[0]
    try:
        columns = {name: concatenated([job.columns[name] for job in jobs]) for name in first.columns}
    except Exception:  # values that look alike and cannot stand in one column: computed apart
        log.debug("requests could not be put together", exc_info=True)
        return _halves(jobs)
    whole = computed(first.loaded, columns, sum(job.rows for job in jobs), first.params, quiet=True)
    return _halves(jobs) if isinstance(whole, RayplatError) else (_apart(whole, jobs), True)


def _halves(jobs: Sequence[Job]) -> tuple[list[Result], bool]:
    middle = len(jobs) // 2
    results: list[Result] = []
    for half in (jobs[:middle], jobs[middle:]):
        waiting = [job for job in half if not job.answer.done()]
        found = dict(zip(map(id, waiting), predicted(waiting)[0] if waiting else [], strict=True))
        results += [found.get(id(job), {}) for job in half]
    return results, False


def _apart(whole: Mapping[str, Any], jobs: Sequence[Job]) -> list[Result]:
    results: list[Result] = []
    start = 0
    for job in jobs:
        stop = start + job.rows
        results.append({name: values[start:stop] for name, values in whole.items()})
        start = stop
    return results


def computed(
    loaded: LoadedVersion, columns: Mapping[str, Any], rows: int, params: Mapping[str, Any], quiet: bool = False
) -> Result:
    """The model's outputs, each of ``rows`` rows, or what is wrong. ``quiet``: it will be tried again in parts."""
    try:
        outputs = loaded.predict(columns, params)
        wrong = _wrong(outputs, rows)
    except RayplatError as e:
        return e
    except BaseException as e:  # SystemExit, or a panic of native code, would end the thread or the loop
        if not quiet:
            log.exception("a model failed", extra={"model": loaded.model, "version": loaded.version})
        return PartFailed(_part(loaded), f"the model failed ({type(e).__name__}), see the host's log")
    return outputs if wrong is None else PartFailed(_part(loaded), wrong)


def _wrong(outputs: Any, rows: int) -> str | None:
    """What makes ``outputs`` no answer for ``rows`` rows; None where it is one."""
    if not isinstance(outputs, Mapping):
        return f"it gave no outputs by name but {type(outputs).__name__!r}"
    for name, values in outputs.items():
        found = len(values) if isinstance(values, list) or np.ndim(values) else None
        if found != rows:
            has = "one value" if found is None else f"{found} rows"
            return f"its output {name!r} has {has} for {rows} rows of inputs"
    return None


def _part(loaded: LoadedVersion) -> str:
    return f"version {loaded.version} of model {loaded.model!r}"


def _shape(values: Any) -> Hashable:
    return (values.dtype.str, values.shape[1:]) if isinstance(values, np.ndarray) else None
