"""Release control in a host, in one piece: follows the release, decides by it, reaches variants, feeds shadows."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from rayplat.serve.ports import RegistryPort
from rayplat.serve.release.follower import ReleaseFollower
from rayplat.serve.release.shadow import Shadows
from rayplat.serve.release.variants import Variants
from rayplat.serve.request import Answer, Call, InferRequest
from rayplat.serve.routing import decide
from rayplat.serve.routing.counts import Counting, Tally
from rayplat.serve.routing.decide import RoutingDecision, RoutingPolicy
from rayplat.types import Release


class ReleaseControl:
    """For the host of ``model``'s alias ``primary``. Belongs to that host's event loop."""

    def __init__(
        self,
        registry: RegistryPort,
        model: str,
        primary: str,
        poll_s: float,
        *,
        variants: Variants | None = None,
        shadows: Shadows | None = None,
    ) -> None:
        self._variants, self._shadows = variants or Variants(model), shadows or Shadows(model)
        self._policy = RoutingPolicy(primary)
        self._follower = ReleaseFollower(
            registry, model, primary, poll_s, reach=self._variants.reach, taken=self._taken
        )
        self._tally = Tally()
        self._following: asyncio.Task[None] | None = None
        self.offer = self._shadows.offer

    async def start(self) -> None:
        """Take the release in force and begin to follow it."""
        await self._follower.start()
        self._following = asyncio.create_task(self._follower.run(), name="follow-release")

    async def stop(self) -> None:
        if self._following is not None:
            self._following.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._following
        self._shadows.stop()
        self._variants.stop()

    @property
    def release(self) -> Release:
        """What is in force here."""
        return self._follower.release

    @property
    def headers(self) -> frozenset[str]:
        """Names of the headers, in lower case, that decisions go by now."""
        return decide.headers(self._follower.release)

    def decide(self, request: InferRequest, call: Call) -> RoutingDecision:
        """Who answers; see `RoutingPolicy.decide`."""
        return self._policy.decide(self._follower.release, call, request)

    async def infer(self, target: str, role: str, request: InferRequest, call: Call) -> Answer:
        """The answer of another variant; see `Variants.infer`."""
        return await self._variants.infer(target, role, request, call)

    def counting(self, then: Counting | None) -> Counting:
        """What counts answers for the release controller, and tells ``then`` of each as well."""
        self._tally.then = then
        return self._tally

    def stats(self) -> dict[str, Any]:
        """The release in force and why a newer one is not; counts by variant since it began; other hosts; shadows."""
        return {
            **self._tally.stats(),
            "failure": self._follower.failure,
            **self._variants.stats(),
            "shadows": self._shadows.stats(),
        }

    def _taken(self, release: Release) -> None:
        self._tally.restart(release.generation)
        self._shadows.obey(release, decide.variant)
