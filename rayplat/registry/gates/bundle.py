"""Gates on the bundle itself: what the platform saw of its bytes, and what it costs to serve."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rayplat.registry.gates.gate import (
    EVALUATE,
    VERIFY,
    Case,
    Finding,
    Gate,
    NoParams,
    is_count,
    number,
    require_param,
    seen,
)
from rayplat.types import VerificationEvidence


@dataclass(frozen=True)
class SafeFormat:
    """``formats``: the only ones permitted; empty permits each that runs no code when it is loaded."""

    formats: tuple[str, ...] = ()


@dataclass(frozen=True)
class LatencyBudget:
    """Milliseconds for one answer, measured over at least ``min_requests``."""

    p99_ms: float
    p50_ms: float | None = None
    min_requests: int = 100

    def __post_init__(self) -> None:
        require_param("p99_ms", 0 < self.p99_ms < math.inf, "milliseconds above 0")
        require_param("p50_ms", self.p50_ms is None or 0 < self.p50_ms < math.inf, "milliseconds above 0")
        require_param("min_requests", self.min_requests >= 1, "at least 1")


@dataclass(frozen=True)
class SizeBudget:
    max_bytes: int

    def __post_init__(self) -> None:
        require_param("max_bytes", self.max_bytes >= 1, "at least 1")


def _verified(case: Case) -> VerificationEvidence | Finding:
    found = case.verification
    if found is None:
        return False, "the platform has not verified the bundle"
    if found.digest != case.digest:
        return False, f"the verification is of {found.digest}, the promotion of {case.digest}"
    return found


def _intact(_: NoParams, case: Case) -> Finding:
    found = _verified(case)
    if isinstance(found, tuple):
        return found
    return (
        found.intact is True,
        f"the stored bytes {'match' if found.intact is True else 'do not match'} {found.digest}",
    )


def _signed(_: NoParams, case: Case) -> Finding:
    found = _verified(case)
    if isinstance(found, tuple):
        return found
    return (
        found.signed is True,
        f"{'a' if found.signed is True else 'no'} valid signature of the platform over {found.digest}",
    )


def _format(params: SafeFormat, case: Case) -> Finding:
    found = _verified(case)
    if isinstance(found, tuple):
        return found
    if found.runs_code is not False:
        waived = found.waived is True
        return (
            waived,
            f"loading {found.format!r} runs code; there is {'a' if waived else 'no'} waiver for {found.digest}",
        )
    if params.formats and found.format not in params.formats:
        return False, f"the format is {found.format!r}, permitted are {', '.join(params.formats)}"
    return bool(found.format), f"the format is {found.format!r}; loading it runs no code"


def _schema(_: NoParams, case: Case) -> Finding:
    found = _verified(case)
    if isinstance(found, tuple):
        return found
    problems = found.schema_problems
    return not problems, "; ".join(problems[:5]) or "inputs and outputs fit what the alias serves"


def _latency(params: LatencyBudget, case: Case) -> Finding:
    found = seen(case).latency
    if found is None:
        return False, "no latency was measured"
    p50, p99 = number(found.p50_ms), number(found.p99_ms)
    if not is_count(found.requests) or p50 is None or p99 is None or not 0 < p50 <= p99:
        return (
            False,
            f"p50 {found.p50_ms!r} and p99 {found.p99_ms!r} ms of {found.requests!r} requests is no measurement",
        )
    if found.requests < params.min_requests:
        return False, f"{found.requests} requests measured, at least {params.min_requests} are needed"
    within = p99 <= params.p99_ms and (params.p50_ms is None or p50 <= params.p50_ms)
    budget = f"p99 {params.p99_ms:g} ms" + (f", p50 {params.p50_ms:g} ms" if params.p50_ms is not None else "")
    return within, f"p50 {p50:.3g} ms, p99 {p99:.3g} ms over {found.requests} requests; the budget is {budget}"


def _size(params: SizeBudget, case: Case) -> Finding:
    found = seen(case).latency
    size = None if found is None else found.size_bytes
    if not is_count(size) or not size:
        return False, f"the bundle's size is {size!r}, a count of bytes is needed"
    return size <= params.max_bytes, f"{size} bytes, at most {params.max_bytes}"


GATES = (
    Gate("intact", VERIFY, NoParams, _intact, waivable=False),
    Gate("signed", VERIFY, NoParams, _signed),
    Gate("safe_format", VERIFY, SafeFormat, _format, waivable=False),
    Gate("schema_compatible", VERIFY, NoParams, _schema),
    Gate("latency_budget", EVALUATE, LatencyBudget, _latency),
    Gate("size_budget", EVALUATE, SizeBudget, _size),
)
