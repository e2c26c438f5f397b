"""The other variants of a model, as the host of its default alias reaches them: each is an application of its own.

A call goes by Serve handle, on the caller's own loop. A host that cannot be reached is left alone until a probe gets an
answer, so requests that belong to it lose no time before the alias's own version answers them.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import pickle
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

from rayplat.errors import DeadlineExceeded, Overloaded, RayplatError, Unavailable
from rayplat.serve.deployment import cluster, deploy
from rayplat.serve.ports import LoadedVersion
from rayplat.serve.release import forwarding
from rayplat.serve.request import Answer, Call, InferRequest

log = logging.getLogger(__name__)

Send = Callable[[str, str, tuple[Any, ...], float], Awaitable[bytes]]
"""(variant, method, arguments, timeout in seconds) to the bytes that its host answers. Raises `Unavailable`,
`Overloaded` or `DeadlineExceeded`."""

REACH_S = 2.0  # to be given to a replica; a host with none to spare is as good as gone
_FIRST_PROBE_S, _LAST_PROBE_S = 0.2, 5.0
_LARGE_BYTES = 1 << 20  # beyond, arguments go through the object store: gRPC between replicas takes 4 MiB at most


class Variants:
    """Answers by other variants (``challenger``, ``v7``) of ``model``. Belongs to one event loop."""

    def __init__(self, model: str, send: Send | None = None, limit_s: float = 30.0) -> None:
        self._model, self._limit_s = model, limit_s
        self._send = send or HandleSender(model)
        self._known: dict[str, LoadedVersion] = {}
        self._probes: dict[str, asyncio.Task[None]] = {}
        self.forwarded: Counter[str] = Counter()
        self.unreached: Counter[str] = Counter()

    async def infer(self, variant: str, role: str, request: InferRequest, call: Call) -> Answer:
        """The answer of ``variant``'s host. Raises `Unavailable` where it cannot be reached (counted in ``unreached``,
        and at once while it is known to be gone), and that host's own errors."""
        if variant in self._probes:
            self.unreached[variant] += 1
            raise Unavailable(self._what(variant), "it could not be reached a moment ago")
        call = forwarding.within(call, self._limit_s)
        assert call.deadline is not None
        known = self._known.get(variant)
        named = None if known is None else (known.version, known.digest)
        packed = forwarding.pack_request(request, call, role, named)
        self.forwarded[variant] += 1
        try:
            sent = await self._send(variant, "infer_forwarded", (packed,), call.deadline - time.monotonic())
        except Unavailable as e:
            log.warning("%s", e)
            self.unreached[variant] += 1
            self._probe(variant)
            raise
        answer = forwarding.unpack_answer(sent, known)
        self._known[variant] = answer.loaded
        return answer

    async def reach(self, variant: str, timeout_s: float = REACH_S) -> None:
        """Nothing, or `Unavailable` where the host does not answer."""
        try:
            went_well, found = pickle.loads(await self._send(variant, "describe", (), timeout_s))
        except (Overloaded, DeadlineExceeded) as e:
            raise Unavailable(self._what(variant), str(e)) from e
        if not went_well:
            raise Unavailable(self._what(variant), str(found))
        self._known[variant] = found[0]

    def stop(self) -> None:
        for probe in self._probes.values():
            probe.cancel()

    def stats(self) -> dict[str, Any]:
        """By variant, how many requests were sent there, and how many could not be; which are taken for gone now."""
        return {
            "forwarded": dict(self.forwarded),
            "unreached": dict(self.unreached),
            "gone": sorted(self._probes),
        }

    def _what(self, variant: str) -> str:
        return f"the host of {self._model}/{variant}"

    def _probe(self, variant: str) -> None:
        """Ask until it answers. In a context of its own: what a request starts ends with its client."""
        if variant not in self._probes:
            probing = asyncio.get_running_loop().create_task(
                self._until_reached(variant), context=contextvars.Context()
            )
            self._probes[variant] = probing

    async def _until_reached(self, variant: str) -> None:
        pause_s = _FIRST_PROBE_S
        try:
            while True:
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, _LAST_PROBE_S)
                try:
                    await self.reach(variant)
                except RayplatError as e:
                    log.debug("%s", e)
                else:
                    log.info("%s answers again", self._what(variant))
                    return
        finally:
            self._probes.pop(variant, None)


class HandleSender:
    """`Send` over Serve handles. Belongs to one event loop; a handle is looked up once, and anew after a failure.
    ``find`` defaults to the handles that Serve keeps for the process: for the host's own loop."""

    def __init__(self, model: str, find: Callable[[str], Any | None] | None = None) -> None:
        self._model, self._find = model, find or _app_handle
        self._handles: dict[str, Any] = {}

    async def __call__(self, variant: str, method: str, arguments: tuple[Any, ...], timeout_s: float) -> bytes:
        from ray.exceptions import RayError
        from ray.serve.exceptions import BackPressureError, RayServeException

        what = f"the host of {self._model}/{variant}"
        if timeout_s <= 0:
            raise DeadlineExceeded(what, 0.0)
        handle = await self._handle(variant, what)
        large = any(isinstance(argument, bytes) and len(argument) > _LARGE_BYTES for argument in arguments)
        options = {"_by_reference": True} if large else {}
        response = handle.options(method_name=method, **options).remote(*arguments)
        try:
            await self._given(response, what, timeout_s)
            async with asyncio.timeout(timeout_s):
                found: bytes = await response
                return found
        except TimeoutError:
            response.cancel()
            raise DeadlineExceeded(what, round(timeout_s, 3)) from None
        except asyncio.CancelledError:
            response.cancel()
            raise
        except BackPressureError as e:
            raise Overloaded(what, "too many requests wait for it", e.retry_after_s or 1.0) from e
        except (RayServeException, RayError) as e:
            self._handles.pop(variant, None)
            raise Unavailable(what, f"it has stopped or is restarting ({type(e).__name__})") from e

    async def _given(self, response: Any, what: str, timeout_s: float) -> None:
        """Wait until a replica has the request: with no replica alive, Serve would wait for one for ever."""
        try:
            async with asyncio.timeout(min(REACH_S, timeout_s)):
                await response._fetch_future_result_async()
        except TimeoutError:
            if timeout_s < REACH_S:
                raise  # it had no more time than that
            response.cancel()
            raise Unavailable(what, f"none of its replicas took the request within {REACH_S:g} s") from None

    async def _handle(self, variant: str, what: str) -> Any:
        handle = self._handles.get(variant)
        if handle is None:
            name = deploy.app_name(self._model, variant)
            handle = await asyncio.to_thread(self._find, name)
            if handle is None:
                hint = f"`rayplat serve create {self._model} {variant}` starts it"
                raise Unavailable(what, f"there is no application {name!r}; {hint}")
            self._handles[variant] = handle
        return handle


def thread_sender(model: str) -> HandleSender:
    """A sender that shares nothing with the one of the process's own event loop."""
    return HandleSender(model, lambda name: _found(cluster.handle, name))


def _app_handle(name: str) -> Any | None:
    from ray import serve

    return _found(serve.get_app_handle, name)


def _found(find: Callable[[str], Any], name: str) -> Any | None:
    """The handle of a Serve application, None where there is none. Blocks for one call to the controller."""
    from ray.serve.exceptions import RayServeException

    try:
        return find(name)
    except RayServeException:
        return None
