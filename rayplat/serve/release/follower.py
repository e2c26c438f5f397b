"""Keeps a host on its model's release: one value, replaced as a whole, so a request sees the old one or the new one.

The registry pushes by long poll. While it is down the host keeps what it has. A release that would send requests to a
host that cannot be reached is not taken: the old one stays in force, the reason is kept, and it is tried again. Targets
that are in force already are not looked at, so a rollback is never held up.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

from rayplat.errors import RayplatError, Unavailable
from rayplat.serve.ports import RegistryPort
from rayplat.serve.routing.decide import answering
from rayplat.types import Release

log = logging.getLogger(__name__)

Reach = Callable[[str], Awaitable[None]]
"""Raises `Unavailable` where the host of a variant does not answer."""

_FIRST_RETRY_S, _LAST_RETRY_S = 0.2, 15.0
_FIRST_ANSWER_S = 2.0


class ReleaseFollower:
    """Follows the release of ``model`` for the host of its alias ``primary``. ``taken`` is told of each one that comes
    into force, on the loop. `start` asks once, `run` is the endless task."""

    def __init__(
        self,
        registry: RegistryPort,
        model: str,
        primary: str,
        poll_s: float,
        *,
        reach: Reach,
        taken: Callable[[Release], None] = lambda _: None,
    ) -> None:
        self._registry, self._model, self._primary, self._poll_s = registry, model, primary, poll_s
        self._reach, self._taken = reach, taken
        self._retry_s = _FIRST_RETRY_S
        self._refused: Release | None = None
        self.release = Release(model)
        self.failure: str | None = None

    async def start(self) -> None:
        """Take the release in force now. A registry that does not answer is asked again by `run`: until then, and
        while a target cannot be reached, the alias's own version answers everything."""
        try:
            async with asyncio.timeout(_FIRST_ANSWER_S):
                found = await self._registry.listen_release(self._model, -1, 0.0)
        except (RayplatError, TimeoutError) as e:
            log.warning("the release of model %s is not known yet: %s", self._model, e)
            return
        if found is not None and found.generation:
            await self._move(found)

    async def run(self) -> None:
        """Follow for ever. Ends only by cancellation."""
        while True:
            try:
                await self.step()
            except Unavailable as e:
                log.warning("following the release of model %s: %s", self._model, e)
                await self._pause()
            except Exception:
                log.exception("following the release of model %s", self._model)
                await self._pause()

    async def step(self) -> None:
        """One round: wait for a newer release (at most ``poll_s``) and take it. After a refused one the wait is for
        something newer than that, and its end is the next attempt."""
        refused = self._refused
        known = refused or self.release
        timeout_s = self._retry_s if refused else self._poll_s
        found = await self._registry.listen_release(self._model, known.generation, timeout_s)
        if found is None and refused is not None:
            self._retry_s = min(self._retry_s * 2, _LAST_RETRY_S)
            found = refused
        if found is not None and found.generation > self.release.generation:
            await self._move(found)
        if self._refused is None:
            self._retry_s = _FIRST_RETRY_S

    async def _move(self, release: Release) -> None:
        new = answering(release, self._primary) - answering(self.release, self._primary)
        results = await asyncio.gather(*(self._reach(name) for name in sorted(new)), return_exceptions=True)
        failed = [result for result in results if isinstance(result, BaseException)]
        if failed:
            reason = "; ".join(str(e) for e in failed)
            if self._refused is not release:
                log.error("release %d of model %s is not taken: %s", release.generation, self._model, reason)
            self._refused, self.failure = release, f"generation {release.generation}: {reason}"
            return
        self._refused = self.failure = None
        self.release = release
        self._taken(release)
        log.info("release %d of model %s is in force", release.generation, self._model)

    async def _pause(self) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.sleep(self._retry_s)
        self._retry_s = min(self._retry_s * 2, _LAST_RETRY_S)
