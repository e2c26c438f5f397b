"""A registry and a tracking store in memory. `contract.py` keeps them honest: it also runs on the real ones."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from rayplat.errors import Forbidden, NotFound
from rayplat.types import (
    AliasHead,
    Evidence,
    ModelVersion,
    Principal,
    Promotion,
    PromotionState,
    Role,
    RunInfo,
    TokenInfo,
    check_alias,
)

NOW = datetime(2013, 11, 1, 10, tzinfo=UTC)
DIGEST = "sha256:" + "a" * 64


class FakeRegistry:
    """One model with two versions; ``champion`` points at the first."""

    def __init__(self) -> None:
        self._versions = [
            ModelVersion("m", v, DIGEST, f"run{v}", "ada", NOW, "sha256:t", (), {"auc": 0.7}, None) for v in (1, 2)
        ]
        self._heads = [AliasHead("m", "champion", 1, DIGEST, 1, NOW, "grace")]
        self._promotions: dict[str, Promotion] = {}
        self._tokens: dict[str, TokenInfo] = {}

    def models(self) -> list[str]:
        return ["m"]

    def versions(self, model: str) -> list[ModelVersion]:
        if model != "m":
            raise NotFound("model", model)
        return self._versions[::-1]

    def version(self, model: str, version: int) -> ModelVersion:
        for found in self.versions(model):
            if found.version == version:
                return found
        newest = ", ".join(str(found.version) for found in self.versions(model)[:5])
        raise NotFound("model version", f"{model}/{version}", f"the newest are {newest}")

    def aliases(self, model: str) -> list[AliasHead]:
        self.versions(model)
        return self._heads[-1:]

    def alias(self, model: str, alias: str) -> AliasHead:
        for head in self.aliases(model):
            if head.alias == alias:
                return head
        raise NotFound("alias", f"{model}@{alias}")

    def history(self, model: str, alias: str) -> list[AliasHead]:
        self.alias(model, alias)
        return self._heads[::-1]

    def request_promotion(
        self, model: str, version: int, alias: str, evidence: Evidence | None, principal: Principal
    ) -> Promotion:
        self.version(model, version)
        check_alias(alias)
        state = PromotionState.AWAITING_APPROVAL if evidence else PromotionState.REJECTED
        made = Promotion("p1", model, version, DIGEST, alias, 1, state, principal.name, NOW, "sha256:s", evidence)
        self._promotions["p1"] = made
        return made

    def promotion(self, promotion_id: str) -> Promotion:
        if promotion_id not in self._promotions:
            raise NotFound("promotion", promotion_id)
        return self._promotions[promotion_id]

    def promotions(self, model: str | None = None, state: PromotionState | None = None) -> list[Promotion]:
        return [p for p in self._promotions.values() if model in (None, p.model) and state in (None, p.state)]

    def approve(self, promotion_id: str, principal: Principal, subject_digest: str | None = None) -> Promotion:
        found = self.promotion(promotion_id)
        if found.requester == principal.name:
            raise Forbidden(principal.name, "a requester does not approve their own promotion")
        self._promotions[promotion_id] = live = replace(found, state=PromotionState.LIVE)
        self._heads.append(AliasHead("m", found.alias, found.version, DIGEST, 2, NOW, principal.name, promotion_id))
        return live

    def create_token(
        self, principal: str, role: Role, by: Principal | None, expires_at: datetime | None = None
    ) -> tuple[TokenInfo, str]:
        info = TokenInfo("t1", principal, role, NOW, by.name if by else "", expires_at)
        self._tokens["t1"] = info
        return info, "rpt_secret"

    def tokens(self) -> list[TokenInfo]:
        return list(self._tokens.values())

    def revoke_token(self, token_id: str, by: Principal) -> None:
        if token_id not in self._tokens:
            raise NotFound("token", token_id)
        del self._tokens[token_id]


class FakeTracking:
    def runs(self, experiment: str | None = None, limit: int = 50) -> list[RunInfo]:
        return [RunInfo("r1", "e", "n", "FINISHED", NOW, None, {"lr": "0.1"}, {"auc": None}, {})]

    def get(self, run_id: str) -> RunInfo:
        raise NotFound("run", run_id)

    def compare(self, run_ids: list[str]) -> dict[str, dict[str, Any]]:
        return {"lr": dict.fromkeys(run_ids, "0.1")}
