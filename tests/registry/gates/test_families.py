"""Each gate's own refusals."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from rayplat.types import ArmOutcomes, FairnessEvidence, LatencyEvidence, ParityEvidence, SegmentAgreement
from tests.registry.gates.cases import CASE, DESIGN, DIGEST, GOOD, HOLDOUT, VERIFIED, WON, spoilt, verdict

NO_NUMBER = [math.nan, math.inf, -math.inf, None, "0.7", True]
NO_COUNT = [-1, None, True, 5000.0, "7"]


def refused(gate: str, said: str, **evidence: Any) -> None:
    params = {k.removeprefix("p_"): evidence.pop(k) for k in list(evidence) if k.startswith("p_")}
    ok, reason = verdict(gate, spoilt(**evidence), **params)
    assert not ok
    assert said in reason


@pytest.mark.parametrize("value", NO_NUMBER)
def test_a_metric_that_is_no_finite_number_fails_on_either_side(value: Any) -> None:
    for gate in ("metric_floor", "leak_ceiling", "better_than_champion"):
        refused(gate, "a finite number is needed", candidate={"auc": value})
    refused("better_than_champion", "of version 1", baseline={"auc": value})


@pytest.mark.parametrize("metrics", [{}, {"loss": 0.1}, None])
def test_a_missing_metric_fails_on_either_side(metrics: Any) -> None:
    refused("metric_floor", "missing", candidate=metrics)
    refused("better_than_champion", "missing", baseline=metrics)


def test_floor_and_ceiling_are_inclusive_and_the_ceiling_names_leakage() -> None:
    for value, floor, ceiling in ((0.6, True, True), (0.5999, False, True), (0.8, True, True), (0.8001, True, False)):
        case = spoilt(candidate={"auc": value})
        assert (verdict("metric_floor", case)[0], verdict("leak_ceiling", case)[0]) == (floor, ceiling)
    refused("leak_ceiling", "suspected leakage", candidate={"auc": 0.9})


def test_a_candidate_that_is_not_as_good_as_the_champion_fails() -> None:
    assert verdict("better_than_champion", spoilt(candidate={"auc": 0.69}))[0]
    refused("better_than_champion", "0.6899 against 0.6900", candidate={"auc": 0.6899})
    refused("better_than_champion", "wanted gain 0.05", p_min_gain=0.05)


@pytest.mark.parametrize("rows", [999, 0, *NO_COUNT[:-2], 5000.0])
def test_too_few_rows_fail(rows: Any) -> None:
    refused("enough_rows", "at least 1000", rows=rows)


@pytest.mark.parametrize("dataset", ["", "holdout", None, "sha256:123", "sha256:" + "D" * 64])
def test_a_data_set_that_is_not_pinned_fails(dataset: Any) -> None:
    refused("pinned_dataset", "is not the digest of a data set", dataset=dataset)


def test_a_policy_may_ask_for_exactly_one_dataset_version() -> None:
    assert verdict("pinned_dataset", dataset=HOLDOUT)[0]
    ok, reason = verdict("pinned_dataset", dataset="sha256:" + "e" * 64)
    assert not ok
    assert reason == f"evaluated on {HOLDOUT}, but the policy asks for exactly sha256:{'e' * 64}"


@pytest.mark.parametrize(
    ("parity", "said"),
    [
        (None, "no parity was measured"),
        (ParityEvidence(99, 0), "at least 100 are needed"),
        (ParityEvidence(1000, 2), "differ (0.2000%)"),
        (ParityEvidence(1000, 1001), "is no count"),
        (ParityEvidence(1000, -1), "is no count"),
        (ParityEvidence(True, 0), "is no count"),
    ],
)
def test_parity(parity: ParityEvidence | None, said: str) -> None:
    refused("feature_parity", said, parity=parity, p_max_mismatch=0.001)


def comparison(index: int, **changes: Any) -> dict[str, Any]:
    given = list(GOOD.comparisons)
    given[index] = replace(given[index], **changes)
    return {"comparisons": tuple(given)}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"candidate": 0.6925, "difference": 0.0025}, "among the metrics"),
        ({"standard_error": 0.02}, "lower bound -0.0029"),
        ({"standard_error": 0.0}, "cannot be"),
        ({"standard_error": -0.1}, "cannot be"),
        ({"standard_error": math.nan}, "must be finite"),
        ({"baseline": None}, "must be finite"),
        ({"difference": True}, "must be finite"),
        ({"difference": 0.05}, "is not 0.05"),
        ({"candidate": 0.0, "difference": -0.69}, "is 0.72 among the metrics, but 0.0"),
        ({"baseline": 0.5, "difference": 0.22}, "is 0.69 among the metrics, but 0.5"),
        ({"higher_is_better": False}, "takes less auc for better"),
        ({"rows": 999}, "at least 1000"),
        ({"rows": 60_000}, "is no count"),
        ({"rows": -5}, "is no count"),
        ({"segment": "x=y"}, "0 comparisons of auc over all rows"),
    ],
)
def test_the_interval_against_the_champion(changes: dict[str, Any], said: str) -> None:
    refused("champion_interval", said, **comparison(0, **changes))


def test_margins_gains_and_metrics_where_less_is_better() -> None:
    assert verdict("champion_interval", metric="log_loss", min_gain=0.05)[0]
    assert not verdict("champion_interval", metric="log_loss", min_gain=0.09)[0]
    worse = spoilt(**comparison(0, standard_error=0.02))
    assert verdict("champion_interval", worse, margin=0.005)[0]
    assert not verdict("champion_interval", worse, margin=0.005, level=0.99)[0]
    twice = spoilt(comparisons=(*GOOD.comparisons, GOOD.comparisons[0]))
    assert "2 comparisons" in verdict("champion_interval", twice)[1]


def test_the_worst_segment_decides_and_small_ones_are_named() -> None:
    assert "too few rows to judge: HPN" in verdict("segments", column="origin")[1]
    ok, reason = verdict("segments", spoilt(**comparison(3, difference=-0.02, candidate=0.67)), column="origin")
    assert not ok
    assert reason.startswith("1 of 2 segments: gain in auc where origin=LGA -0.0200")
    for params, said in (
        ({"required": ["HPN"]}, "origin=HPN has 12 rows, at least 200"),
        ({"required": ["EWR"]}, "origin=EWR has 0 rows"),
        ({"column": "dest"}, "no segment of dest"),
        ({"floor": 0.72}, "auc where origin=LGA is 0.7100"),
    ):
        ok, reason = verdict("segments", **{"column": "origin", **params})
        assert not ok
        assert said in reason
    refused("segments", "is given twice", comparisons=(*GOOD.comparisons, GOOD.comparisons[2]), p_column="origin")
    refused("segments", "all rows are 30000", rows=30_000, p_column="origin")
    refused("segments", "a finite number is needed", **comparison(2, candidate=math.nan), p_column="origin")


@pytest.mark.parametrize(
    ("latency", "said"),
    [
        (None, "no latency"),
        (LatencyEvidence(99, 1, 2, 1), "at least 100"),
        (LatencyEvidence(500, 1, 5.1, 1), "the budget is p99 5 ms"),
        (LatencyEvidence(500, 3, 4, 1), "p50 2 ms"),
        (LatencyEvidence(500, 4, 3, 1), "no measurement"),
        (LatencyEvidence(500, math.nan, 3, 1), "no measurement"),
        (LatencyEvidence(500, 0, 3, 1), "no measurement"),
        (LatencyEvidence(-5, 1, 3, 1), "no measurement"),
    ],
)
def test_latency_budget(latency: LatencyEvidence | None, said: str) -> None:
    refused("latency_budget", said, latency=latency, p_p99_ms=5, p_p50_ms=2)


@pytest.mark.parametrize("size", [0, *NO_COUNT])
def test_size_budget(size: Any) -> None:
    refused("size_budget", "a count of bytes", latency=LatencyEvidence(500, 1, 2, size), p_max_bytes=100)
    refused("size_budget", "at most 100", latency=LatencyEvidence(500, 1, 2, 101), p_max_bytes=100)


def test_verification() -> None:
    for gate, changes, said in (
        ("intact", {"intact": False}, "do not match"),
        ("intact", {"intact": "yes"}, "do not match"),
        ("signed", {"signed": False}, "no valid signature"),
        ("safe_format", {"format": "pickle", "runs_code": True}, "there is no waiver"),
        ("safe_format", {"format": ""}, "the format is ''"),
        ("schema_compatible", {"schema_problems": ("input 'wind' is new",)}, "input 'wind' is new"),
    ):
        ok, reason = verdict(gate, replace(CASE, verification=replace(VERIFIED, **changes)))
        assert not ok
        assert said in reason
    for gate in ("intact", "signed", "safe_format", "schema_compatible"):
        assert "has not verified" in verdict(gate, replace(CASE, verification=None))[1]
        other = replace(CASE, verification=replace(VERIFIED, digest=HOLDOUT))
        assert verdict(gate, other) == (False, f"the verification is of {HOLDOUT}, the promotion of {DIGEST}")
    waived = replace(CASE, verification=replace(VERIFIED, format="pickle", runs_code=True, waived=True))
    assert verdict("safe_format", waived)[0]
    assert not verdict("safe_format", formats=["onnx"])[0]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"pairs": 900, "agreed": 900}, "at least 1000"),
        ({"agreed": 4770}, "lower bound 0.94"),
        ({"agreed": 5001}, "is no count"),
        ({"pairs": True}, "is no count"),
        ({"errors": -1}, "is no count"),
        ({"errors": 60}, "60 of 5060 requests failed"),
        ({"requests": 0}, "does not say in how many requests"),
        ({"requests": 5001}, "in 5001 requests is no count"),
        ({"requests": True}, "in True requests is no count"),
        ({"requests": 199, "design_effect": 1.0}, "at least 200 requests are needed"),
        ({"requests": 2500}, "design effect None is no number"),
        ({"requests": 2500, "design_effect": math.nan}, "design effect nan is no number"),
        ({"requests": 2500, "design_effect": 0.5}, "design effect 0.5 is no number"),
        ({"requests": 2500, "design_effect": 50.0}, "lower bound 0.94"),
        ({"requests": 1000, "design_effect": 5.0}, "2000 requests of 1000 is no count"),
        ({"candidate_p99_ms": 6.0}, "p99 is 1.58"),
        ({"candidate_p99_ms": math.nan}, "no positive numbers"),
        ({"primary_p99_ms": 0}, "no positive numbers"),
        ({"candidate_p50_ms": 5.0}, "above its p99"),
        ({"score_shift": math.nan}, "no finite number"),
        ({"score_shift_error": -1.0}, "no finite number"),
        ({"score_shift_error": None}, "no finite number"),
        ({"score_shift": 0.02}, "scores shift"),
        ({"by_segment": ()}, "given 0 times"),
        ({"by_segment": (SegmentAgreement("origin=JFK", 2000, 1970),)}, "origin=JFK: it does not say in how many"),
        ({"by_segment": (SegmentAgreement("origin=JFK", 2000, 1970, 49, 1.0),)}, "at least 50 requests are needed"),
        ({"by_segment": (SegmentAgreement("origin=JFK", 2000, 1930, 500, 8.0),)}, "origin=JFK: 1930 of 2000 pairs in"),
    ],
)
def test_shadow_agreement(changes: dict[str, Any], said: str) -> None:
    assert GOOD.shadow is not None
    shadow = replace(GOOD.shadow, **changes)
    refused("shadow_agreement", said, shadow=shadow, p_max_score_shift=0.01, p_segments=["origin=JFK"])


def test_a_shadow_needs_requests_and_not_only_rows() -> None:
    assert GOOD.shadow is not None
    shadow = replace(GOOD.shadow, pairs=10_000, agreed=10_000, requests=1, design_effect=10_000.0)
    ok, reason = verdict("shadow_agreement", spoilt(shadow=shadow))
    assert (ok, reason) == (False, "10000 pairs in 1 requests, at least 200 requests are needed")
    few = replace(GOOD.shadow, pairs=60, agreed=60, requests=60, errors=0)
    lenient: dict[str, Any] = {"min_pairs": 60, "min_agreement": 0.9, "max_error_rate": 0.05}
    assert verdict("shadow_agreement", spoilt(shadow=few), **lenient)[0]  # a policy's own smaller number holds
    ok, reason = verdict("shadow_agreement", spoilt(shadow=few), **lenient, min_requests=61)
    assert (ok, reason) == (False, "60 pairs in 60 requests, at least 61 requests are needed")
    rows = replace(GOOD.shadow, requests=1000, design_effect=1.5)
    assert verdict("shadow_agreement", spoilt(shadow=rows))[0]


def test_no_error_among_too_few_requests_proves_no_low_rate() -> None:
    shadow = replace(GOOD.shadow, errors=0)  # type: ignore[type-var]
    assert verdict("shadow_agreement", spoilt(shadow=shadow), max_error_rate=0.001)[0]
    assert not verdict("shadow_agreement", spoilt(shadow=shadow), max_error_rate=0.0001)[0]
    assert verdict("shadow_agreement", spoilt(shadow=shadow), max_error_rate=0)[0]
    assert not verdict("shadow_agreement", max_error_rate=0)[0]


@pytest.mark.parametrize(
    ("experiment", "said"),
    [
        (None, "no experiment has run"),
        (replace(WON, design=replace(DESIGN, alpha=0.04)), "recorded before the test was"),
        (replace(WON, first_outcome_at=WON.first_outcome_at - timedelta(seconds=1)), "older than its design"),
        (replace(WON, candidate=ArmOutcomes(10_000, 1010, 1010)), "20 wins"),
        (replace(WON, candidate=ArmOutcomes(900, 200, 200)), "at least 1000"),
        (replace(WON, candidate=ArmOutcomes(31_000, 4200, 4200)), "was to end at 40000"),
        (replace(WON, candidate=ArmOutcomes(12_000, 1700, 1700)), "requests were lost"),
        (replace(WON, candidate=ArmOutcomes(10_000, 1400.5, 1400.5)), "no successes"),
        (replace(WON, candidate=ArmOutcomes(10_000, 1400, 1500)), "no successes"),
        (replace(WON, candidate=ArmOutcomes(10_000, math.nan, 1400)), "no count of outcomes"),
        (replace(WON, candidate=ArmOutcomes(True, 1, 1)), "no count of outcomes"),
    ],
)
def test_the_experiment(experiment: Any, said: str) -> None:
    refused("experiment", said, experiment=experiment, p_metric="accepted")


def test_an_experiment_without_a_recorded_design_or_of_a_laxer_one_fails() -> None:
    assert "no design was recorded" in verdict("experiment", replace(CASE, experiment=None), metric="accepted")[1]
    assert "its alpha 0.05" in verdict("experiment", metric="accepted", max_alpha=0.01)[1]
    assert "measures 'accepted'" in verdict("experiment", metric="clicks")[1]


def groups(index: int, **changes: Any) -> dict[str, Any]:
    assert GOOD.fairness is not None
    given = list(GOOD.fairness.groups)
    given[index] = replace(given[index], **changes)
    return {"fairness": FairnessEvidence(0.5, tuple(given))}


def test_fairness() -> None:
    assert "too few rows to judge: carrier=HA" in verdict("fairness", column="carrier")[1]
    refused("fairness", "selected at 0.769", **groups(1, predicted_positives=1800), p_column="carrier")
    refused("fairness", "true-positive rate of carrier=UA", **groups(1, true_positives=1300), p_column="carrier")
    refused("fairness", "do not add up", **groups(1, true_positives=2300), p_column="carrier")
    refused("fairness", "holds no counts", **groups(1, rows=-1), p_column="carrier")
    refused("fairness", "given twice", **groups(1, segment="carrier=AA"), p_column="carrier")
    refused("fairness", "all rows are 1000", rows=1000, p_column="carrier")
    refused("fairness", "no fairness", fairness=None, p_column="carrier")
    refused("fairness", "0 groups", p_column="origin")
    refused("fairness", "carrier=HA is missing or too small", p_column="carrier", p_required=["HA"])
    threshold = replace(GOOD.fairness, threshold=math.nan)  # type: ignore[type-var]
    refused("fairness", "the threshold nan", fairness=threshold, p_column="carrier")


def test_a_fair_ratio_of_too_few_rows_is_not_proven() -> None:
    small = tuple(
        replace(g, rows=300, positives=75, predicted_positives=78, true_positives=54) for g in GOOD.fairness.groups
    )  # type: ignore[union-attr]
    ok, reason = verdict("fairness", spoilt(fairness=FairnessEvidence(0.5, small)), column="carrier")
    assert not ok
    assert "selected at 1.000" in reason
