"""Verbs on promotions: request, approve, reject, roll back; and the audit trail of all of it."""

from __future__ import annotations

from dataclasses import replace

from rayplat.errors import InvalidInput
from rayplat.registry.record import audit, promotions, versions
from rayplat.services.verbs import Noun, route
from rayplat.types import AliasHead, AuditEntry, Evidence, ParityEvidence, Promotion, PromotionState, Role


class Promotions(Noun):
    """Moving an alias: gated by evidence, approved by a second person, put back in one call."""

    NAME = "promotions"

    @route("GET", "/promotions", Role.VIEWER)
    def list(self, model: str | None = None, state: PromotionState | None = None) -> tuple[Promotion, ...]:
        """Promotions, newest first, of one model or in one state. Raises NotFound for an unknown model."""
        if model is not None:
            self._context.registry.read(versions.listed, model)
        return tuple(self._context.registry.read(promotions.listed, model, state))

    @route("GET", "/promotions/{promotion_id}", Role.VIEWER)
    def get(self, promotion_id: str) -> Promotion:
        """One promotion. Raises NotFound."""
        return self._context.registry.read(promotions.get, promotion_id)

    @route("POST", "/promotions", Role.DEVELOPER)
    def request(
        self,
        model: str,
        version: int,
        alias: str,
        evidence: Evidence | None = None,
        parity: ParityEvidence | None = None,
    ) -> Promotion:
        """Ask to point ``alias`` at ``version``; the gates decide at once, and without evidence they fail.

        ``parity`` goes into the evidence: the counts of a report of `rayplat features parity`."""
        if parity is not None:
            if evidence is None:
                raise InvalidInput("parity", "is a part of the evidence: give the evidence too")
            evidence = replace(evidence, parity=parity)
        return self._context.registry.write(
            promotions.request, model, version, alias, evidence, by=self._context.principal
        )

    @route("POST", "/promotions/{promotion_id}/approve", Role.APPROVER)
    def approve(self, promotion_id: str, subject_digest: str | None = None) -> Promotion:
        """Approve exactly what was seen, and move the alias. The requester and the author of the version may not."""
        return self._context.registry.write(
            promotions.approve, promotion_id, subject_digest, by=self._context.principal
        )

    @route("POST", "/promotions/{promotion_id}/reject", Role.APPROVER)
    def reject(self, promotion_id: str, reason: str) -> Promotion:
        """Close a promotion without moving the alias."""
        return self._context.registry.write(promotions.reject, promotion_id, reason, by=self._context.principal)

    @route("POST", "/models/{model}/aliases/{alias}/rollback", Role.APPROVER)
    def rollback(self, model: str, alias: str, reason: str) -> AliasHead:
        """Point the alias back at the version that was live before."""
        return self._context.registry.write(promotions.rollback, model, alias, reason, by=self._context.principal)

    @route("GET", "/audit", Role.VIEWER)
    def audit(self, limit: int = 100) -> tuple[AuditEntry, ...]:
        """The newest entries of the audit trail."""
        return tuple(self._context.registry.read(audit.listed, limit))
