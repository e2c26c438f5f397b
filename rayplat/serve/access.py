"""Who may ask a listening process for what: the one check of model hosts, pool, gRPC server and control API.

A token is checked by the registry once in a while and remembered in between; while the registry is down those it has
found good go on working for a bounded time. Hosts take platform tokens only: tokens of an identity provider are for
the control API, which can verify them.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Protocol

from rayplat import identity
from rayplat.errors import Unauthenticated, Unavailable
from rayplat.types import Principal, Role

PREDICT = Role.VIEWER  # infer, explain, metadata, metrics
CONTROL = Role.DEVELOPER  # whatever changes what is served: load, unload, splits, shadows

_UNKNOWN_S = 1.0  # an unknown token is not asked about again for so long
_ASKING = 16  # questions to the registry at the same time; a flood of wrong tokens must not become its load
_KEPT = 4096  # tokens that are remembered
_NOT_KNOWN = "the token is not known, or it has been revoked or has expired"

Public = bool | Callable[[], Awaitable[bool]]


class Authenticating(Protocol):
    """Who keeps the tokens' hashes: the registry. Raises `Unavailable` while it cannot be reached."""

    async def authenticate(self, token_hash: str) -> Principal | None: ...


class Access:
    """The check of one process. Keeps no secrets, only their hashes, and of those a bounded number."""

    def __init__(
        self, registry: Authenticating, token_cache_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._registry, self._token_cache_s, self._clock = registry, token_cache_s, clock
        self._checked: OrderedDict[bytes, tuple[Principal, float]] = OrderedDict()
        self._tokens = identity.TokenCache(token_cache_s, size=_KEPT, clock=clock)
        self._unknown: OrderedDict[str, float] = OrderedDict()
        self._asking: dict[str, asyncio.Task[Principal | None]] = {}

    async def principal(
        self, authorization: str | bytes | None, role: Role = PREDICT, public: Public = False
    ) -> Principal | None:
        """Who sent this ``Authorization`` header (its value), whose role includes ``role``.

        ``public``: predictions need no token here, so who sends none is nobody (None), and so is a token that cannot
        be checked now; one that is wrong is refused all the same, or a revoked one would go on unnoticed. The roles
        above `PREDICT` always need one. Where it is costly to find out, ``public`` is asked only where it matters.
        Raises `Unauthenticated`, `Forbidden`, or `Unavailable` where the registry is down and has never been asked
        about this token.
        """
        if authorization is None:
            if role is PREDICT and await _is_public(public):
                return None
            raise Unauthenticated()
        raw = authorization.encode("utf-8", "surrogatepass") if isinstance(authorization, str) else authorization
        key = hashlib.sha256(raw).digest()
        found = self._checked.get(key)
        if found is not None and self._clock() < found[1]:
            principal = found[0]
        else:
            try:
                principal = await self._known(key, authorization)
            except Unavailable:
                if role is PREDICT and await _is_public(public):
                    return None
                raise
        if role is not PREDICT:  # which every role includes
            identity.require(principal, role)
        return principal

    async def _known(self, key: bytes, authorization: str | bytes) -> Principal:
        """Check a header that is not remembered as it stands. One that is, is the common case and costs a hash."""
        secret = identity.bearer(authorization)
        principal = self._tokens.get(secret)
        if principal is None:
            asked_at = self._clock()
            principal = await self._asked(secret)
            self._checked[key] = (principal, asked_at + self._token_cache_s)
            while len(self._checked) > _KEPT:
                self._checked.popitem(last=False)
        return principal

    async def _asked(self, secret: str) -> Principal:
        """What the registry says, asked once however many requests wait for it."""
        token_hash = identity.hash_token(secret)
        if self._clock() - self._unknown.get(token_hash, float("-inf")) < _UNKNOWN_S:
            raise Unauthenticated(_NOT_KNOWN)
        task = self._asking.get(token_hash)
        if task is None:
            if len(self._asking) >= _ASKING and self._tokens.stale(secret) is None:  # those once good get through
                raise Unavailable("the check of tokens", "too many tokens that are not known here came at once")
            task = asyncio.create_task(self._registry.authenticate(token_hash))  # type: ignore[arg-type]
            self._asking[token_hash] = task
            task.add_done_callback(lambda _: self._asking.pop(token_hash, None))
        try:
            principal = await asyncio.shield(task)
        except Unavailable:
            principal = self._tokens.stale(secret)
            if principal is None:
                raise
            return principal
        self._tokens.put(secret, principal)
        if principal is None:
            self._unknown[token_hash] = self._clock()
            while len(self._unknown) > _KEPT:
                self._unknown.popitem(last=False)
            raise Unauthenticated(_NOT_KNOWN)
        return principal


async def _is_public(public: Public) -> bool:
    return public if isinstance(public, bool) else await public()


def remembering(ask: Callable[[str], Principal | None], token_cache_s: float) -> Callable[[str], Principal | None]:
    """The same for a process whose requests have threads of their own: ``ask`` (who a secret belongs to), remembered
    for ``token_cache_s`` seconds, and for longer while it raises `Unavailable`."""
    tokens = identity.TokenCache(token_cache_s)

    def principal(secret: str) -> Principal | None:
        known = tokens.get(secret)
        if known is not None:
            return known
        try:
            known = ask(secret)
        except Unavailable:
            known = tokens.stale(secret)
            if known is None:
                raise
            return known
        tokens.put(secret, known)
        return known

    return principal
