"""Gates: may this evidence carry a version to an alias? Pure, and closed by default.

What is missing, not finite, or about another champion than the present one fails. Nothing here reads a database or
a model; the same evidence and policy give the same verdict for ever, so a decision can be replayed.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from rayplat.types import Evidence, GateResult, ParityEvidence, Verdict

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True)
class GatePolicy:
    """What a candidate must reach. ``metric`` is one where more is better; ``min_gain`` is absolute, on that metric.

    ``ceiling`` guards against the future leaking into the features: a figure above it is not believed.
    ``max_parity_mismatch`` is the largest share of logged feature vectors that may differ from the point-in-time join;
    None does not ask for parity. ``min_parity_vectors`` must have been compared.
    """

    metric: str = "auc"
    floor: float = 0.6
    ceiling: float = 0.8
    min_rows: int = 1000
    min_gain: float = 0.0
    max_parity_mismatch: float | None = None
    min_parity_vectors: int = 100


def decide(policy: GatePolicy, evidence: Evidence | None, champion: int | None) -> tuple[GateResult, ...]:
    """The verdict of every gate. ``champion`` is the version the alias points at now, None where it does not exist."""
    if evidence is None:
        return (GateResult("evidence", Verdict.FAIL, "no evidence was given: evaluate the version first"),)
    results = [
        _dataset(evidence),
        _rows(policy, evidence),
        _floor(policy, evidence),
        _ceiling(policy, evidence),
        _champion(policy, evidence, champion),
    ]
    if policy.max_parity_mismatch is not None:
        results.append(_parity(policy.max_parity_mismatch, policy.min_parity_vectors, evidence.parity))
    return tuple(results)


def passed(results: tuple[GateResult, ...]) -> bool:
    """Whether there is a verdict and every one is PASS."""
    return bool(results) and all(r.verdict is Verdict.PASS for r in results)


def _result(gate: str, ok: bool, reason: str) -> GateResult:
    return GateResult(gate, Verdict.PASS if ok else Verdict.FAIL, reason)


def _dataset(evidence: Evidence) -> GateResult:
    pinned = isinstance(evidence.dataset, str) and bool(_DIGEST.fullmatch(evidence.dataset))
    reason = f"evaluated on {evidence.dataset}" if pinned else f"{evidence.dataset!r} is not the digest of a data set"
    return _result("pinned dataset", pinned, reason)


def _rows(policy: GatePolicy, evidence: Evidence) -> GateResult:
    rows = evidence.rows
    ok = isinstance(rows, int) and not isinstance(rows, bool) and rows >= policy.min_rows
    return _result("enough rows", ok, f"{rows} rows, at least {policy.min_rows} are needed")


def _floor(policy: GatePolicy, evidence: Evidence) -> GateResult:
    value = _metric(evidence.candidate, policy.metric)
    if value is None:
        return _no_value("metric floor", policy, evidence.candidate)
    return _result("metric floor", value >= policy.floor, f"{policy.metric} {value:.4f}, the floor is {policy.floor}")


def _ceiling(policy: GatePolicy, evidence: Evidence) -> GateResult:
    value = _metric(evidence.candidate, policy.metric)
    if value is None:
        return _no_value("leak ceiling", policy, evidence.candidate)
    if value > policy.ceiling:
        reason = f"{policy.metric} {value:.4f} is above {policy.ceiling}: suspected leakage of the future into features"
        return _result("leak ceiling", False, reason)
    return _result("leak ceiling", True, f"{policy.metric} {value:.4f} is not above {policy.ceiling}")


def _parity(most: float, least_vectors: int, parity: ParityEvidence | None) -> GateResult:
    gate = "feature parity"
    if parity is None:
        return _result(gate, False, "no parity was measured: run `rayplat features parity` and hand its result in")
    counts = (parity.vectors, parity.mismatched)
    if any(isinstance(n, bool) or not isinstance(n, int) or n < 0 for n in counts) or counts[1] > counts[0]:
        return _result(gate, False, f"{parity.mismatched!r} of {parity.vectors!r} vectors is no count")
    if parity.vectors < max(1, least_vectors):
        return _result(gate, False, f"{parity.vectors} vectors compared, at least {max(1, least_vectors)} are needed")
    rate = parity.mismatched / parity.vectors
    reason = f"{parity.mismatched} of {parity.vectors} feature vectors differ ({rate:.4%}), at most {most:.4%} may"
    return _result(gate, rate <= most, reason)


def _champion(policy: GatePolicy, evidence: Evidence, champion: int | None) -> GateResult:
    gate = "better than champion"
    if evidence.baseline_version != champion:
        compared = f"version {evidence.baseline_version}" if evidence.baseline_version is not None else "no version"
        now = f"points at version {champion}" if champion is not None else "does not exist"
        return _result(gate, False, f"the evidence compares with {compared}, but the alias {now}: evaluate again")
    if champion is None:
        return _result(gate, True, "the alias does not exist yet: nothing to compare with")
    value, base = _metric(evidence.candidate, policy.metric), _metric(evidence.baseline, policy.metric)
    if value is None:
        return _no_value(gate, policy, evidence.candidate)
    if base is None:
        return _no_value(gate, policy, evidence.baseline, f" of version {champion}")
    reason = f"{policy.metric} {value:.4f} against {base:.4f} of version {champion}, wanted gain {policy.min_gain}"
    return _result(gate, value >= base + policy.min_gain, reason)


def _metric(metrics: Any, name: str) -> float | None:
    """The value, or None where it is missing or no finite number."""
    value = metrics.get(name) if isinstance(metrics, dict) else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _no_value(gate: str, policy: GatePolicy, metrics: Any, of: str = "") -> GateResult:
    found = repr(metrics[policy.metric]) if isinstance(metrics, dict) and policy.metric in metrics else "missing"
    return _result(gate, False, f"{policy.metric}{of} is {found}, a finite number is needed")
