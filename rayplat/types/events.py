"""What the outside is told, and who is told."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import datetime
from typing import Any

TEST_EVENT = "webhook.test"

# Every event that the platform emits; a filter of a webhook may name these, or all of a noun ("promotion.*").
EVENTS = (
    "alias.drift",
    "alias.moved",
    "alias.removed",
    "alias.rolled_back",
    "break_glass.used",
    "canary.rolled_back",
    "gate.failed",
    "gate.waived",
    "model.adopted",
    "model.deleted",
    "model.registered",
    "model.restored",
    "model.retired",
    "promotion.approved",
    "promotion.awaiting_approval",
    "promotion.cancelled",
    "promotion.expired",
    "promotion.live",
    "promotion.rejected",
    "promotion.requested",
    "promotion.stale",
    "release.changed",
    "waiver.created",
    "waiver.revoked",
)


@dataclass(frozen=True)
class Event:
    """One row of the outbox. ``seq`` grows in the order of the changes; numbers may be left out, never repeated."""

    seq: int
    event: str
    subject: str
    body: dict[str, Any]
    at: datetime


class WebhookState(enum.StrEnum):
    """``PARKED``: its receiver refused an event too often; nothing is sent until somebody replays it."""

    ACTIVE = "active"
    PARKED = "parked"


@dataclass(frozen=True)
class Webhook:
    """A receiver of events, without its secret. ``position`` is the last event that is settled, delivered or not
    wanted; ``failures`` counts the tries of the next one so far."""

    webhook_id: str
    url: str
    events: tuple[str, ...]
    created_by: str
    created_at: datetime
    state: WebhookState = WebhookState.ACTIVE
    position: int = 0
    failures: int = 0
    next_try_at: datetime | None = None
    last_error: str = ""
    last_delivered_at: datetime | None = None
