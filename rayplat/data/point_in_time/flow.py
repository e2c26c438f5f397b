"""Submitting many plain Ray tasks with back-pressure: at most a few per CPU are in flight, and what they return stays
in the object store. The first return of each task is a small summary, which is all that comes back here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from rayplat.errors import RayplatError

if TYPE_CHECKING:
    from ray import ObjectRef

_PER_CPU = 2


class Flow:
    """Runs functions as tasks of one CPU each."""

    def __init__(self) -> None:
        self._limit = _PER_CPU * self.cpus() + 1

    @staticmethod
    def cpus() -> int:
        """CPUs of the cluster."""
        import ray

        return max(1, int(ray.cluster_resources().get("CPU", 1.0)))

    def run(
        self, function: Callable[..., Any], calls: list[tuple[Any, ...]], returns: int | Sequence[int]
    ) -> tuple[list[Any], list[list[ObjectRef[Any]]]]:
        """Call ``function`` once per tuple of arguments. (the summaries, references to the ``returns`` that follow),
        in the order of the calls. ``calls`` is left empty: arguments are freed once they are used.

        Raises what a task raised, as the error it was.
        """
        import ray

        task: Any = ray.remote(num_cpus=1, scheduling_strategy="SPREAD")(function)
        summaries: list[Any] = [None] * len(calls)
        kept: list[list[Any]] = []
        flying: dict[Any, int] = {}
        waiting = calls[::-1]
        calls.clear()
        while waiting or flying:
            if waiting and len(flying) < self._limit:
                count = returns if isinstance(returns, int) else returns[len(kept)]
                made = task.options(num_returns=count + 1).remote(*waiting.pop())
                refs = made if isinstance(made, list) else [made]
                flying[refs[0]] = len(kept)
                kept.append(refs[1:])
                continue
            ready, _ = ray.wait(list(flying), num_returns=1)
            summaries[flying.pop(ready[0])] = get(ready[0])
        return summaries, kept


def start(function: Callable[..., Any], *arguments: Any) -> ObjectRef[Any]:
    """One task of one CPU."""
    import ray

    task: Any = ray.remote(num_cpus=1)(function)
    ref: ObjectRef[Any] = task.remote(*arguments)
    return ref


def get(ref: ObjectRef[Any]) -> Any:
    """What a task returned. Raises the platform's error that it raised, without Ray's wrapping."""
    import ray
    from ray.exceptions import RayTaskError

    try:
        return ray.get(ref)
    except RayTaskError as e:
        if isinstance(e.cause, RayplatError):
            raise e.cause from None
        raise
