"""One inference as the data plane knows it, whatever protocol it came by: what is asked, by whom, and the answer."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt

from rayplat.serve.ports import LoadedVersion
from rayplat.types import AliasHead, Principal

# Of n rows: an array whose first dimension is n, or for text in one dimension a list (None = missing).
Values = npt.NDArray[Any] | list[Any]
Outputs = Mapping[str, npt.NDArray[Any]]


@dataclass(slots=True)
class InferRequest:
    """A request that fits the signature it was parsed by. ``inputs`` are the given ones; ``entity`` holds the keys that
    the others are looked up by (a tuple per row where there are several join keys), None where every input is given.
    ``columns`` belong to features computed on request. ``outputs`` are the names asked for."""

    rows: int
    inputs: dict[str, Values]
    outputs: tuple[str, ...]
    id: str | None = None
    entity: list[Any] | None = None
    event_time: datetime | None = None
    columns: Mapping[str, list[Any]] = field(default_factory=dict)
    params: Mapping[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Call:
    """What surrounds a request: its id, who asks, when it came and until when an answer is wanted (`time.monotonic`
    seconds; None: the endpoint's own limit). ``target`` is what the path or a tester's header names: an alias or an
    exact version; ``sticky`` are header values that a split may go by. ``traceparent`` is of W3C trace context."""

    request_id: str
    received_at: datetime
    principal: Principal | None = None
    target: str | None = None
    deadline: float | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    traceparent: str | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """To another process the time left travels as seconds: clocks of two machines have nothing in common."""
        left_s = None if self.deadline is None else self.deadline - time.monotonic()
        around = (self.request_id, self.received_at, self.principal, self.target)
        return _arrived, (*around, left_s, dict(self.headers), self.traceparent)


@dataclass(slots=True)
class Answer:
    """``outputs`` by name, made by exactly ``loaded``, reached as ``variant`` (an alias, or ``v7`` for a version)."""

    request_id: str
    head: AliasHead
    loaded: LoadedVersion
    variant: str
    outputs: dict[str, npt.NDArray[Any]]
    latency_ms: float = float("nan")


def _arrived(
    request_id: str,
    received_at: datetime,
    principal: Principal | None,
    target: str | None,
    left_s: float | None,
    *more: Any,
) -> Call:
    """A call of another process, its deadline by this machine's clock."""
    deadline = None if left_s is None else time.monotonic() + left_s
    return Call(request_id, received_at, principal, target, deadline, *more)


def rows_of(values: Values) -> int:
    """The first dimension."""
    return len(values)


def concatenated(parts: list[Values]) -> Values:
    """The rows of all parts in order."""
    if len(parts) == 1:
        return parts[0]
    if all(isinstance(part, list) for part in parts):
        return [value for part in parts for value in part]
    return np.concatenate([np.asarray(part) for part in parts])
