"""A case in which every built-in gate passes, and small ways to spoil it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from rayplat.registry import sequential
from rayplat.registry.gates import Case, decide
from rayplat.types import (
    ArmOutcomes,
    Comparison,
    Evidence,
    Experiment,
    ExperimentDesign,
    ExperimentEvidence,
    FairnessEvidence,
    FairnessGroup,
    GateSpec,
    LatencyEvidence,
    ParityEvidence,
    SegmentAgreement,
    ShadowEvidence,
    Verdict,
    VerificationEvidence,
)

DIGEST, HOLDOUT = "sha256:" + "a" * 64, "sha256:" + "d" * 64
NOW = datetime(2013, 11, 1, tzinfo=UTC)
DESIGN = ExperimentDesign("accepted", "proportion", 0.05, 0.02, 0.09, 40_000, min_samples=500)
WON = ExperimentEvidence(DESIGN, ArmOutcomes(10_000, 1400, 1400), ArmOutcomes(10_000, 1000, 1000), NOW)
VERIFIED = VerificationEvidence(DIGEST, True, True, "pt2", False, False)
GOOD = Evidence(
    dataset=HOLDOUT,
    rows=50_000,
    candidate={"auc": 0.72, "log_loss": 0.4},
    baseline_version=1,
    baseline={"auc": 0.69, "log_loss": 0.5},
    parity=ParityEvidence(1000, 0),
    comparisons=(
        Comparison("auc", "", 50_000, 0.72, 0.69, 0.03, 0.002),
        Comparison("log_loss", "", 50_000, 0.4, 0.5, -0.1, 0.01, higher_is_better=False),
        Comparison("auc", "origin=JFK", 20_000, 0.73, 0.70, 0.03, 0.004),
        Comparison("auc", "origin=LGA", 18_000, 0.71, 0.69, 0.02, 0.004),
        Comparison("auc", "origin=HPN", 12, 0.40, 0.69, -0.29, 0.2),
    ),
    latency=LatencyEvidence(500, 1.5, 4.0, 2_000_000),
    shadow=ShadowEvidence(
        5000, 4900, 2, 0.001, 0.0005, 1.5, 4.0, 1.4, 3.8, (SegmentAgreement("origin=JFK", 2000, 1970, 2000),), 5000
    ),
    experiment=WON,
    fairness=FairnessEvidence(
        0.5,
        (
            FairnessGroup("carrier=AA", 10_000, 2500, 2600, 1800),
            FairnessGroup("carrier=UA", 9_000, 2200, 2250, 1580),
            FairnessGroup("carrier=HA", 20, 3, 2, 1),
        ),
    ),
)
CASE = Case(DIGEST, 1, GOOD, VERIFIED, Experiment("prm-1", sequential.design_digest(DESIGN), NOW, "ann", 0.9))
FIRST = replace(CASE, champion=None, evidence=replace(GOOD, baseline_version=None, baseline=None))


def verdict(gate: str, case: Case = CASE, **params: Any) -> tuple[bool, str]:
    """Whether one gate passes the case, and its reason."""
    from rayplat.registry.gates import BUILT_IN

    (result,) = decide((GateSpec(gate, params),), BUILT_IN[gate].stage, case)
    assert result.verdict in (Verdict.PASS, Verdict.FAIL)
    assert result.reason
    return result.verdict is Verdict.PASS, result.reason


def spoilt(**changes: Any) -> Case:
    """The good case with other evidence."""
    return replace(CASE, evidence=replace(GOOD, **changes))
