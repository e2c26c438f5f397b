"""How far evidence carries a promotion. Pure: each function takes a promotion and gives the one after.

The stages are decided in order, each once, with all its gates together, as soon as what it is decided on has arrived;
a stage without gates is passed through. What a decided stage rested on cannot be exchanged: the promotion goes stale.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from rayplat.errors import Conflict, InvalidInput
from rayplat.registry import documents
from rayplat.registry.gates import STAGES, Case, decide, labelled, of_stage, passed, waivable
from rayplat.registry.promotion.states import OPEN, Step, advance
from rayplat.registry.promotion.subject import subject_digest
from rayplat.types import (
    Evidence,
    Experiment,
    GateResult,
    GateSpec,
    Promotion,
    PromotionState,
    Verdict,
    VerificationEvidence,
    Waiver,
)

_S = PromotionState
_ALWAYS = (GateSpec("intact"), GateSpec("safe_format"))
_STEPS = (Step.VERIFY, Step.EVALUATE, Step.SHADOW, Step.COMPARE)


def judge(promotion: Promotion) -> Promotion:
    """``promotion`` as far as what has arrived carries it: up to AWAITING_APPROVAL, or REJECTED."""
    while promotion.state in OPEN[: len(STAGES)]:
        number = OPEN.index(promotion.state)
        if not _has_arrived(promotion, STAGES[number]):
            break
        results = decide(_gates(promotion), STAGES[number], _case(promotion), {w.gate for w in promotion.waivers})
        promotion = replace(promotion, gates=(*promotion.gates, *results))
        if any(r.verdict is Verdict.FAIL for r in results):
            return _rejected(promotion)
        promotion = replace(promotion, state=advance(promotion.state, _STEPS[number]))
    if promotion.state is _S.COMPARED:
        if not passed(promotion.gates) and (promotion.policy is None or promotion.policy.protected):
            nothing = GateResult("policy", Verdict.FAIL, "a protected alias has no gate: nothing was looked at")
            return _rejected(replace(promotion, gates=(*promotion.gates, nothing)))
        promotion = replace(promotion, state=advance(promotion.state, Step.AWAIT))
    after = with_subject(promotion)
    if after.subject_digest != promotion.subject_digest and any(a.decision == "approve" for a in promotion.approvals):
        return stale(after, "what was approved has changed since")
    return after


def with_evidence(promotion: Promotion, evidence: Evidence) -> Promotion:
    """After ``evidence`` was handed in, the whole document. Raises `Conflict` where it is closed."""
    _check_open(promotion)
    changed = [stage for stage in STAGES[1:] if _decided(promotion, stage) and _changes(promotion, evidence, stage)]
    if changed:
        return stale(promotion, f"the evidence of the stage '{changed[0]}' was changed after it was decided")
    keep = promotion.evidence is not None and _part(promotion.evidence, "evaluate") == _part(evidence, "evaluate")
    kept = promotion.custom_results if keep else ()
    return judge(replace(promotion, evidence=evidence, custom_results=kept))


def with_verification(promotion: Promotion, found: VerificationEvidence) -> Promotion:
    """After the platform has verified the bundle. Bytes that are damaged or run code without a waiver are rejected
    under any policy. Raises `Conflict` where it is closed."""
    _check_open(promotion)
    if _decided(promotion, "verify") and promotion.verification != found:
        return stale(promotion, "the bundle was verified again and the outcome is another")
    verified = replace(promotion, verification=found)
    refused = [r for r in decide(_ALWAYS, "verify", _case(verified)) if r.verdict is Verdict.FAIL]
    asked_for = {spec.gate for spec in _gates(promotion)}
    if refused and not asked_for & {r.gate for r in refused}:
        return _rejected(replace(verified, gates=(*promotion.gates, *refused)))
    return judge(verified)


def with_custom_results(promotion: Promotion, results: tuple[GateResult, ...]) -> Promotion:
    """After the custom gates have run on the present evidence. Raises `InvalidInput` for another set of gates."""
    _check_open(promotion)
    wanted = _custom(promotion)
    if {r.gate for r in results} != wanted or len(results) != len(wanted):
        raise InvalidInput("results", f"results of exactly the gates {sorted(wanted)} are needed")
    if _decided(promotion, "evaluate"):
        raise Conflict("the custom gates of this promotion have been decided")
    return judge(replace(promotion, custom_results=results))


def with_waiver(promotion: Promotion, waiver: Waiver) -> Promotion:
    """After an approver let a gate be. Raises `InvalidInput` for an unknown gate or one that cannot be waived,
    `Conflict` where it has been decided."""
    _check_open(promotion)
    specs = dict(labelled(_gates(promotion)))
    if waiver.gate not in specs:
        raise InvalidInput("gate", f"{waiver.gate!r} is none of this promotion's: {', '.join(specs)}")
    if not waivable(specs[waiver.gate]):
        raise InvalidInput("gate", f"{waiver.gate!r} cannot be waived")
    if any(r.gate == waiver.gate for r in promotion.gates):
        raise Conflict(f"the gate {waiver.gate!r} has been decided")
    if any(w.gate == waiver.gate for w in promotion.waivers):
        raise Conflict(f"the gate {waiver.gate!r} is waived already")
    return judge(replace(promotion, waivers=(*promotion.waivers, waiver)))


def with_experiment(promotion: Promotion, experiment: Experiment) -> Promotion:
    """After the design of its A/B test was recorded: once, and before there is evidence of it."""
    _check_open(promotion)
    if promotion.experiment is not None:
        raise Conflict(
            f"promotion {promotion.promotion_id} has an experiment already, of {promotion.experiment.started_at}"
        )
    if promotion.evidence is not None and promotion.evidence.experiment is not None:
        raise Conflict("there are outcomes already: a design is fixed before the first")
    return replace(promotion, experiment=experiment)


def stale(promotion: Promotion, reason: str) -> Promotion:
    """After something it rests on has changed; its approvals are void."""
    return replace(promotion, state=advance(promotion.state, Step.GO_STALE), reason=reason)


def with_subject(promotion: Promotion) -> Promotion:
    """``promotion`` with the digest of what an approval of it would be given for."""
    return replace(promotion, subject_digest=subject_digest(promotion))


def failures(promotion: Promotion) -> dict[str, str]:
    """Reasons of the gates that failed, by gate."""
    return {r.gate: r.reason for r in promotion.gates if r.verdict is Verdict.FAIL}


def waits_for(promotion: Promotion) -> str:
    """What an open promotion waits for, in words; empty for a closed one."""
    if promotion.state is _S.AWAITING_APPROVAL:
        return "approval"
    if promotion.state is _S.APPROVED:
        return "the end of its cool-down"
    if promotion.state not in OPEN:
        return ""
    stage = STAGES[OPEN.index(promotion.state)]
    words = {"verify": "the platform to verify the bundle", "shadow": "evidence of a shadow", "compare": "an A/B test"}
    if stage == "evaluate":
        return "evidence" if promotion.evidence is None else "its custom gates to run"
    return words[stage]


def _has_arrived(promotion: Promotion, stage: str) -> bool:
    labels = [label for label, _ in of_stage(_gates(promotion), stage)]
    waived = {w.gate for w in promotion.waivers}
    if all(label in waived for label in labels):  # or there is none
        return True
    evidence = promotion.evidence
    if stage == "verify":
        return promotion.verification is not None
    if evidence is None:
        return False
    if stage == "evaluate":
        return _custom(promotion) <= {r.gate for r in promotion.custom_results} | waived
    first = promotion.baseline_version is None  # then there is no traffic to compare on
    return first or (evidence.shadow if stage == "shadow" else evidence.experiment) is not None


def _case(promotion: Promotion) -> Case:
    return Case(
        digest=promotion.digest,
        champion=promotion.baseline_version,
        evidence=promotion.evidence,
        verification=promotion.verification,
        experiment=promotion.experiment,
        custom={r.gate: r for r in promotion.custom_results},
    )


def _rejected(promotion: Promotion) -> Promotion:
    reason = "; ".join(f"{gate}: {why}" for gate, why in failures(promotion).items())
    state = advance(promotion.state, Step.REJECT)
    return with_subject(replace(promotion, state=state, reason=f"gates failed: {reason}"[:2000]))


def _gates(promotion: Promotion) -> tuple[Any, ...]:
    return () if promotion.policy is None else promotion.policy.gates


def _custom(promotion: Promotion) -> set[str]:
    return {label for label, spec in labelled(_gates(promotion)) if spec.gate == "custom"}


def _decided(promotion: Promotion, stage: str) -> bool:
    return any(r.stage == stage for r in promotion.gates)


def _changes(promotion: Promotion, evidence: Evidence, stage: str) -> bool:
    return promotion.evidence is None or _part(promotion.evidence, stage) != _part(evidence, stage)


def _part(evidence: Evidence, stage: str) -> Any:
    """What a stage's gates look at; texts, as NaN is not equal to itself."""
    parts = {"shadow": evidence.shadow, "compare": evidence.experiment}
    return documents.text(parts[stage] if stage in parts else replace(evidence, shadow=None, experiment=None))


def _check_open(promotion: Promotion) -> None:
    """Raises what `advance` would for a step no closed promotion can take."""
    advance(promotion.state, Step.CANCEL)
