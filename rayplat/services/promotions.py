"""Verbs on promotions: request, evidence, approval, the way back; and the platform's own look at what is promoted.

The record decides; here it is given what only somebody with the bytes at hand can find: whether they are intact and
signed, what format they are, and what custom gates say.
"""

from __future__ import annotations

from dataclasses import replace

from rayplat.errors import InvalidInput
from rayplat.registry.record import aliases, decisions, experiments, promotions, versions
from rayplat.services import examination, restoring
from rayplat.services.verbs import Noun, route
from rayplat.types import (
    AliasHead,
    Evidence,
    Experiment,
    ExperimentDesign,
    ParityEvidence,
    Promotion,
    PromotionState,
    Role,
)


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
        """One promotion, with the verdict of every gate. Raises NotFound."""
        return self._context.registry.read(promotions.get, promotion_id)

    @route("POST", "/promotions", Role.DEVELOPER, long=True)
    def request(
        self,
        model: str,
        version: int,
        alias: str,
        evidence: Evidence | None = None,
        parity: ParityEvidence | None = None,
    ) -> Promotion:
        """Ask to point ``alias`` at ``version``; the gates decide as soon as the evidence of their stage is there.

        ``parity`` goes into the evidence: the counts of a report of `rayplat features parity`. The platform checks
        bytes, signature and format before this returns; where that failed for a while, `verify` does it again."""
        if parity is not None:
            if evidence is None:
                raise InvalidInput("parity", "is a part of the evidence: give the evidence too")
            evidence = replace(evidence, parity=parity)
        asked = self._context.registry.write(
            promotions.request, model, version, alias, evidence, by=self._context.principal
        )
        return examination.examine(self._context, asked)

    @route("POST", "/promotions/{promotion_id}/evidence", Role.DEVELOPER, long=True)
    def evidence(self, promotion_id: str, evidence: Evidence) -> Promotion:
        """Hand in evidence: the whole document, with what was there before and what is new."""
        asked = self._context.registry.write(
            promotions.submit_evidence, promotion_id, evidence, by=self._context.principal
        )
        return examination.examine(self._context, asked)

    @route("POST", "/promotions/{promotion_id}/verify", Role.DEVELOPER, long=True)
    def verify(self, promotion_id: str) -> Promotion:
        """Let the platform look at bytes, signature and format again; another outcome makes a promotion stale."""
        return examination.examine(self._context, self.get(promotion_id), again=True)

    @route("POST", "/promotions/{promotion_id}/experiment", Role.DEVELOPER)
    def experiment(self, promotion_id: str, design: ExperimentDesign) -> Experiment:
        """Fix the design of a promotion's A/B test before its first outcome; it cannot be changed afterwards."""
        return self._context.registry.write(experiments.start, promotion_id, design, by=self._context.principal)

    @route("POST", "/promotions/{promotion_id}/approve", Role.APPROVER)
    def approve(self, promotion_id: str, subject_digest: str | None = None) -> Promotion:
        """Approve exactly what was seen; with the last approval needed the alias moves.

        ``subject_digest`` names what was seen: another subject by now is refused. The requester and the authors of
        the version and of its run may not approve. SchemaMismatch where a release that has begun since the schema was
        looked at sends requests to a version that takes others."""
        examination.check_release(self._context, self.get(promotion_id))
        return self._context.registry.write(decisions.approve, promotion_id, subject_digest, by=self._context.principal)

    @route("POST", "/promotions/{promotion_id}/reject", Role.APPROVER)
    def reject(self, promotion_id: str, reason: str) -> Promotion:
        """Close a promotion without moving the alias."""
        return self._context.registry.write(decisions.reject, promotion_id, reason, by=self._context.principal)

    @route("POST", "/promotions/{promotion_id}/cancel", Role.DEVELOPER)
    def cancel(self, promotion_id: str, reason: str = "") -> Promotion:
        """Withdraw a promotion you asked for; an approver may withdraw any."""
        return self._context.registry.write(promotions.cancel, promotion_id, reason, by=self._context.principal)

    @route("POST", "/promotions/{promotion_id}/waive", Role.APPROVER)
    def waive(self, promotion_id: str, gate: str, reason: str) -> Promotion:
        """Let one gate that is not decided yet be, should it fail; its verdict will say so."""
        return self._context.registry.write(decisions.waive, promotion_id, gate, reason, by=self._context.principal)

    @route("POST", "/promotions/break-glass", Role.ADMIN)
    def break_glass(self, model: str, version: int, alias: str, reason: str) -> Promotion:
        """Point an alias at a version past gates and approvals, in an emergency; another person has to review it."""
        return self._context.registry.write(
            decisions.break_glass, model, version, alias, reason, by=self._context.principal
        )

    @route("POST", "/promotions/{promotion_id}/review", Role.APPROVER)
    def review(self, promotion_id: str, reason: str) -> Promotion:
        """Say what came of looking at a broken glass; not by the one who broke it."""
        return self._context.registry.write(decisions.review, promotion_id, reason, by=self._context.principal)

    @route("GET", "/promotion-reviews", Role.VIEWER)
    def reviews(self) -> tuple[Promotion, ...]:
        """Promotions that broke the glass and wait for a review."""
        return tuple(self._context.registry.read(promotions.to_review))

    @route("POST", "/models/{model}/aliases/{alias}/rollback", Role.APPROVER, long=True)
    def rollback(
        self, model: str, alias: str, reason: str, version: int | None = None, generation: int | None = None
    ) -> AliasHead:
        """Point the alias back at the version that was live before, or at a named one that was live: no gate.

        Its bytes are read first. Raises Corrupt where they are damaged; where the store does not answer it goes on."""
        heads = self._context.registry.read(aliases.history, model, alias)
        restoring.check_target(self._context.artifacts, heads, version, generation)
        return self._context.registry.write(
            decisions.rollback,
            model,
            alias,
            reason,
            version=version,
            generation=generation,
            by=self._context.principal,
        )
