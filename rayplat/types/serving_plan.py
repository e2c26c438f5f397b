"""What applying a serving spec would do, and what it did."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from rayplat.types.endpoints import EndpointSpec


class PlanAction(enum.StrEnum):
    CREATE = "create"
    CHANGE = "change"
    RESTART = "restart"
    MOVE = "move"
    REMOVE = "remove"


@dataclass(frozen=True)
class PlanStep:
    """One endpoint's change. ``reasons`` say what differs, ``cost`` what it means for who is using it; ``spec`` is how
    it is served afterwards, None when it is removed."""

    action: PlanAction
    model: str
    alias: str
    reasons: tuple[str, ...]
    cost: str
    spec: EndpointSpec | None = None

    @property
    def restarts(self) -> bool:
        """Whether processes that answer now are replaced."""
        return self.action in (PlanAction.RESTART, PlanAction.MOVE)


@dataclass(frozen=True)
class ServingPlan:
    """Steps in the order in which they are taken; none where all is as wanted. ``digest`` names exactly this plan."""

    steps: tuple[PlanStep, ...]
    digest: str


@dataclass(frozen=True)
class StepOutcome:
    """What became of a step: ``done``, or ``failed`` with the reason."""

    action: PlanAction
    model: str
    alias: str
    outcome: str
    detail: str = ""


@dataclass(frozen=True)
class ServingApplied:
    """What applying a plan did. Where a step failed the others were taken all the same: the same spec again does what
    is left."""

    outcomes: tuple[StepOutcome, ...]

    @property
    def failed(self) -> tuple[StepOutcome, ...]:
        return tuple(outcome for outcome in self.outcomes if outcome.outcome == "failed")
