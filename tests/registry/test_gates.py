from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from rayplat.registry import gates
from rayplat.registry.gates import GatePolicy
from rayplat.types import Evidence, ParityEvidence, Verdict

POLICY = GatePolicy()
GOOD = Evidence("sha256:" + "d" * 64, 50_000, {"auc": 0.72}, 1, {"auc": 0.69})
FIRST = replace(GOOD, baseline_version=None, baseline=None)


def failed(evidence: Evidence | None, champion: int | None = 1, policy: GatePolicy = POLICY) -> dict[str, str]:
    results = gates.decide(policy, evidence, champion)
    bad = {r.gate: r.reason for r in results if r.verdict is Verdict.FAIL}
    assert gates.passed(results) is not bool(bad)
    return bad


def test_a_better_candidate_passes_and_so_does_the_first_of_an_alias() -> None:
    assert failed(GOOD) == {}
    assert failed(FIRST, champion=None) == {}
    assert all(r.reason for r in gates.decide(POLICY, GOOD, 1))


def test_no_evidence_and_no_results_fail() -> None:
    assert list(failed(None)) == ["evidence"]
    assert not gates.passed(())


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, None, "0.7", True])
def test_a_metric_that_is_no_finite_number_fails_on_either_side(value: Any) -> None:
    bad = failed(replace(GOOD, candidate={"auc": value}))
    assert set(bad) == {"metric floor", "leak ceiling", "better than champion"}
    assert "a finite number is needed" in bad["metric floor"]
    assert set(failed(replace(GOOD, baseline={"auc": value}))) == {"better than champion"}


@pytest.mark.parametrize("metrics", [{}, {"loss": 0.1}, None])
def test_a_missing_metric_fails_on_either_side(metrics: Any) -> None:
    assert "missing" in failed(replace(GOOD, candidate=metrics))["metric floor"]
    assert "missing" in failed(replace(GOOD, baseline=metrics))["better than champion"]


def test_the_floor_and_the_ceiling_are_inclusive_and_the_ceiling_names_leakage() -> None:
    edge = replace(FIRST, candidate={"auc": 0.6})
    assert failed(edge, champion=None) == {}
    assert set(failed(replace(FIRST, candidate={"auc": 0.5999}), champion=None)) == {"metric floor"}
    assert failed(replace(FIRST, candidate={"auc": 0.8}), champion=None) == {}
    bad = failed(replace(GOOD, candidate={"auc": 0.8001}))
    assert set(bad) == {"leak ceiling"}
    assert "suspected leakage" in bad["leak ceiling"]


def test_a_candidate_that_is_not_as_good_as_the_champion_fails() -> None:
    assert failed(replace(GOOD, candidate={"auc": 0.69})) == {}
    assert set(failed(replace(GOOD, candidate={"auc": 0.6899}))) == {"better than champion"}
    assert set(failed(GOOD, policy=GatePolicy(min_gain=0.05))) == {"better than champion"}


@pytest.mark.parametrize(("champion", "evidence"), [(2, GOOD), (None, GOOD), (1, FIRST)])
def test_evidence_against_another_than_the_present_champion_fails(champion: int | None, evidence: Evidence) -> None:
    assert "evaluate again" in failed(evidence, champion)["better than champion"]


@pytest.mark.parametrize("rows", [999, 0, -1, None, True, 5000.0])
def test_too_few_rows_fail(rows: Any) -> None:
    assert set(failed(replace(GOOD, rows=rows))) == {"enough rows"}


@pytest.mark.parametrize("dataset", ["", "holdout", None, "sha256:123"])
def test_a_data_set_that_is_not_pinned_fails(dataset: Any) -> None:
    assert set(failed(replace(GOOD, dataset=dataset))) == {"pinned dataset"}


@pytest.mark.parametrize(
    ("parity", "said"),
    [
        (None, "no parity was measured"),
        (ParityEvidence(99, 0), "at least 100 are needed"),
        (ParityEvidence(1000, 2), "differ"),
        (ParityEvidence(1000, 1001), "is no count"),
        (ParityEvidence(1000, -1), "is no count"),
        (ParityEvidence(True, 0), "is no count"),
    ],
)
def test_a_policy_that_asks_for_parity_is_closed_without_it(parity: ParityEvidence | None, said: str) -> None:
    policy = replace(POLICY, max_parity_mismatch=0.001)
    assert said in failed(replace(GOOD, parity=parity), policy=policy)["feature parity"]
    assert failed(replace(GOOD, parity=parity)) == {}  # not asked for


def test_parity_within_the_policy_passes() -> None:
    policy = replace(POLICY, max_parity_mismatch=0.001)
    assert failed(replace(GOOD, parity=ParityEvidence(1000, 1)), policy=policy) == {}
    exact = replace(POLICY, max_parity_mismatch=0.0)
    assert failed(replace(GOOD, parity=ParityEvidence(1000, 0)), policy=exact) == {}
    assert "feature parity" in failed(replace(GOOD, parity=ParityEvidence(1000, 1)), policy=exact)
