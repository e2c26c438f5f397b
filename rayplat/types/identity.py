"""Who is calling, and what they may do."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import datetime


class Role(enum.StrEnum):
    """What a token may do; each role includes the ones before it."""

    VIEWER = "viewer"
    DEVELOPER = "developer"
    APPROVER = "approver"
    ADMIN = "admin"

    def includes(self, other: Role) -> bool:
        order = list(Role)
        return order.index(self) >= order.index(other)


class PrincipalKind(enum.StrEnum):
    """A service (CI, a pipeline) may do what its role permits but never approve: that takes a person."""

    PERSON = "person"
    SERVICE = "service"


@dataclass(frozen=True)
class Principal:
    """Who is calling: a person or a service. Tokens belong to a principal; rules speak of principals."""

    name: str
    role: Role
    kind: PrincipalKind = PrincipalKind.PERSON


@dataclass(frozen=True)
class TokenInfo:
    """A token without its secret. ``last_used_at`` may lag behind by a minute."""

    token_id: str
    principal: str
    role: Role
    created_at: datetime
    created_by: str
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    kind: PrincipalKind = PrincipalKind.PERSON
    last_used_at: datetime | None = None
