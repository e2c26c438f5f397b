"""Verbs on verdicts: what the inference log says of a shadow or of an A/B test, as evidence for a promotion.

The rules are in `rayplat.serve.release`, modules `compare` and `experiment`; here they meet the record: which versions
a promotion is about, the design that was fixed, when its split was on.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from rayplat import identity
from rayplat.errors import Conflict, InvalidInput
from rayplat.registry.record import experiments, promotions, releases, versions
from rayplat.serve.log.reading import Window
from rayplat.serve.release import compare, experiment
from rayplat.services.promotions import Promotions
from rayplat.services.verbs import Noun, route
from rayplat.types import Evidence, ExperimentVerdict, Promotion, Role, ShadowVerdict

_SINCE = timedelta(days=7)
_RELEASES = 1000


class Verdicts(Noun):
    """What live requests say of a candidate."""

    NAME = "verdicts"

    @route("POST", "/models/{model}/verdicts/shadow", Role.VIEWER, long=True)
    def shadow(
        self,
        model: str,
        shadow: str,
        since: datetime | None = None,
        until: datetime | None = None,
        segments: tuple[str, ...] = (),
        threshold: float | None = None,
        tolerance: float | None = None,
        level: float = 0.95,
        attach: str | None = None,
    ) -> ShadowVerdict:
        """Compare a shadow's answers with the model's own to the same requests, of the last 7 days unless said.

        Two answers agree on the same side of ``threshold`` (0.5), or where they are at most ``tolerance`` apart.
        ``attach`` names a promotion: only its two versions count, and what was found goes into its evidence."""
        self._context.registry.read(versions.listed, model)
        now = datetime.now(UTC)
        end = now if until is None else until
        asked = compare.Question(
            Window(model, end - _SINCE if since is None else since, end),
            shadow,
            compare.Agreement(threshold, tolerance),
            segments,
            level,
            self._pair(model, attach),
        )
        found = compare.shadow(self._context.tables, asked)
        if attach is not None:
            self._hand_in(attach, replace(self._evidence(attach), shadow=found.evidence))
        return found

    @route("POST", "/promotions/{promotion_id}/verdicts/experiment", Role.VIEWER, long=True)
    def experiment(
        self,
        promotion_id: str,
        labels: str,
        threshold: float = 0.5,
        until: datetime | None = None,
        attach: bool = False,
    ) -> ExperimentVerdict:
        """Look at a promotion's A/B test: the outcomes in the table ``labels`` of the requests that a split named for
        it has divided since its design was recorded. Look as often as you like.

        The design's metric is a column of ``labels``, or ``accuracy`` (at ``threshold``), ``brier`` or ``log_loss`` of
        the predictions. With ``attach`` a test that has ended goes into the promotion's evidence; before, a gate would
        take the look for its end."""
        registry, now = self._context.registry, datetime.now(UTC)
        asked = registry.read(promotions.get, promotion_id)
        if asked.baseline_version is None:
            raise Conflict(f"promotion {promotion_id} replaces nothing: {asked.model}@{asked.alias} did not exist")
        recorded = registry.read(experiments.get, promotion_id)
        design = registry.read(experiments.design, promotion_id)
        history = registry.read(releases.history, asked.model, _RELEASES)
        times, sticky = experiment.periods(history, promotion_id, min(until or now, now))
        test = experiment.Test(asked, design, recorded, tuple(times), sticky, threshold)
        if attach:
            self._may_attach(asked)
        found = experiment.look(self._context.tables, test, labels, now)
        if attach and found.verdict == experiment.UNDECIDED:
            return replace(found, notes=(*found.notes, "not handed in: the test has not ended yet"))
        if attach:
            self._hand_in(promotion_id, replace(self._evidence(promotion_id), experiment=found.evidence))
        return found

    def _pair(self, model: str, attach: str | None) -> tuple[int, int] | None:
        """The versions of the promotion that the verdict is for: candidate and the one it replaces."""
        if attach is None:
            return None
        asked = self._context.registry.read(promotions.get, attach)
        if asked.model != model:
            raise InvalidInput("attach", f"promotion {attach} is about {asked.model}, not {model}")
        if asked.baseline_version is None:
            raise Conflict(f"promotion {attach} replaces nothing: {asked.model}@{asked.alias} did not exist")
        self._may_attach(asked)
        return asked.version, asked.baseline_version

    def _may_attach(self, asked: Promotion) -> None:
        identity.require(self._context.principal, Role.DEVELOPER)
        if asked.evidence is None:
            raise Conflict(
                f"promotion {asked.promotion_id} has no evidence yet: hand in that of its evaluation first, with "
                f"`rayplat promotion evidence`"
            )

    def _evidence(self, promotion_id: str) -> Evidence:
        found = self._context.registry.read(promotions.get, promotion_id).evidence
        assert found is not None  # `_may_attach` has looked
        return found

    def _hand_in(self, promotion_id: str, evidence: Evidence) -> None:
        Promotions(self._context).evidence(promotion_id, evidence)
