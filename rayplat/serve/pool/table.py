"""What the record says is served, as a front keeps it: asked for anew when told to, when silent for long, and when
something is asked for that it does not know."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable

from rayplat.errors import NotFound, RayplatError, Unavailable
from rayplat.serve.http.routes import DEFAULT_ALIAS
from rayplat.serve.pool.placement import Key
from rayplat.serve.pool.worker import EndpointRecord
from rayplat.types import EndpointSpec

log = logging.getLogger(__name__)

_MISS_S = 1.0  # an endpoint that is not known is not asked about again for so long


class EndpointTable:
    """Every served endpoint. Belongs to one event loop. While the registry is down it stays as it was."""

    def __init__(self, record: EndpointRecord, poll_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._record, self._poll_s, self._clock = record, poll_s, clock
        self._specs: dict[Key, EndpointSpec] | None = None
        self._read_at = float("-inf")
        self._reading: asyncio.Task[None] | None = None

    async def get(self, model: str, alias: str) -> EndpointSpec:
        """How it is served. Raises `NotFound` saying what is served, `Unavailable` where nothing is known yet."""
        found = (await self._known()).get((model, alias))
        if found is None and self._clock() - self._read_at > _MISS_S:
            await self._refreshed()
            found = (self._specs or {}).get((model, alias))
        if found is None:
            raise self._absent(model, alias)
        return found

    async def default(self) -> EndpointSpec:
        """The default model's endpoint. Raises `NotFound` where none is declared."""
        for fresh in (False, True):
            if fresh and self._clock() - self._read_at > _MISS_S:
                await self._refreshed()
            for spec in (await self._known()).values():
                if spec.default:
                    return spec
        hint = "`rayplat serve create <model> <alias> --default` makes one answer at the root"
        raise NotFound("default model", "/", hint)

    async def listed(self) -> list[EndpointSpec]:
        return sorted((await self._known()).values(), key=lambda s: (s.model, s.alias))

    async def refresh(self) -> None:
        """Ask the record now. Raises `Unavailable` while the registry cannot be reached."""
        specs = await self._record.endpoints()
        self._specs = {(spec.model, spec.alias): spec for spec in specs}
        self._read_at = self._clock()

    async def _known(self) -> dict[Key, EndpointSpec]:
        if self._specs is None:
            await self._refreshed()
            if self._specs is None:
                raise Unavailable("the list of endpoints", "the registry has not been reached yet")
        elif self._clock() - self._read_at > self._poll_s:
            self._begin()  # who asks now does not wait for it
        return self._specs

    async def _refreshed(self) -> None:
        with contextlib.suppress(RayplatError):
            await asyncio.shield(self._begin())

    def _begin(self) -> asyncio.Task[None]:
        if self._reading is None:
            self._reading = asyncio.create_task(self._read(), name="read-endpoints")
        return self._reading

    async def _read(self) -> None:
        try:
            await self.refresh()
        except RayplatError as e:
            log.warning("the list of endpoints stays as it was: %s", e)
            self._read_at = self._clock()
        finally:
            self._reading = None

    def _absent(self, model: str, alias: str) -> NotFound:
        others = sorted(a for m, a in self._specs or {} if m == model)
        if others:
            served = f"served are {', '.join(others[:8])}"
            return NotFound("endpoint", f"{model[:80]}/{alias[:80]}", served)
        hint = f"no alias of it is served; `rayplat serve create {model[:80]} {DEFAULT_ALIAS}` does"
        return NotFound("endpoint", model[:80], hint)
