"""A promotion that was just asked for, and policies of different length."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from rayplat.registry.promotion import with_subject
from rayplat.registry.promotion.policy import digested
from rayplat.types import AliasPolicy, GateSpec, Promotion, PromotionState
from tests.registry.gates.cases import DIGEST, NOW

VERIFY = (GateSpec("intact"), GateSpec("signed"), GateSpec("safe_format"), GateSpec("schema_compatible"))
EVALUATE = (GateSpec("pinned_dataset"), GateSpec("enough_rows"), GateSpec("champion_interval"))
SHADOW, COMPARE = (GateSpec("shadow_agreement"),), (GateSpec("experiment", {"metric": "accepted"}),)
CUSTOM = (GateSpec("custom", {"function": "own:gate", "digest": DIGEST}),)


def policy(*gates: GateSpec, **changes: object) -> AliasPolicy:
    return digested(replace(AliasPolicy("m", "champion", True, gates), **changes))  # type: ignore[arg-type]


FULL = policy(*VERIFY, *EVALUATE, *SHADOW, *COMPARE)


def asked(under: AliasPolicy = FULL, champion: int | None = 1) -> Promotion:
    return with_subject(
        Promotion(
            promotion_id="prm-1",
            model="m",
            version=2,
            digest=DIGEST,
            alias="champion",
            expected_generation=1 if champion else 0,
            state=PromotionState.REQUESTED,
            requester="ann",
            created_at=NOW,
            subject_digest="",
            policy=under,
            baseline_version=champion,
            expires_at=NOW + timedelta(days=7),
        )
    )
