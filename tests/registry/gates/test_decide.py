from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from rayplat.errors import InvalidInput
from rayplat.registry import gates
from rayplat.registry.gates import BUILT_IN, STAGES, decide
from rayplat.types import GateResult, GateSpec, Verdict
from tests.registry.gates.cases import CASE, DIGEST, FIRST, GOOD, VERIFIED, spoilt, verdict

PARAMS: dict[str, dict[str, Any]] = {
    "latency_budget": {"p99_ms": 5},
    "size_budget": {"max_bytes": 10**7},
    "segments": {"column": "origin"},
    "fairness": {"column": "carrier"},
    "experiment": {"metric": "accepted"},
    "custom": {"function": "a.b:c", "digest": DIGEST},
}
SPECS = tuple(GateSpec(name, PARAMS.get(name, {})) for name in BUILT_IN)


@pytest.mark.parametrize("name", [name for name in BUILT_IN if name != "custom"])
def test_every_built_in_passes_the_good_case_and_the_first_version_of_an_alias(name: str) -> None:
    assert verdict(name, **PARAMS.get(name, {}))[0], verdict(name, **PARAMS.get(name, {}))
    assert verdict(name, FIRST, **PARAMS.get(name, {}))[0]


@pytest.mark.parametrize("name", list(BUILT_IN))
def test_every_built_in_fails_without_evidence(name: str) -> None:
    nothing = replace(CASE, evidence=None, verification=None)
    assert not verdict(name, nothing, **PARAMS.get(name, {}))[0]


@pytest.mark.parametrize("name", [g.name for g in BUILT_IN.values() if g.stage != "verify"])
def test_a_crashed_evaluator_and_another_candidate_fail_every_gate(name: str) -> None:
    ok, reason = verdict(name, spoilt(errors=("MemoryError: at row 7", "x")), **PARAMS.get(name, {}))
    assert (ok, reason) == (False, "the evaluator reported 'MemoryError: at row 7' and 1 more")
    ok, reason = verdict(name, spoilt(candidate_digest="sha256:" + "b" * 64), **PARAMS.get(name, {}))
    assert not ok
    assert "the promotion about" in reason


@pytest.mark.parametrize(
    "name", [n for n in BUILT_IN if n in ("better_than_champion", "champion_interval", "segments")]
)
@pytest.mark.parametrize(("champion", "baseline"), [(2, 1), (None, 1), (1, None), (1, True)])
def test_evidence_against_another_than_the_present_champion_fails(name: str, champion: Any, baseline: Any) -> None:
    case = replace(spoilt(baseline_version=baseline), champion=champion)
    ok, reason = verdict(name, case, **PARAMS.get(name, {}))
    assert not ok
    assert "evaluate again" in reason


def test_a_rule_that_raises_has_not_passed_and_the_others_still_decide() -> None:
    odd = replace(CASE, evidence=replace(GOOD, candidate=None, comparisons=None))  # type: ignore[arg-type]
    results = decide((GateSpec("champion_interval"), GateSpec("enough_rows")), "evaluate", odd)
    assert [r.verdict for r in results] == [Verdict.FAIL, Verdict.PASS]
    assert "the gate itself failed on this evidence: TypeError" in results[0].reason


def test_stages_share_out_all_gates_and_an_unknown_one_fails_first() -> None:
    found = [label for stage in STAGES for label, _ in gates.of_stage(SPECS, stage)]
    assert sorted(found) == sorted(BUILT_IN)
    (result,) = decide((GateSpec("magic"),), "verify", CASE)
    assert result.verdict is Verdict.FAIL
    assert "'magic' is not known" in result.reason


def test_the_same_gate_twice_has_two_names_and_two_verdicts() -> None:
    twice = (GateSpec("metric_floor"), GateSpec("metric_floor", {"metric": "auc", "floor": 0.9}))
    results = decide(twice, "evaluate", CASE)
    assert [(r.gate, r.verdict) for r in results] == [("metric_floor", "pass"), ("metric_floor#2", "fail")]


def test_a_waiver_turns_a_failure_only_and_never_of_bytes_or_code() -> None:
    bad = replace(CASE, verification=replace(VERIFIED, intact=False, signed=False, runs_code=True))
    specs = (GateSpec("intact"), GateSpec("signed"), GateSpec("safe_format"), GateSpec("schema_compatible"))
    results = decide(specs, "verify", bad, {"intact", "signed", "safe_format", "schema_compatible"})
    assert {r.gate: r.verdict.value for r in results} == {
        "intact": "fail",
        "signed": "waived",
        "safe_format": "fail",
        "schema_compatible": "pass",
    }
    assert not gates.passed(results)
    assert gates.passed(results[1:2])
    assert not gates.passed(())


def test_custom_verdicts_come_from_outside_by_name() -> None:
    spec = GateSpec("custom", PARAMS["custom"])
    assert "has not been run" in decide((spec,), "evaluate", CASE)[0].reason
    given = GateResult("custom", Verdict.PASS, "looks fine")
    (result,) = decide((spec,), "evaluate", replace(CASE, custom={"custom": given}))
    assert result == given


@pytest.mark.parametrize(
    ("gate", "params", "said"),
    [
        ("magic", {}, "'magic' is not known"),
        ("metric_floor", {"flor": 0.6}, "'flor' is not known here"),
        ("metric_floor", {"floor": "high"}, "a number is needed"),
        ("metric_floor", {"floor": True}, "a number is needed"),
        ("metric_floor", {"floor": math.nan}, "no JSON number"),
        ("enough_rows", {"min_rows": 0}, "at least 1"),
        ("enough_rows", {"min_rows": 1.5}, "a whole number"),
        ("enough_rows", {"min_rows": True}, "a boolean"),
        ("pinned_dataset", {"dataset": "flights@3"}, "is no digest"),
        ("feature_parity", {"max_mismatch": 1.5}, "a share"),
        ("champion_interval", {"level": 95}, "one-sided confidence"),
        ("champion_interval", {"margin": -0.1}, "at least 0"),
        ("champion_interval", {"margin": 0.1, "min_gain": 0.1}, "not both"),
        ("champion_interval", {"metric": "f2"}, "say whether more is better"),
        ("segments", {}, "'column' is missing"),
        ("latency_budget", {}, "'p99_ms' is missing"),
        ("latency_budget", {"p99_ms": 0}, "above 0"),
        ("shadow_agreement", {"min_agreement": 0}, "a share"),
        ("shadow_agreement", {"min_requests": 0}, "at least 1"),
        ("shadow_agreement", {"min_segment_requests": 0}, "at least 1"),
        ("experiment", {"metric": "x", "max_alpha": 0.5}, "at most 0.2"),
        ("fairness", {"column": "c", "min_ratio": None, "max_difference": None}, "a ratio, a difference or both"),
        ("custom", {"function": "os.system", "digest": DIGEST}, "package.module:name"),
        ("custom", {"function": "a:b", "digest": "sha256:1"}, "no digest"),
        ("custom", {"function": "a:b", "digest": DIGEST, "timeout_s": 1e9}, "at most 600"),
    ],
)
def test_bad_parameters_are_named_when_a_policy_is_set(gate: str, params: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidInput, match=said) as e:
        gates.check([GateSpec(gate, params)])
    assert gate in str(e.value)
