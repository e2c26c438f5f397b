"""The verdicts of a stage's gates. Pure, and closed by default.

The same policy and case give the same verdicts for ever, so a decision can be replayed. A rule that raises has not
passed.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable

from rayplat.errors import InvalidInput
from rayplat.registry.gates import catalog
from rayplat.registry.gates.gate import VERIFY, Case, Finding
from rayplat.types import GateResult, GateSpec, Verdict

log = logging.getLogger(__name__)


def decide(
    specs: Iterable[GateSpec], stage: str, case: Case, waived: Collection[str] = frozenset()
) -> tuple[GateResult, ...]:
    """One result for each gate of ``stage``; a failed one is WAIVED where its label is ``waived`` and it may be."""
    results = []
    for label, spec in catalog.of_stage(specs, stage):
        ok, reason = _finding(label, spec, stage, case)
        verdict = Verdict.PASS if ok else Verdict.FAIL
        if not ok and label in waived and waivable(spec):
            verdict = Verdict.WAIVED
        results.append(GateResult(label, verdict, reason, stage))
    return tuple(results)


def passed(results: Iterable[GateResult]) -> bool:
    """Whether there is a verdict and none is FAIL."""
    found = list(results)
    return bool(found) and all(r.verdict is not Verdict.FAIL for r in found)


def waivable(spec: GateSpec) -> bool:
    """Whether an approver may let this gate be."""
    gate = catalog.BUILT_IN.get(spec.gate)
    return gate is not None and gate.waivable


def _finding(label: str, spec: GateSpec, stage: str, case: Case) -> Finding:
    try:
        gate, params = catalog.parse(spec)
        if stage != VERIFY and (refusal := _unusable(case)) is not None:
            return False, refusal
        if label in case.custom or gate.name == "custom":
            return _custom(label, case)
        ok, reason = gate.rule(params, case)
    except InvalidInput as e:
        return False, f"the gate cannot decide: {e}"
    except Exception as e:  # a rule that fails on odd evidence must not pass it, nor stop the others
        log.warning("gate %s failed on its evidence", label, exc_info=True)
        return False, f"the gate itself failed on this evidence: {type(e).__name__}: {str(e)[:200]}"
    return ok is True, reason


def _custom(label: str, case: Case) -> Finding:
    found = case.custom.get(label)
    if found is None:
        return False, "its function has not been run on this evidence"
    return found.verdict is Verdict.PASS, found.reason


def _unusable(case: Case) -> str | None:
    """Why the evidence as a whole carries nothing."""
    evidence = case.evidence
    if evidence is None:
        return "no evidence was given: evaluate the version first"
    if evidence.errors:
        return f"the evaluator reported {evidence.errors[0]!r}" + (
            f" and {len(evidence.errors) - 1} more" if len(evidence.errors) > 1 else ""
        )
    if evidence.candidate_digest and evidence.candidate_digest != case.digest:
        return f"the evidence is about {evidence.candidate_digest}, the promotion about {case.digest}"
    return None
