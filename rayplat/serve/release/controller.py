"""The release controller: takes each canary its next step, or takes it back, by what hosts count and others signal.

All it knows is in the record and in the hosts: a controller that restarts goes on where the last one was. It decides on
what was counted under the release that it changes, and compares and sets on that release: of two controllers one is too
late, and of a controller and a person whoever was first wins.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Protocol

from rayplat.errors import Conflict, NotFound, RayplatError
from rayplat.serve.http.routes import DEFAULT_ALIAS
from rayplat.serve.routing.canary import CanaryAction, CanaryCounts, CanaryDecision, CanaryPolicy
from rayplat.serve.routing.counts import VariantCounts, read
from rayplat.serve.routing.decide import variant
from rayplat.types import Canary, CanaryState, Principal, PrincipalKind, Release, Role, Signal

log = logging.getLogger(__name__)

PLATFORM = Principal("rayplat", Role.ADMIN, PrincipalKind.SERVICE)
_WATCHED = (CanaryState.RAMPING, CanaryState.PAUSED)
_EVERY_S = 2.0


class ReleaseRecord(Protocol):
    """What the controller reads and writes."""

    def releases(self) -> Sequence[Release]: ...

    def version(self, model: str, target: str) -> int:
        """The version that a target is now. Raises `NotFound`."""
        ...

    def signals(self, model: str, version: int) -> Sequence[Signal]: ...

    def put(self, release: Release, expected_generation: int) -> Release:
        """Raises `StaleGeneration`."""
        ...


Gather = Callable[[str], Sequence[Mapping[str, Any]]]
"""Of a model: the release part of the stats of each replica of its default alias's host (`ReleaseControl.stats`)."""


class ReleaseController:
    """Looks at every canary on the way, once per `tick`. Driven by hand in tests, by `ReleaseActor` on the platform."""

    def __init__(
        self,
        record: ReleaseRecord,
        gather: Gather,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._record, self._gather, self._clock = record, gather, clock
        self._policy = CanaryPolicy()
        self.waits: dict[str, str] = {}

    def tick(self) -> list[Release]:
        """One look at each model; the releases that were changed. What goes wrong with one model stops no other."""
        changed, waits = [], dict[str, str]()
        for release in self._record.releases():
            if release.canary is None or release.canary.state not in _WATCHED:
                continue
            try:
                decision = self._decide(release, release.canary)
                if decision.action is CanaryAction.HOLD:
                    waits[release.model] = decision.reason
                else:
                    changed.append(self._act(release, release.canary, decision))
            except Conflict as e:
                log.info("the release of %s was changed meanwhile: %s", release.model, e)
            except RayplatError as e:
                waits[release.model] = str(e)
                log.warning("the canary of %s is not looked at: %s", release.model, e)
            except Exception as e:
                waits[release.model] = f"{type(e).__name__}: {e}"
                log.exception("the canary of %s is not looked at", release.model)
        self.waits = waits
        return changed

    def _decide(self, release: Release, canary: Canary) -> CanaryDecision:
        try:
            version = self._record.version(release.model, canary.target)
        except NotFound as e:
            return CanaryDecision(CanaryAction.ROLLBACK, f"target: {e}")
        counts = _counts(self._gather(release.model), release, canary)
        return self._policy.decide(canary, counts, self._record.signals(release.model, version), self._clock())

    def _act(self, release: Release, canary: Canary, decision: CanaryDecision) -> Release:
        changes: dict[str, Any] = {"reason": decision.reason}
        if decision.action is CanaryAction.ROLLBACK:
            changes["state"] = CanaryState.ROLLED_BACK
        elif decision.action is CanaryAction.DONE:
            changes["state"] = CanaryState.DONE
        else:
            changes["step"] = canary.step + 1
        made = self._record.put(replace(release, canary=replace(canary, **changes)), release.generation)
        level = logging.WARNING if decision.action is CanaryAction.ROLLBACK else logging.INFO
        fields = {"model": release.model, "target": canary.target, "generation": made.generation}
        log.log(level, "canary: %s: %s", decision.action.value, decision.reason, extra=fields)
        return made


def _counts(stats: Sequence[Mapping[str, Any]], release: Release, canary: Canary) -> CanaryCounts:
    """What counts is under this release only: a host that has not taken it yet says nothing about it."""
    found = read(stats, release.generation)
    nothing = VariantCounts()
    return CanaryCounts(found.get(variant(canary.target), nothing), found.get(DEFAULT_ALIAS, nothing))


# --- as a part of the platform --------------------------------------------------------------------


class ReleaseActor:
    """The controller as the actor `actors.RELEASES`: a thread that looks every few seconds."""

    def __init__(self) -> None:
        from rayplat import logs

        logs.set_up()
        self._ticks = self._changes = 0
        self._failure = ""
        self._waits: dict[str, str] = {}
        threading.Thread(target=self._run, name="releases", daemon=True).start()

    def heartbeat(self) -> dict[str, Any]:
        """How many looks and changes since the start, what each canary waits for, and what went wrong last."""
        beat: dict[str, Any] = {"ticks": self._ticks, "changes": self._changes, "canaries": len(self._waits)}
        beat |= {f"canary of {model}": waits for model, waits in self._waits.items()}
        return beat | ({"failure": self._failure} if self._failure else {})

    def _run(self) -> None:
        controller: ReleaseController | None = None
        while True:
            try:
                controller = controller or ReleaseController(_Registry(), _gathered)
                self._changes += len(controller.tick())
                self._waits, self._failure = controller.waits, ""
            except Exception as e:
                if not self._failure:
                    log.exception("canaries are not looked at")
                self._failure = str(e)
            self._ticks += 1
            time.sleep(_EVERY_S)


class _Registry:
    """`ReleaseRecord` over the registry actor."""

    def __init__(self) -> None:
        from rayplat.registry.client import RegistryClient

        self._registry = RegistryClient.connect(timeout_s=10)

    def releases(self) -> Sequence[Release]:
        from rayplat.registry.record import releases

        return self._registry.read(releases.listed)

    def version(self, model: str, target: str) -> int:
        from rayplat.registry.record import releases

        return self._registry.read(releases.version_at, model, target)

    def signals(self, model: str, version: int) -> Sequence[Signal]:
        from rayplat.registry.record import signals

        return self._registry.read(signals.listed, model, version)

    def put(self, release: Release, expected_generation: int) -> Release:
        from rayplat.registry.record import releases

        return self._registry.write(releases.put, release, expected_generation, by=PLATFORM)


def _gathered(model: str) -> Sequence[Mapping[str, Any]]:
    from rayplat.serve.deployment import deploy

    found = [host.get("release") for host in deploy.stats(model, DEFAULT_ALIAS)]
    return [told for told in found if told]
