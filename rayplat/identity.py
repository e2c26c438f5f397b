"""Who is calling: platform tokens, roles, and the one check that every process that listens makes.

A token is ``rpt_<token id>_<64 hex>``: 256 random bits, so a plain sha256 of it is safe at rest, and only that is
stored. This module knows no database: the registry keeps the hashes, hosts keep a `TokenCache`.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from datetime import datetime

from rayplat.errors import Forbidden, Unauthenticated
from rayplat.types import Principal, Role

_SECRET = re.compile(r"rpt_([0-9a-f]{12})_[0-9a-f]{64}")
_JWT = re.compile(r"eyJ[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+){2}")
_MAX_JWT = 16_384


def new_token() -> tuple[str, str]:
    """A fresh ``(secret, token_id)``. The secret is shown once; the id may be listed and logged."""
    token_id = secrets.token_hex(6)
    return f"rpt_{token_id}_{secrets.token_hex(32)}", token_id


def hash_token(secret: str) -> str:
    """What is stored and compared: 64 hex digits of the secret's sha256."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def same_hash(one: str, other: str) -> bool:
    """Equality of two token hashes, in time that tells nothing about where they differ."""
    return hmac.compare_digest(one.encode(), other.encode())


def is_jwt(secret: str) -> bool:
    """Whether this has the form of a signed JSON web token (RFC 7519), which an identity provider may have given."""
    return len(secret) <= _MAX_JWT and _JWT.fullmatch(secret) is not None


def bearer(source: Mapping[str, str] | str | bytes | None, jwt: bool = False) -> str:
    """The secret of an ``Authorization`` header (its value, or a mapping of headers): a platform token, or with
    ``jwt`` also a JSON web token. Raises `Unauthenticated`."""
    if isinstance(source, Mapping):
        source = next((v for k, v in source.items() if k.lower() == "authorization"), None)
    if not source:
        raise Unauthenticated()
    text = source.decode("latin-1") if isinstance(source, bytes) else source
    scheme, _, secret = text.strip().partition(" ")
    secret = secret.strip()
    if scheme.lower() != "bearer" or not (_SECRET.fullmatch(secret) or (jwt and is_jwt(secret))):
        raise Unauthenticated("the Authorization header holds no platform token: send 'Bearer rpt_...'")
    return secret


def require(principal: Principal | None, role: Role) -> None:
    """Nothing, or `Unauthenticated` without a principal, or `Forbidden` when its role does not include ``role``."""
    if principal is None:
        raise Unauthenticated()
    if not principal.role.includes(role):
        raise Forbidden(principal.name, f"it needs the role {role.value}, the token has {principal.role.value}")


class LastUse:
    """When tokens were last used, gathered so that it is written at most every ``every_s`` seconds for each token."""

    def __init__(self, every_s: float = 60.0, size: int = 4096) -> None:
        self._every_s, self._size = every_s, size
        self._told: OrderedDict[str, datetime] = OrderedDict()

    def note(self, token_hash: str, at: datetime) -> dict[str, datetime]:
        """What is to be written now that this token was used at ``at``; empty where that can wait."""
        told = self._told.get(token_hash)
        if told is not None and (at - told).total_seconds() < self._every_s:
            return {}
        self._told[token_hash] = at
        self._told.move_to_end(token_hash)
        while len(self._told) > self._size:
            self._told.popitem(last=False)
        return {token_hash: at}


class TokenCache:
    """Tokens a host has checked, so that a request costs no call to the registry. Keeps hashes, never secrets.

    ``get`` answers within ``ttl_s`` of the check. ``stale`` answers for ``stale_s`` more, and is only for the time
    the registry is down: a revoked token lives at most that long there. Both in seconds.
    """

    def __init__(
        self, ttl_s: float, stale_s: float = 3600.0, size: int = 4096, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._ttl_s, self._stale_s, self._size, self._clock = ttl_s, stale_s, size, clock
        self._seen: OrderedDict[str, tuple[Principal, float]] = OrderedDict()

    def get(self, secret: str) -> Principal | None:
        """The principal, if this token was checked at most ``ttl_s`` ago."""
        return self._within(secret, self._ttl_s)

    def stale(self, secret: str) -> Principal | None:
        """The principal, if this token was ever found good and that is not older than ``ttl_s + stale_s``."""
        return self._within(secret, self._ttl_s + self._stale_s)

    def put(self, secret: str, principal: Principal | None) -> None:
        """Remember the registry's answer; None (unknown, revoked, expired) forgets the token at once."""
        key = hash_token(secret)
        self._seen.pop(key, None)
        if principal is not None:
            self._seen[key] = (principal, self._clock())
            while len(self._seen) > self._size:
                self._seen.popitem(last=False)

    def _within(self, secret: str, age_s: float) -> Principal | None:
        found = self._seen.get(hash_token(secret))
        return found[0] if found is not None and self._clock() - found[1] <= age_s else None
