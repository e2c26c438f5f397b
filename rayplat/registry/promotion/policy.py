"""What a policy may say, which one holds, and the one that holds where nobody has set any. Pure."""

from __future__ import annotations

import math
from dataclasses import replace

from rayplat.errors import InvalidInput
from rayplat.registry import documents
from rayplat.registry.gates import catalog
from rayplat.types import AliasPolicy, GateSpec, check_alias, check_name, check_principal

ANY = "*"
_LONGEST_S = 366 * 86_400.0
_MOST_APPROVALS = 10


def builtin(max_parity_mismatch: float | None = None) -> AliasPolicy:
    """Every alias is protected: bytes intact and signed, a format that runs no code, a schema that fits what is served,
    an evaluation on a pinned holdout, no worse than the champion, and one approval."""
    gates = [
        GateSpec("intact"),
        GateSpec("signed"),
        GateSpec("safe_format"),
        GateSpec("schema_compatible"),
        GateSpec("pinned_dataset"),
        GateSpec("enough_rows", {"min_rows": 1000}),
        GateSpec("metric_floor", {"floor": 0.6, "metric": "auc"}),
        GateSpec("leak_ceiling", {"ceiling": 0.8, "metric": "auc"}),
        GateSpec("better_than_champion", {"metric": "auc", "min_gain": 0.0}),
    ]
    if max_parity_mismatch is not None:
        gates.append(GateSpec("feature_parity", {"max_mismatch": max_parity_mismatch, "min_vectors": 100}))
    return digested(AliasPolicy(ANY, ANY, True, tuple(gates)))


def resolution(model: str, alias: str) -> list[tuple[str, str]]:
    """(model, alias) pairs whose policy may hold, the most telling first."""
    return [(model, alias), (model, ANY), (ANY, alias), (ANY, ANY)]


def digested(policy: AliasPolicy) -> AliasPolicy:
    """``policy`` with its digest: sha256 of the canonical JSON of all the rest."""
    return replace(policy, digest=documents.digest(replace(policy, digest="")))


def check(policy: AliasPolicy) -> AliasPolicy:
    """``policy`` with its digest, or `InvalidInput` naming the field.

    A protected alias needs a gate and an approval: without them, protection would say nothing.
    """
    documents.check(policy, "policy")
    if policy.model != ANY:
        check_name("model", policy.model)
    if policy.alias != ANY:
        check_alias(policy.alias)
    catalog.check(policy.gates)
    for field in ("approvers", "evidence_from"):
        names = getattr(policy, field)
        for name in names:
            check_principal(name)
        if len(set(names)) != len(names):
            raise InvalidInput(field, "a name is given twice")
    least = 1 if policy.protected else 0
    if not least <= policy.min_approvals <= _MOST_APPROVALS:
        raise InvalidInput("min_approvals", f"{policy.min_approvals} is not between {least} and {_MOST_APPROVALS}")
    if policy.approvers and policy.min_approvals > len(policy.approvers):
        raise InvalidInput("min_approvals", f"{policy.min_approvals} of {len(policy.approvers)} approvers cannot be")
    if policy.protected and not policy.gates:
        raise InvalidInput("gates", "a protected alias needs at least one gate")
    if not (math.isfinite(policy.expires_s) and 60 <= policy.expires_s <= _LONGEST_S):
        raise InvalidInput("expires_s", f"{policy.expires_s} is not between 60 and {_LONGEST_S:g} seconds")
    if not 0 <= policy.cooldown_s < policy.expires_s:
        raise InvalidInput("cooldown_s", f"{policy.cooldown_s} is not at least 0 and below expires_s")
    return digested(policy)
