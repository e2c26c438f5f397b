"""Serving specs carried out: the record says how an alias is served, Serve and the pool are made to do it.

A step writes the record first, which refuses what may not be, and puts it back where the hosts do not come up: what is
recorded is what runs. Whatever interrupts a step, the same spec applied again finds what is left of it.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rayplat.errors import NotFound, RayplatError
from rayplat.registry.record import endpoints
from rayplat.types import Endpoint, EndpointSpec, PlanStep, Principal, Role, ServingApplied, ServingPlan, StepOutcome

if TYPE_CHECKING:
    from rayplat.registry.calls import Registry
    from rayplat.serve.deployment.plan import Present
    from rayplat.settings import Settings

log = logging.getLogger(__name__)

_PLATFORM = Principal("rayplat", Role.ADMIN)


@dataclass(frozen=True)
class Serving:
    """What is served, and changes of it by ``principal``. Blocks; needs a process that is connected to Ray."""

    settings: Settings
    registry: Registry
    serve_url: str
    principal: Principal

    def endpoints(self) -> list[Endpoint]:
        """Every served alias, with the version that answers."""
        from rayplat.serve.deployment import deploy

        recorded = {(s.model, s.alias): s for s in self.registry.read(endpoints.listed)}
        found = deploy.endpoints(self.serve_url)
        there = {(e.model, e.alias) for e in found}
        pooled = [s for s in recorded.values() if s.placement == "pooled"]
        missing = [s for s in recorded.values() if s.placement == "dedicated" and (s.model, s.alias) not in there]
        found += self._pooled(pooled) + [self._endpoint(s, "not running") for s in missing]
        return sorted(found, key=lambda e: (e.model, e.alias))

    def present(self) -> list[Present]:
        """What the record says, and where it is not so."""
        from rayplat.serve.deployment import cluster, deploy
        from rayplat.serve.deployment.plan import Present
        from rayplat.serve.pool import names

        states = cluster.states()
        found = []
        for spec in self.registry.read(endpoints.listed):
            own = states.get(deploy.app_name(spec.model, spec.alias))
            if spec.placement == "dedicated":
                problem = "" if own in ("RUNNING", "DEPLOYING") else f"its host does not run ({own or 'absent'})"
            elif states.get(names.FRONT) != "RUNNING":
                problem = "the pool does not run"
            else:
                problem = "" if own is None else "the host that it had before still runs"
            found.append(Present(spec, problem))
        return found

    def plan(self, wanted: tuple[EndpointSpec, ...], prune: bool) -> ServingPlan:
        """The steps to ``wanted``. Raises `InvalidInput`, and `NotFound` for an alias that does not exist."""
        from rayplat.serve.deployment import plan

        for spec in wanted:
            self.registry.read(endpoints.check_target, spec)
        return plan.make(wanted, self.present(), prune)

    def apply(self, plan: ServingPlan) -> ServingApplied:
        """Take every step; one that fails does not keep the others from being taken."""
        outcomes = []
        for step in plan.steps:
            try:
                self.take(step)
                outcomes.append(StepOutcome(step.action, step.model, step.alias, "done"))
            except RayplatError as e:
                log.warning("%s %s/%s failed: %s", step.action, step.model, step.alias, e)
                outcomes.append(StepOutcome(step.action, step.model, step.alias, "failed", str(e)))
        return ServingApplied(tuple(outcomes))

    def take(self, step: PlanStep) -> None:
        """One step. Raises what stands against it; then all is as it was before."""
        if step.spec is None:
            self.remove(step.model, step.alias)
        else:
            self.put(step.spec)

    def put(self, spec: EndpointSpec) -> None:
        """Serve like ``spec``; ready when this returns."""
        before = self.registry.read(endpoints.listed)
        old = next((s for s in before if (s.model, s.alias) == (spec.model, spec.alias)), None)
        self.registry.write(endpoints.put, spec, by=self.principal)
        try:
            self.bring_up(spec, old)
        except RayplatError:
            self._put_back(spec, before)
            raise

    def remove(self, model: str, alias: str) -> None:
        """Serve it no longer. Raises `NotFound`, `Forbidden`."""
        from rayplat.serve.pool import start as pool

        spec = self.registry.write(endpoints.delete, model, alias, by=self.principal)
        if spec.placement == "pooled":
            pool.drop(self.settings, model, alias)
        self._without_host(model, alias)
        pool.refresh()

    def bring_up(self, spec: EndpointSpec, before: EndpointSpec | None) -> None:
        """Make what runs fit the record: ``before`` is how it was served. Raises why it does not start."""
        from rayplat.serve.deployment import deploy
        from rayplat.serve.pool import start as pool

        if spec.placement == "pooled":
            pool.ensure(self.settings)
            if before is None or before.placement != "pooled":
                pool.load(self.settings, spec.model, spec.alias)
            else:
                pool.configure(self.settings, spec)
            pool.refresh()
            self._without_host(spec.model, spec.alias)
            return
        deploy.deploy(self.settings, spec, self.serve_url)
        if before is not None and before.placement == "pooled":
            pool.drop(self.settings, spec.model, spec.alias)
        pool.refresh()

    def reload(self, spec: EndpointSpec) -> None:
        """Have it ready where it waits for its first request, or for its next try after a failure."""
        from rayplat.serve.pool import start as pool

        if spec.placement == "pooled":
            pool.load(self.settings, spec.model, spec.alias)

    def _put_back(self, spec: EndpointSpec, before: list[EndpointSpec]) -> None:
        """The record as it was: it must not say what does not run."""
        old = next((s for s in before if (s.model, s.alias) == (spec.model, spec.alias)), None)
        default = next((s for s in before if s.default), None)
        try:
            if old is None:
                self.registry.write(endpoints.delete, spec.model, spec.alias, by=_PLATFORM)
            else:
                self.registry.write(endpoints.put, old, by=_PLATFORM)
            if spec.default and default is not None:
                self.registry.write(endpoints.put, default, by=_PLATFORM)
            if old is not None:
                self.bring_up(old, spec)
        except RayplatError as e:
            log.warning("%s/%s could not be put back as it was: %s", spec.model, spec.alias, e)

    def _without_host(self, model: str, alias: str) -> None:
        from rayplat.serve.deployment import deploy

        try:
            deploy.remove(model, alias)
        except NotFound:
            log.debug("%s/%s has no host of its own", model, alias)

    def _pooled(self, specs: list[EndpointSpec]) -> list[Endpoint]:
        from rayplat.serve.pool import start as pool

        if not specs:
            return []
        held = {(s["model"], s["alias"]): s for s in pool.states()}
        found = []
        for spec in specs:
            state = held.get((spec.model, spec.alias), {})
            status = {"ready": "running", "failed": f"failing: {state.get('reason')}"}.get(
                state.get("state", ""), state.get("state", "cold")
            )
            found.append(self._endpoint(spec, status, state))
        return found

    def _endpoint(self, spec: EndpointSpec, status: str, state: dict[str, object] | None = None) -> Endpoint:
        from rayplat.serve.http.routes import prefix

        state = state or {}
        route, generation = prefix(spec.model, spec.alias), state.get("generation")
        return Endpoint(
            model=spec.model,
            alias=spec.alias,
            route=route,
            url=self.serve_url + route,
            version=state.get("version"),  # type: ignore[arg-type]
            generation=generation,  # type: ignore[arg-type]
            status=status,
            replicas={} if generation is None else {str(state["worker"]): int(str(generation))},
            placement=spec.placement,
        )


def changed(spec: EndpointSpec, **given: object) -> EndpointSpec:
    """``spec`` with the fields that are not None; another placement drops what only the former can have."""
    said = {name: value for name, value in given.items() if value is not None}
    if said.get("placement") == "pooled" and spec.placement != "pooled":
        spec = replace(spec, replicas=1, autoscale=None, cpus=None, gpus=0.0)
    elif said.get("placement") == "dedicated":
        spec = replace(spec, pinned=False)
    if "replicas" in said:
        spec = replace(spec, autoscale=None)
    return replace(spec, **said)  # type: ignore[arg-type]
