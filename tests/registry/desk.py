"""A few people and what they usually do with a record."""

from __future__ import annotations

from dataclasses import dataclass

from rayplat.registry.candidate import Candidate
from rayplat.registry.gates import GatePolicy
from rayplat.registry.record import aliases, promotions, versions
from rayplat.registry.record.database import Record
from rayplat.types import Evidence, ModelVersion, Principal, Promotion, Role, TableVersion

ANN = Principal("ann", Role.DEVELOPER)
BOB = Principal("bob", Role.APPROVER)
EVE = Principal("eve", Role.VIEWER)
ROOT = Principal("root", Role.ADMIN)
MODEL, ALIAS = "flight-delay", "champion"
HOLDOUT = "sha256:" + "d" * 64
PIN = TableVersion("flights", "tables/flights", "id-1", 3, "sha256:" + "1" * 64, "sha256:" + "2" * 64, 336_776)


def candidate(n: int, model: str = MODEL) -> Candidate:
    return Candidate(model, f"sha256:{n:064x}", f"{n:032x}", HOLDOUT, (PIN,), {"auc": 0.7, "rows": 5000})


def evidence(auc: float = 0.7, champion: int | None = None, baseline: float = 0.65) -> Evidence:
    base = None if champion is None else {"auc": baseline}
    return Evidence(HOLDOUT, 50_000, {"auc": auc}, champion, base)


@dataclass(frozen=True)
class Desk:
    """The usual steps on a record: ann registers and asks, bob approves."""

    record: Record

    def register(self, n: int) -> ModelVersion:
        return self.record.write(lambda tx: versions.register(tx, candidate(n), ANN))

    def request(self, version: int, alias: str = ALIAS, key: str | None = None) -> Promotion:
        head = self.record.read(lambda s: aliases.find(s, MODEL, alias))
        seen = evidence(champion=head.version if head else None)
        wanted = (MODEL, version, alias)
        return self.record.write(lambda tx: promotions.request(tx, GatePolicy(), wanted, seen, ANN), key)

    def approve(self, promotion: Promotion, by: Principal = BOB, key: str | None = None) -> Promotion:
        return self.record.write(lambda tx: promotions.approve(tx, promotion.promotion_id, by, None), key)

    def go_live(self, *versions: int, alias: str = ALIAS) -> list[Promotion]:
        return [self.approve(self.request(v, alias)) for v in versions]
