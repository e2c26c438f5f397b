"""What came of comparing versions on live requests: a shadow beside the primary, the arms of an A/B test."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from rayplat.types.evidence import ExperimentEvidence, ShadowEvidence


@dataclass(frozen=True)
class Estimate:
    """A figure with its interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class SegmentVerdict:
    """Agreement within ``column=value``, of ``pairs`` of rows in ``requests``."""

    segment: str
    pairs: int
    requests: int
    agreement: Estimate


@dataclass(frozen=True)
class ShadowVerdict:
    """How a shadow did on requests received in ``since <= t < until``. ``rule`` says in words when two answers agree;
    intervals are two-sided at ``level``, from requests, whose rows are not independent. ``error_rate`` is a share of
    requests. ``score_shift`` is None where fewer than two requests tell it. ``log`` is the digest of the version of the
    log that was read, ``evidence`` what the gate decides on."""

    model: str
    primary: str
    primary_version: int
    shadow: str
    shadow_version: int
    since: datetime
    until: datetime
    rule: str
    level: float
    agreement: Estimate
    error_rate: Estimate
    score_shift: Estimate | None
    evidence: ShadowEvidence
    log: str
    by_segment: tuple[SegmentVerdict, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ArmVerdict:
    """One arm of an A/B test: the units that were assigned to it, how many of them have an outcome by now, and the
    outcomes' mean (None: there are none)."""

    version: int
    units: int
    outcomes: int
    mean: float | None


@dataclass(frozen=True)
class ExperimentVerdict:
    """One look at an A/B test, which may be taken as often as one likes. ``gain`` is oriented so that more is better;
    its interval holds for all looks together at 1 - alpha (None where an arm has no variance). The candidate has won
    when ``ratio`` reaches ``needed``. ``split_p`` is the chance of so uneven an assignment under the design's share.
    ``unit`` says what was counted once. ``verdict`` is ``candidate wins``, ``undecided`` or ``not won``."""

    promotion_id: str
    model: str
    metric: str
    unit: str
    since: datetime
    until: datetime
    candidate: ArmVerdict
    baseline: ArmVerdict
    gain: Estimate | None
    ratio: float | None
    needed: float
    split_p: float
    verdict: str
    evidence: ExperimentEvidence
    notes: tuple[str, ...] = ()
