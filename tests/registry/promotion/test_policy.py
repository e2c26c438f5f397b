from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from rayplat.errors import InvalidInput
from rayplat.registry.promotion import policy
from rayplat.types import AliasPolicy, GateSpec

GOOD = AliasPolicy("m", "champion", True, (GateSpec("enough_rows"),))


def test_the_built_in_one_protects_all_and_holds_parity_where_asked_for() -> None:
    found = policy.builtin()
    assert policy.check(found) == found
    assert (found.model, found.alias, found.protected, found.min_approvals) == ("*", "*", True, 1)
    assert [g.gate for g in policy.builtin(0.01).gates][-1] == "feature_parity"
    assert policy.builtin(0.01).digest != found.digest


def test_a_digest_is_of_all_the_rest() -> None:
    found = policy.check(GOOD)
    assert policy.check(found).digest == policy.check(replace(found, digest="made up")).digest == found.digest
    assert policy.check(replace(GOOD, cooldown_s=1.0)).digest != found.digest


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"model": "Flight Delay"}, "model"),
        ({"alias": "v2"}, "alias"),
        ({"gates": ()}, "gates"),
        ({"gates": (GateSpec("magic"),)}, "gate"),
        ({"min_approvals": 0}, "min_approvals"),
        ({"min_approvals": 11}, "min_approvals"),
        ({"min_approvals": True}, "policy.min_approvals"),
        ({"min_approvals": 2, "approvers": ("bob",)}, "min_approvals"),
        ({"approvers": ("bob", "bob")}, "approvers"),
        ({"evidence_from": ("Bob!",)}, "principal"),
        ({"expires_s": math.inf}, "policy"),
        ({"expires_s": 1.0}, "expires_s"),
        ({"cooldown_s": 604_800.0}, "cooldown_s"),
        ({"cooldown_s": -1.0}, "cooldown_s"),
        ({"protected": "yes"}, "policy.protected"),
    ],
)
def test_a_bad_policy_is_refused_by_field(change: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as e:
        policy.check(replace(GOOD, **change))
    assert e.value.field.startswith(field) or field == "policy"


def test_a_free_alias_needs_neither_gates_nor_approvals() -> None:
    assert policy.check(AliasPolicy("*", "nightly", False, (), 0)).digest
