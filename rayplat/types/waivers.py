"""Waivers: what an approver lets pass, and until when."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True)
class WaiverInfo:
    """``kind`` ``format``: the model with the digest ``target`` may be loaded though that runs its code; ``gate``: the
    gate ``<promotion id>/<gate>`` need not pass. ``expires_at`` None: until it is revoked."""

    waiver_id: str
    kind: str
    target: str
    by: str
    reason: str
    at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    revoked_by: str | None = None
