"""What was measured about a candidate: the parts of the evidence that a promotion is decided on.

Counts and moments, never verdicts: gates compute the intervals. Nothing here is checked when it is made, because
evidence comes from outside; `rayplat.registry.gates` refuses what is missing, not finite or does not add up.

Evidence is stored, and approvals name its digest. A field that was added later is `LATER`: documents leave it out while
it has its default, so that what was stored before reads back with the digest it had.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

LATER = {"later": True}


@dataclass(frozen=True)
class VerificationEvidence:
    """What the platform saw of the bytes behind ``digest`` (the bundle's tree). Built by the platform, never handed in.

    ``runs_code``: loading this format runs code from the bundle; ``waived``: that is permitted for this digest.
    ``schema_problems`` say in words what does not fit what the alias serves now; ``problems`` why it is not intact, not
    signed or not permitted.
    """

    digest: str
    intact: bool
    signed: bool
    format: str
    runs_code: bool
    waived: bool
    schema_problems: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class ParityEvidence:
    """The part of a `ParityReport` that a gate decides on."""

    vectors: int
    mismatched: int


@dataclass(frozen=True)
class Comparison:
    """Candidate against baseline on the same ``rows``. ``segment`` is ``""`` for all rows, else ``column=value``.

    ``difference`` is candidate - baseline and ``standard_error`` its standard error from the paired rows; both and
    ``baseline`` are None where there was nothing to compare with.
    """

    metric: str
    segment: str
    rows: int
    candidate: float
    baseline: float | None
    difference: float | None
    standard_error: float | None
    higher_is_better: bool = True


@dataclass(frozen=True)
class LatencyEvidence:
    """Time to answer one request, in milliseconds, over ``requests`` of them; ``size_bytes`` of the bundle."""

    requests: int
    p50_ms: float
    p99_ms: float
    size_bytes: int


@dataclass(frozen=True)
class SegmentAgreement:
    """Shadow pairs of one segment (``column=value``, ``""`` for all), in how many of them both gave the same answer, in
    how many ``requests`` they came, and the ``design_effect`` of that (`rayplat.registry.clustered`; None: 1 where each
    request was one row, else not known)."""

    segment: str
    pairs: int
    agreed: int
    requests: int = field(default=0, metadata=LATER)
    design_effect: float | None = field(default=None, metadata=LATER)


@dataclass(frozen=True)
class ShadowEvidence:
    """What a shadow saw: ``pairs`` of rows, in ``requests`` that candidate and primary answered, and ``errors``: more
    requests, which only the candidate failed. ``requests`` 0: evidence of an earlier release, which did not tell them.
    ``design_effect`` is that of the agreement, as in `SegmentAgreement`. ``score_shift`` is the mean of candidate -
    primary over the pairs, ``score_shift_error`` its standard error from the requests (None: fewer than two).
    Latencies in milliseconds, of the same requests."""

    pairs: int
    agreed: int
    errors: int
    score_shift: float
    score_shift_error: float | None
    candidate_p50_ms: float
    candidate_p99_ms: float
    primary_p50_ms: float
    primary_p99_ms: float
    by_segment: tuple[SegmentAgreement, ...] = ()
    requests: int = field(default=0, metadata=LATER)
    design_effect: float | None = field(default=None, metadata=LATER)


@dataclass(frozen=True)
class ExperimentDesign:
    """An A/B test as it was fixed before its first outcome; `rayplat.registry.statistics` says what is tested.

    ``kind`` is ``proportion`` (outcomes 0 or 1) or ``mean``. The candidate wins when its gain on ``metric`` is above
    ``-margin``, with at most ``alpha`` risk over all looks together. ``min_effect`` is the gain worth finding: it sets
    the mixing variance (where ``mixing_variance`` is 0) and the power. ``variance`` of one outcome, as assumed for the
    power. No look counts before ``min_samples`` in each arm nor after ``max_samples`` in both; ``share`` of the
    requests go to the candidate. ``sides`` is ``greater`` or ``two-sided``.
    """

    metric: str
    kind: str
    alpha: float
    min_effect: float
    variance: float
    max_samples: int
    min_samples: int = 100
    margin: float = 0.0
    mixing_variance: float = 0.0
    share: float = 0.5
    sides: str = "greater"
    higher_is_better: bool = True


@dataclass(frozen=True)
class ArmOutcomes:
    """Outcomes of one arm: how many, their sum and the sum of their squares (for a proportion, both the successes)."""

    samples: int
    total: float
    squares: float


@dataclass(frozen=True)
class ExperimentEvidence:
    """One look at an A/B test. ``design`` must be the one that was recorded before ``first_outcome_at``."""

    design: ExperimentDesign
    candidate: ArmOutcomes
    baseline: ArmOutcomes
    first_outcome_at: datetime


@dataclass(frozen=True)
class FairnessGroup:
    """Counts of one group (``column=value``): rows, those with a positive label, those predicted positive, and those
    that are both."""

    segment: str
    rows: int
    positives: int
    predicted_positives: int
    true_positives: int


@dataclass(frozen=True)
class FairnessEvidence:
    """What the candidate does to each group when scores of at least ``threshold`` count as positive."""

    threshold: float
    groups: tuple[FairnessGroup, ...]


@dataclass(frozen=True)
class Evidence:
    """What an evaluation saw. ``dataset`` is the digest of the pinned holdout; metrics of candidate and of the
    version the alias pointed at (``baseline_version`` None: the alias did not exist); ``parity`` of the features
    between online and offline, where the policy asks for it.

    It is one document: evidence that comes later (a shadow, an experiment) is handed in together with what was there.
    ``custom`` is for gates of one's own, plain JSON; ``errors`` are what evaluators died of, and any of them fails
    every gate. ``candidate_digest``, where given, is the tree that was measured.
    """

    dataset: str
    rows: int
    candidate: dict[str, float]
    baseline_version: int | None = None
    baseline: dict[str, float] | None = None
    parity: ParityEvidence | None = None
    comparisons: tuple[Comparison, ...] = ()
    latency: LatencyEvidence | None = None
    shadow: ShadowEvidence | None = None
    experiment: ExperimentEvidence | None = None
    fairness: FairnessEvidence | None = None
    custom: dict[str, Any] = field(default_factory=dict)
    errors: tuple[str, ...] = ()
    candidate_digest: str = ""
