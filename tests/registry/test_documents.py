from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest

from rayplat.errors import InvalidInput
from rayplat.registry import documents
from rayplat.types import AliasPolicy, Evidence, GateSpec, ShadowEvidence
from tests.registry.gates.cases import GOOD


def test_evidence_survives_its_json_and_has_one_digest() -> None:
    text = documents.text(GOOD)
    assert documents.parse(Evidence, text, "evidence") == GOOD
    assert documents.digest(GOOD) == documents.digest(documents.parse(Evidence, text, "evidence"))
    assert documents.digest(replace(GOOD, rows=50_001)) != documents.digest(GOOD)


def test_what_json_lacks_becomes_strings_and_comes_back() -> None:
    odd = replace(GOOD, candidate={"auc": math.nan, "gain": -math.inf}, custom={"x": math.inf})
    found = json.loads(documents.text(odd))
    assert (found["candidate"], found["custom"]) == ({"auc": "nan", "gain": "-inf"}, {"x": "inf"})
    back = documents.parse(Evidence, documents.text(odd), "evidence")
    assert math.isnan(back.candidate["auc"])
    assert back.candidate["gain"] == -math.inf


def test_evidence_of_the_first_release_is_read() -> None:
    old = {
        "dataset": "d",
        "rows": 5,
        "candidate": {"auc": 1},
        "baseline_version": None,
        "baseline": None,
        "parity": None,
    }
    assert documents.build(Evidence, old, "evidence") == Evidence("d", 5, {"auc": 1.0})


def test_what_was_stored_before_a_field_was_added_keeps_its_digest() -> None:
    stored = json.dumps(
        {"pairs": 9, "agreed": 8, "errors": 0, "score_shift": 0.1, "score_shift_error": 0.1, "candidate_p50_ms": 1.0}
        | {"candidate_p99_ms": 2.0, "primary_p50_ms": 1.0, "primary_p99_ms": 2.0}
        | {"by_segment": [{"segment": "a=b", "pairs": 5, "agreed": 5}]}
    )
    old = documents.parse(ShadowEvidence, stored, "shadow")
    assert (old.requests, old.design_effect, old.by_segment[0].requests) == (0, None, 0)
    assert documents.digest(old) == documents.digest(json.loads(stored))
    new = replace(old, requests=9)
    assert documents.parse(ShadowEvidence, documents.text(new), "shadow") == new
    assert documents.digest(new) != documents.digest(old)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"row": 5}, "'row' is not known here"),
        ({"rows": "5"}, "evidence.rows: a whole number is needed"),
        ({"rows": True}, "evidence.rows: a whole number"),
        ({"rows": 5.0}, "evidence.rows: a whole number"),
        ({"candidate": {"auc": "high"}}, "evidence.candidate.auc: a number is needed"),
        ({"candidate": {"auc": True}}, "evidence.candidate.auc: a number is needed"),
        ({"candidate": None}, "evidence.candidate: an object is needed"),
        ({"parity": [1, 2]}, "evidence.parity: an object"),
        ({"parity": {"vectors": 5}}, "'mismatched' is missing"),
        ({"comparisons": {"metric": "auc"}}, "evidence.comparisons: a list"),
        ({"errors": "boom"}, "evidence.errors: a list"),
    ],
)
def test_anything_else_is_refused_by_its_path(change: dict[str, Any], said: str) -> None:
    found = {**documents.plain(GOOD), **change}
    with pytest.raises(InvalidInput, match=said):
        documents.build(Evidence, found, "evidence")


def test_missing_fields_bad_times_and_no_json() -> None:
    with pytest.raises(InvalidInput, match="'dataset' is missing"):
        documents.build(Evidence, {"rows": 5, "candidate": {}}, "evidence")
    for time, said in (("yesterday", "no ISO 8601 time"), ("2013-11-01", "no time zone"), (5, "a time is needed")):
        found = documents.plain(GOOD)
        found["experiment"]["first_outcome_at"] = time
        with pytest.raises(InvalidInput, match=said):
            documents.build(Evidence, found, "evidence")
    with pytest.raises(InvalidInput, match="is no JSON"):
        documents.parse(Evidence, "{", "evidence")


def test_values_made_in_a_program_are_held_to_the_same() -> None:
    assert documents.check(GOOD, "evidence") is GOOD
    for bad in ({"rows": "5"}, {"candidate": {"auc": "0.7"}}, {"custom": {"x": object()}}, {"rows": 2**60}):
        with pytest.raises(InvalidInput):
            documents.check(replace(GOOD, **bad), "evidence")
    with pytest.raises(InvalidInput, match=r"policy\.gates"):
        documents.check(AliasPolicy("m", "a", True, ("floor",)), "policy")  # type: ignore[arg-type]
    assert documents.check(AliasPolicy("m", "a", True, (GateSpec("x", {"y": [1, {"z": None}]}),)), "policy")
