"""A shadow's verdict: its answers beside the primary's to the same requests, paired in the inference log.

A pair is one row of one request that both answered. Requests whose id was used twice on one side are left out: it is
not known which belongs to which. Rows of one request are not independent: intervals are those of requests (`paired`).
Errors and latencies are counted by request. `shadow` gathers the rows, `judge` is pure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from rayplat.errors import InvalidInput, NotFound
from rayplat.serve.log.reading import LogReader, Window
from rayplat.serve.log.schema import ANSWERED, SHADOW
from rayplat.serve.release import paired
from rayplat.types import SegmentAgreement, SegmentVerdict, ShadowEvidence, ShadowVerdict

if TYPE_CHECKING:
    import pandas as pd

    from rayplat.data.tables import Tables

PRIMARY = "primary"
_MOST_SEGMENTS = 200
_KEY = ["request_id", "row"]


@dataclass(frozen=True)
class Agreement:
    """When two answers are the same: on the same side of ``threshold``, or not further apart than ``tolerance``.
    Neither given: the threshold 0.5, for probabilities. Answers that are no single number agree when they are equal.
    """

    threshold: float | None = None
    tolerance: float | None = None

    def __post_init__(self) -> None:
        if self.threshold is not None and self.tolerance is not None:
            raise InvalidInput("tolerance", "give a threshold for classes or a tolerance for numbers, not both")
        for name, value in (("threshold", self.threshold), ("tolerance", self.tolerance)):
            if value is not None and not math.isfinite(value):
                raise InvalidInput(name, f"{value} is not finite")
        if self.tolerance is not None and self.tolerance < 0:
            raise InvalidInput("tolerance", f"{self.tolerance} is below 0")

    @property
    def words(self) -> str:
        if self.tolerance is not None:
            return f"at most {self.tolerance:g} apart"
        return f"the same side of {0.5 if self.threshold is None else self.threshold:g}"

    def of(self, candidate: npt.NDArray[np.float64], primary: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
        """Whether each pair of numbers [n] agrees. Raises `InvalidInput` where no rule fits them."""
        if self.tolerance is not None:
            return np.asarray(np.abs(candidate - primary) <= self.tolerance)
        both = np.concatenate([candidate, primary])
        if self.threshold is None and len(both) and not ((both >= 0) & (both <= 1)).all():
            raise InvalidInput("threshold", "predictions are no probabilities: say --threshold or --tolerance")
        at = 0.5 if self.threshold is None else self.threshold
        return np.asarray((candidate >= at) == (primary >= at))


@dataclass(frozen=True)
class Question:
    """What to compare: ``shadow`` (an alias or a version's number) with the model's own answers, by values of the
    inputs ``segments``. ``versions`` are (candidate, primary) where exact ones are asked for; None: the newest pair.
    """

    window: Window
    shadow: str
    agreement: Agreement = Agreement()
    segments: tuple[str, ...] = ()
    level: float = 0.95
    versions: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if not 0.5 < self.level < 1:
            raise InvalidInput("level", f"{self.level} is no level above 0.5 and below 1")


def shadow(tables: Tables, asked: Question) -> ShadowVerdict:
    """The verdict on a shadow. Raises `NotFound` where there is no log, no shadow's answer, or no pair."""
    log = LogReader(tables)
    names = [asked.shadow] + ([f"v{asked.shadow}"] if asked.shadow.isdigit() else [])
    copies = log.frame(asked.window, (pc.field("role") == SHADOW) & pc.field("variant").isin(names))
    if copies.empty:
        seen = log.frame(asked.window, pc.field("role") == SHADOW, more=["variant"])["variant"].unique()
        hint = f"the log has shadows {', '.join(sorted(seen))}" if len(seen) else "the log has no shadow's answers"
        raise NotFound("shadow", f"{asked.shadow} of {asked.window.model}", f"{hint} in this time")
    own = log.frame(asked.window, pc.field("role") == PRIMARY, asked.segments, ["alias"])
    return judge(asked, copies, own, log.version.manifest_digest)


def judge(asked: Question, copies: pd.DataFrame, own: pd.DataFrame, log: str) -> ShadowVerdict:
    """The verdict from the shadow's rows and the primary's."""
    notes: list[str] = []
    pairs = _once(copies, "the shadow", notes).merge(
        _once(own, "the primary", notes), on=_KEY, suffixes=("_c", "_p"), validate="one_to_one"
    )
    if pairs.empty:
        raise NotFound("pairs", f"{asked.shadow} of {asked.window.model}", "no request was answered by both")
    versions = asked.versions or _newest(pairs)
    chosen = pairs[(pairs["version_c"] == versions[0]) & (pairs["version_p"] == versions[1])]
    if len(chosen) < len(pairs):
        notes.append(f"{len(pairs) - len(chosen)} pairs of other versions are left out")
    if chosen.empty:
        found = sorted({f"{c} beside {p}" for c, p in zip(pairs["version_c"], pairs["version_p"], strict=True)})
        what = f"version {versions[0]} beside {versions[1]}"
        raise NotFound("pairs", what, f"the log has {', '.join(found)}")
    chosen = chosen[chosen["status_p"] == ANSWERED]
    answered = chosen[chosen["status_c"] == ANSWERED]
    failed = int(chosen["request_id"].nunique() - answered["request_id"].nunique())
    if answered.empty:
        raise NotFound("pairs", f"{asked.shadow} of {asked.window.model}", f"the shadow failed all {failed}")
    alone = len(copies) - len(pairs)
    if alone > 0:
        notes.append(f"{alone} of {len(copies)} of the shadow's rows have no answer of the primary's own beside them")
    evidence, by_segment = _evidence(asked, answered, failed, notes)
    return _verdict(asked, (versions, str(answered["alias"].iloc[-1])), evidence, by_segment, log=log, notes=notes)


def _once(rows: pd.DataFrame, whose: str, notes: list[str]) -> pd.DataFrame:
    """Without requests of which a row is there twice: ids that clients used again."""
    twice = rows.duplicated(_KEY, keep=False)
    if twice.any():
        twice = rows["request_id"].isin(rows.loc[twice, "request_id"].unique())
        notes.append(f"{int(twice.sum())} rows of {whose} have an id that was used again, and are left out")
    return rows[~twice]


def _newest(pairs: pd.DataFrame) -> tuple[int, int]:
    last = pairs.loc[pairs["received_at_c"].idxmax()]
    return int(last["version_c"]), int(last["version_p"])


def _evidence(
    asked: Question, pairs: pd.DataFrame, errors: int, notes: list[str]
) -> tuple[ShadowEvidence, tuple[SegmentVerdict, ...]]:
    request = pairs["request_id"].factorize()[0]
    agreed = _agreed(asked.agreement, pairs)
    whole = paired.agreement("", request, agreed)
    shift, shift_error = paired.shift(request, (pairs["prediction_c"] - pairs["prediction_p"]).to_numpy(np.float64))
    requests = pairs.drop_duplicates("request_id")
    latencies = [
        float(np.percentile(requests[column], at)) for column in ("latency_ms_c", "latency_ms_p") for at in (50, 99)
    ]
    segments = _segments(asked, pairs, request, agreed, notes=notes)
    evidence = ShadowEvidence(
        pairs=whole.pairs,
        agreed=whole.agreed,
        errors=errors,
        score_shift=shift,
        score_shift_error=shift_error,
        candidate_p50_ms=latencies[0],
        candidate_p99_ms=latencies[1],
        primary_p50_ms=latencies[2],
        primary_p99_ms=latencies[3],
        by_segment=segments,
        requests=whole.requests,
        design_effect=whole.design_effect,
    )
    return evidence, tuple(
        SegmentVerdict(s.segment, s.pairs, s.requests, paired.share(s, asked.level)) for s in segments
    )


def _agreed(rule: Agreement, pairs: pd.DataFrame) -> npt.NDArray[np.bool_]:
    candidate = pairs["prediction_c"].to_numpy(np.float64)
    primary = pairs["prediction_p"].to_numpy(np.float64)
    numbers = ~np.isnan(candidate) & ~np.isnan(primary)
    found = np.zeros(len(pairs), dtype=bool)
    found[numbers] = rule.of(candidate[numbers], primary[numbers])
    neither = np.isnan(candidate) & np.isnan(primary)
    found[neither] = (pairs["answer_c"] == pairs["answer_p"]).to_numpy()[neither]
    return found


def _segments(
    asked: Question,
    pairs: pd.DataFrame,
    request: paired.Codes,
    agreed: npt.NDArray[np.bool_],
    *,
    notes: list[str],
) -> tuple[SegmentAgreement, ...]:
    found: list[SegmentAgreement] = []
    for name in asked.segments:
        values = pairs[f"input:{name}"]
        if values.isna().all():
            raise NotFound("input", name, "no request of the log has a value of that name")
        shown, there = paired.by_value(name, values, request, agreed, _MOST_SEGMENTS)
        if there > len(shown):
            notes.append(f"{name} has {there} values: the {_MOST_SEGMENTS} most frequent are shown")
        found += shown
    return tuple(found)


def _verdict(
    asked: Question,
    sides: tuple[tuple[int, int], str],
    evidence: ShadowEvidence,
    by_segment: Sequence[SegmentVerdict],
    *,
    log: str,
    notes: Sequence[str],
) -> ShadowVerdict:
    (candidate, primary), alias = sides
    whole = SegmentAgreement("", evidence.pairs, evidence.agreed, evidence.requests, evidence.design_effect)
    return ShadowVerdict(
        model=asked.window.model,
        primary=alias,
        primary_version=primary,
        shadow=asked.shadow,
        shadow_version=candidate,
        since=asked.window.since,
        until=asked.window.until,
        rule=asked.agreement.words,
        level=asked.level,
        agreement=paired.share(whole, asked.level),
        error_rate=paired.rate(evidence.errors, evidence.requests + evidence.errors, asked.level),
        score_shift=paired.mean(evidence.score_shift, evidence.score_shift_error, evidence.requests, asked.level),
        evidence=evidence,
        log=log,
        by_segment=tuple(by_segment),
        notes=tuple(notes),
    )
