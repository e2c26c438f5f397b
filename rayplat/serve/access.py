"""Who may ask a listening process for what: the one check of model hosts, pool, gRPC server and control API.

A token is checked by the registry once in a while and remembered in between; while the registry is down those it has
found good go on working for a bounded time. Hosts take platform tokens only: tokens of an identity provider are for
the control API, which can verify them.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

from rayplat import identity
from rayplat.errors import Unauthenticated, Unavailable
from rayplat.types import Principal, Role

PREDICT = Role.VIEWER  # infer, explain, metadata, metrics
CONTROL = Role.DEVELOPER  # whatever changes what is served: load, unload, splits, shadows

_UNKNOWN_S = 1.0  # an unknown token is not asked about again for so long
_ASKING = 16  # questions to the registry at the same time; a flood of wrong tokens must not become its load
_NOT_KNOWN = "the token is not known, or it has been revoked or has expired"


class Authenticating(Protocol):
    """Who keeps the tokens' hashes: the registry. Raises `Unavailable` while it cannot be reached."""

    async def authenticate(self, token_hash: str) -> Principal | None: ...


class Access:
    """The check of one process. Keeps no secrets, only their hashes, and of those a bounded number."""

    def __init__(
        self, registry: Authenticating, token_cache_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._registry, self._clock = registry, clock
        self._tokens = identity.TokenCache(token_cache_s, clock=clock)
        self._unknown: OrderedDict[str, float] = OrderedDict()
        self._asking: dict[str, asyncio.Task[Principal | None]] = {}

    async def principal(
        self, authorization: str | bytes | None, role: Role = PREDICT, public: bool = False
    ) -> Principal | None:
        """Who sent this ``Authorization`` header (its value), whose role includes ``role``.

        ``public``: predictions need no token here, so a missing or wrong one is nobody (None); the roles above
        `PREDICT` always need one. Raises `Unauthenticated`, `Forbidden`, or `Unavailable` where the registry is down
        and has never been asked about this token.
        """
        if public and role is PREDICT:
            return await self._anyone(authorization)
        secret = identity.bearer(authorization)
        principal = self._tokens.get(secret) or await self._asked(secret)
        identity.require(principal, role)
        return principal

    async def _anyone(self, authorization: str | bytes | None) -> Principal | None:
        if authorization is None:
            return None
        try:
            secret = identity.bearer(authorization)
            return self._tokens.get(secret) or await self._asked(secret)
        except (Unauthenticated, Unavailable):
            return None

    async def _asked(self, secret: str) -> Principal:
        """What the registry says, asked once however many requests wait for it."""
        token_hash = identity.hash_token(secret)
        if self._clock() - self._unknown.get(token_hash, float("-inf")) < _UNKNOWN_S:
            raise Unauthenticated(_NOT_KNOWN)
        task = self._asking.get(token_hash)
        if task is None:
            if len(self._asking) >= _ASKING:
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
            while len(self._unknown) > 1024:
                self._unknown.popitem(last=False)
            raise Unauthenticated(_NOT_KNOWN)
        return principal


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
