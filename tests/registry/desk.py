"""A few people and what they usually do with a record."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import sqlalchemy as sa

from rayplat.registry.candidate import Candidate
from rayplat.registry.record import aliases, versions
from rayplat.registry.record.database import Record
from rayplat.types import (
    AliasHead,
    AliasPolicy,
    Evidence,
    ModelVersion,
    Principal,
    Promotion,
    PromotionState,
    Role,
    TableVersion,
    VerificationEvidence,
)

R = TypeVar("R")

ANN = Principal("ann", Role.DEVELOPER)
BOB = Principal("bob", Role.APPROVER)
EVE = Principal("eve", Role.VIEWER)
ROOT = Principal("root", Role.ADMIN)
THE_PLATFORM = Principal("rayplat", Role.ADMIN)
MODEL, ALIAS, FREE = "flight-delay", "champion", "nightly"
HOLDOUT = "sha256:" + "d" * 64
PIN = TableVersion("flights", "tables/flights", "id-1", 3, "sha256:" + "1" * 64, "sha256:" + "2" * 64, 336_776)
MLFLOW_ALIASES = "select name, alias, version from registered_model_aliases"


def candidate(n: int, model: str = MODEL) -> Candidate:
    return Candidate(model, f"sha256:{n:064x}", f"{n:032x}", HOLDOUT, (PIN,), {"auc": 0.7, "rows": 5000})


def verification(digest: str) -> VerificationEvidence:
    """What the platform says of a bundle that is as it should be."""
    return VerificationEvidence(digest, intact=True, signed=True, format="torch_export", runs_code=False, waived=False)


def evidence(auc: float = 0.7, champion: int | None = None, baseline: float = 0.65) -> Evidence:
    base = None if champion is None else {"auc": baseline}
    return Evidence(HOLDOUT, 50_000, {"auc": auc}, champion, base)


@dataclass(frozen=True)
class Desk:
    """The usual steps on a record: ann registers and asks, bob approves."""

    record: Record

    def read(self, query: Callable[..., R], *args: Any, **kwargs: Any) -> R:
        return self.record.read(lambda connection: query(connection, *args, **kwargs))

    def write(self, operation: Callable[..., R], *args: Any, key: str | None = None, **kwargs: Any) -> R:
        return self.record.write(lambda tx: operation(tx, *args, **kwargs), key)

    def rows(self, question: str) -> list[tuple[Any, ...]]:
        """The answer of the database itself, MLflow's tables included."""
        return self.read(lambda connection: [tuple(row) for row in connection.execute(sa.text(question))])

    def change(self, statement: str) -> int:
        """Change the database behind the record's back; how many rows."""
        with self.record.engine.begin() as connection:
            return connection.execute(sa.text(statement)).rowcount

    def register(self, n: int, model: str = MODEL) -> ModelVersion:
        return self.write(versions.register, candidate(n, model), by=ANN)

    def free(self, *names: str) -> None:
        """Let these aliases of every model be moved by `aliases.set`: the built-in policy protects them all."""
        from rayplat.registry.record import policies

        for alias in names:
            policy = AliasPolicy("*", alias, protected=False, gates=(), min_approvals=0)
            self.write(policies.set, policy, by=ROOT)

    def head(self, alias: str = ALIAS) -> AliasHead | None:
        return self.read(aliases.find, MODEL, alias)

    def move(self, version: int, alias: str = ALIAS, expected: int | None = None, by: Principal = BOB) -> AliasHead:
        """Point ``alias`` at ``version``, as an approved promotion does; from wherever it is, or from ``expected``."""
        if expected is None:
            expected = self.read(aliases.generation, MODEL, alias)
        digest = self.read(versions.get, MODEL, version).digest
        head = AliasHead(MODEL, alias, version, digest, 0, self.record.now(), by.name)
        return self.write(aliases.move, head, expected)

    def request(self, version: int, alias: str = ALIAS, key: str | None = None) -> Promotion:
        from rayplat.registry.record import promotions

        head = self.head(alias)
        seen = evidence(champion=head.version if head else None)
        asked = self.write(promotions.request, MODEL, version, alias, seen, by=ANN, key=key)
        return asked if asked.verification is not None else self.verify(asked)

    def verify(self, asked: Promotion) -> Promotion:
        """What the platform does after a request; only the bytes themselves are not looked at here."""
        from rayplat.registry.record import promotions

        found = verification(asked.digest)
        return self.write(promotions.record_verification, asked.promotion_id, found, by=THE_PLATFORM)

    def approve(self, promotion: Promotion, by: Principal = BOB, key: str | None = None) -> Promotion:
        from rayplat.registry.record import decisions

        return self.write(decisions.approve, promotion.promotion_id, by=by, key=key)

    def go_live(self, *versions: int, alias: str = ALIAS) -> list[Promotion]:
        return [self.approve(self.request(v, alias)) for v in versions]

    def roll_back(self, key: str | None = None) -> AliasHead:
        from rayplat.registry.record import decisions

        return self.write(decisions.rollback, MODEL, ALIAS, "late answers", by=BOB, key=key)

    def state(self, promotion: Promotion) -> PromotionState:
        from rayplat.registry.record import promotions

        return self.read(promotions.get, promotion.promotion_id).state
