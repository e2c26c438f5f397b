"""The registry actor as a host sees it: asynchronous calls with a time limit, its death as `Unavailable`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from rayplat import actors
from rayplat.errors import Unavailable
from rayplat.registry.calls import answer, packed
from rayplat.types import AliasHead, EndpointSpec, ModelVersion, Principal, Release

_CALL_S = 5.0
_ENDPOINTS = "rayplat.registry.record.endpoints"
_LISTEN_GRACE_S = 10.0  # beyond the poll's own end: a registry that is silent for longer is taken for dead


class RegistryLink:
    """Implements `ports.RegistryPort` over the named actor. The handle is looked up anew after every failure."""

    def __init__(self) -> None:
        self._handle: Any = None

    async def alias(self, model: str, alias: str) -> AliasHead:
        head: AliasHead = await self._call("alias", _CALL_S, model, alias)
        return head

    async def version(self, model: str, version: int) -> ModelVersion:
        found: ModelVersion = await self._call("version", _CALL_S, model, version)
        return found

    async def listen(self, model: str, alias: str, generation: int, timeout_s: float) -> AliasHead | None:
        head: AliasHead | None = await self._call(
            "listen", timeout_s + _LISTEN_GRACE_S, model, alias, generation, timeout_s
        )
        return head

    async def listen_many(self, known: Mapping[tuple[str, str], int], timeout_s: float) -> list[AliasHead]:
        """The heads newer than the generations in ``known``, by (model, alias); none after ``timeout_s``."""
        heads: list[AliasHead] = await self._call("listen_many", timeout_s + _LISTEN_GRACE_S, dict(known), timeout_s)
        return heads

    async def endpoint(self, model: str, alias: str) -> EndpointSpec | None:
        """How an alias is served according to the record; None where it is not."""
        found: EndpointSpec | None = await self._call("read", _CALL_S, f"{_ENDPOINTS}:find", (model, alias))
        return found

    async def endpoints(self) -> list[EndpointSpec]:
        """Every served alias."""
        found: list[EndpointSpec] = await self._call("read", _CALL_S, f"{_ENDPOINTS}:listed")
        return found

    async def listen_release(self, model: str, generation: int, timeout_s: float) -> Release | None:
        release: Release | None = await self._call(
            "listen_release", timeout_s + _LISTEN_GRACE_S, model, generation, timeout_s
        )
        return release

    async def ack(self, model: str, alias: str, generation: int, replica: str) -> None:
        await self._call("ack", _CALL_S, model, alias, generation, replica)

    async def authenticate(self, token_hash: str) -> Principal | None:
        principal: Principal | None = await self._call("authenticate", _CALL_S, token_hash)
        return principal

    async def _call(self, method: str, timeout_s: float, *args: Any) -> Any:
        import ray.exceptions as rex

        try:
            if self._handle is None:
                self._handle = await asyncio.to_thread(actors.find, actors.REGISTRY)
            if self._handle is None:
                raise Unavailable("the registry", "its actor does not run")
            return answer(await asyncio.wait_for(self._handle.packed.remote(method, packed(*args)), timeout_s))
        except TimeoutError:
            self._handle = None
            raise Unavailable("the registry", f"{method} gave no answer within {timeout_s:g} s") from None
        except rex.RayTaskError:
            raise
        except rex.RayError as e:
            self._handle = None
            raise Unavailable("the registry", "its actor is restarting or gone") from e
