"""Other Serve applications, called by name from the event loop of a replica."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from typing import Any

from rayplat.errors import Overloaded, Unavailable

log = logging.getLogger(__name__)

_BY_REFERENCE_BYTES = 1 << 20  # larger arguments go through the object store
_ABSENT_S = 1.0
_FIND_S = 10.0


class HandleReach:
    """Implements `pool.front.Reach` over Serve handles, kept from call to call."""

    def __init__(self) -> None:
        self._methods: dict[tuple[str, str, bool], Any] = {}
        self._absent: dict[str, float] = {}

    async def call(self, application: str, method: str, *args: Any) -> Any:
        """What the method gives. Raises `Unavailable` for an application that is not there or whose replica died."""
        from ray.exceptions import RayActorError
        from ray.serve.exceptions import BackPressureError, RayServeException

        large = bool(args) and isinstance(args[-1], bytes) and len(args[-1]) > _BY_REFERENCE_BYTES
        bound = await self._bound(application, method, large)
        response = bound.remote(*args)
        try:
            return await response
        except asyncio.CancelledError:
            response.cancel()
            raise
        except BackPressureError as e:
            raise Overloaded(application, "too many requests wait for it") from e
        except (RayActorError, RayServeException) as e:
            self._forget(application)
            log.warning("%s cannot be reached: %s", application, e)
            raise Unavailable(application, "it has stopped or is restarting") from e

    async def stream(self, application: str, method: str, *args: Any) -> AsyncGenerator[bytes, None]:
        """What the method yields."""
        from ray.exceptions import RayActorError
        from ray.serve.exceptions import RayServeException

        bound = await self._bound(application, method, False, stream=True)
        response = bound.remote(*args)
        try:
            async for piece in response:
                yield piece
        except (asyncio.CancelledError, GeneratorExit):
            response.cancel()
            raise
        except (RayActorError, RayServeException) as e:
            self._forget(application)
            raise Unavailable(application, "it has stopped or is restarting") from e

    async def _bound(self, application: str, method: str, large: bool, stream: bool = False) -> Any:
        key = (application, method, large)
        found = self._methods.get(key)
        if found is None:
            handle = await self._handle(application)
            options: dict[str, Any] = {"method_name": method, "stream": stream}
            if large:
                options["_by_reference"] = True
            found = self._methods[key] = handle.options(**options)
        return found

    async def _handle(self, application: str) -> Any:
        from ray import serve
        from ray.serve.exceptions import RayServeException

        now = asyncio.get_running_loop().time()
        if now - self._absent.get(application, float("-inf")) < _ABSENT_S:
            raise Unavailable(application, "it is not deployed; `rayplat serve apply` or `rayplat up` starts it")
        try:
            return await asyncio.wait_for(asyncio.to_thread(serve.get_app_handle, application), _FIND_S)
        except (RayServeException, TimeoutError) as e:
            self._absent[application] = now
            raise Unavailable(application, "it is not deployed; `rayplat serve apply` or `rayplat up` starts it") from e

    def _forget(self, application: str) -> None:
        for key in [key for key in self._methods if key[0] == application]:
            del self._methods[key]
