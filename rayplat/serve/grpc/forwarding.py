"""From the gRPC server to the hosts: which application a request belongs to, and one call by its Serve handle.

An application is looked for once and then every few seconds, so that a model that is served anew is found and one
that is gone is not waited for. Calls end with their deadline or their client.
"""

from __future__ import annotations

import asyncio
import logging
import pickle
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from rayplat.errors import DeadlineExceeded, InvalidName, NotFound, Overloaded, Unavailable
from rayplat.serve.http.routes import DEFAULT_ALIAS
from rayplat.serve.ports import LoadedVersion
from rayplat.serve.request import Answer, Call, InferRequest
from rayplat.types import EndpointSpec

log = logging.getLogger(__name__)

DEFAULT_TIMEOUT_S = 30.0  # for a caller that sets no deadline
_KNOWN_S = 5.0  # how long an application is taken to be there
_ABSENT_S = 1.0  # and how long to be absent
_DESCRIBED_S = 10.0
_BY_REFERENCE_BYTES = 1 << 20  # larger requests go through the object store
_MOST_PLACES = 4096  # remembered names: clients make up as many as they like


@dataclass(frozen=True)
class Place:
    """Where a request goes: the host of an alias; ``version`` where it names an exact one, which the default alias's
    host answers."""

    model: str
    alias: str = DEFAULT_ALIAS
    version: int | None = None


def place_of(model: str, version: str) -> Place:
    """The place that a model name and the protocol's version field (empty, an alias, an exact number) name."""
    if not version:
        return Place(model)
    if version.isascii() and version.isdecimal() and len(version) <= 18:
        return Place(model, version=int(version))
    return Place(model, version)


@dataclass(frozen=True)
class Described:
    """What a host says of itself: what answers (without what computes), every loaded version, and how it is served."""

    loaded: LoadedVersion
    versions: tuple[int, ...]
    spec: EndpointSpec


class Forwarder(Protocol):
    """Reaches model hosts. Every method raises `NotFound` for what is not served, `Unavailable` for a host that
    cannot be reached, and the host's own errors."""

    async def describe(self, place: Place, fresh: bool = False) -> Described: ...

    async def infer(self, place: Place, request: InferRequest, call: Call) -> Answer: ...


Find = Callable[[str], Any | None]


class HandleForwarder:
    """Implements `Forwarder` over Serve handles. ``pool`` names the application that carries pooled models, which
    takes model and alias before the arguments of a host's method."""

    def __init__(self, pool: str | None = None, find: Find | None = None) -> None:
        self._pool, self._find = pool, find or _app_handle
        self._handles: dict[str, tuple[Any | None, float]] = {}
        self._described: dict[Place, tuple[Described, float]] = {}

    async def describe(self, place: Place, fresh: bool = False) -> Described:
        known = self._described.get(place)
        if known is not None and not fresh and known[1] > time.monotonic():
            return known[0]
        deadline = time.monotonic() + DEFAULT_TIMEOUT_S
        loaded, versions, spec = await self._call(place, "describe", (place.version,), deadline)
        described = Described(loaded, tuple(versions), spec)
        _keep(self._described, place, (described, time.monotonic() + _DESCRIBED_S))
        return described

    async def infer(self, place: Place, request: InferRequest, call: Call) -> Answer:
        deadline = call.deadline or time.monotonic() + DEFAULT_TIMEOUT_S
        packed = pickle.dumps((request, call, place.version))
        answer: Answer = await self._call(place, "infer_remote", (packed,), deadline)
        return answer

    async def _call(self, place: Place, method: str, arguments: tuple[Any, ...], deadline: float) -> Any:
        handle, pooled = await self._handle(place)
        if pooled:
            arguments = (place.model, place.alias, *arguments)
        large = isinstance(arguments[-1], bytes) and len(arguments[-1]) > _BY_REFERENCE_BYTES
        options: dict[str, Any] = {"method_name": method + ("_pooled" if pooled else "")}
        if large:
            options["_by_reference"] = True
        response = handle.options(**options).remote(*arguments)
        went_well, found = pickle.loads(await self._answered(place, response, deadline))
        if went_well:
            return found
        if isinstance(found, NotFound):
            self._described.pop(place, None)
        raise found

    async def _answered(self, place: Place, response: Any, deadline: float) -> bytes:
        from ray.exceptions import RayError
        from ray.serve.exceptions import BackPressureError, RayServeException

        what = f"the host of {place.model}/{place.alias}"
        left_s = max(deadline - time.monotonic(), 0.001)
        try:
            async with asyncio.timeout(left_s):
                return bytes(await response)
        except TimeoutError:
            response.cancel()
            raise DeadlineExceeded(what, round(left_s, 3)) from None
        except asyncio.CancelledError:
            response.cancel()
            raise
        except BackPressureError as e:
            raise Overloaded(what, "too many requests wait for it", e.retry_after_s or 1.0) from e
        except (RayServeException, RayError) as e:
            self._forget(place)
            log.warning("%s failed: %s", what, e)
            raise Unavailable(what, "it has stopped or is restarting") from e

    async def _handle(self, place: Place) -> tuple[Any, bool]:
        """The handle of the application that serves the place, and whether that is the pool."""
        absent = NotFound("served model", f"{place.model}/{place.alias}"[:160], "`rayplat serve list` shows them")
        try:
            name = _application_name(place)
        except InvalidName:
            raise absent from None
        handle = await self._application(name)
        if handle is not None:
            return handle, False
        pool = None if self._pool is None else await self._application(self._pool)
        if pool is None:
            raise absent
        return pool, True

    async def _application(self, name: str) -> Any | None:
        known = self._handles.get(name)
        if known is not None and known[1] > time.monotonic():
            return known[0]
        found = await asyncio.to_thread(self._find, name)
        if found is not None and known is not None and known[0] is not None:
            found = known[0]  # it knows its replicas already
        kept_s = _ABSENT_S if found is None else _KNOWN_S
        _keep(self._handles, name, (found, time.monotonic() + kept_s))
        return found

    def _forget(self, place: Place) -> None:
        self._handles.pop(_application_name(place), None)
        self._described.pop(place, None)


def _keep(kept: dict[Any, Any], key: Any, value: Any) -> None:
    kept.pop(key, None)
    kept[key] = value
    while len(kept) > _MOST_PLACES:
        kept.pop(next(iter(kept)))


def _application_name(place: Place) -> str:
    from rayplat.serve.deployment import deploy

    return deploy.app_name(place.model, place.alias)


def _app_handle(name: str) -> Any | None:
    """The handle of a Serve application, or None where there is none. Blocks for one call to the controller."""
    from ray import serve
    from ray.serve.exceptions import RayServeException

    try:
        return serve.get_app_handle(name)
    except RayServeException:
        return None
