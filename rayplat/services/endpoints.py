"""Verbs on served aliases."""

from __future__ import annotations

from rayplat.errors import NotFound, StaleGeneration
from rayplat.registry.record import endpoints
from rayplat.services.serving import Serving, changed
from rayplat.services.verbs import Noun, route
from rayplat.types import Endpoint, EndpointSpec, Role, ServingApplied, ServingPlan


class Endpoints(Noun):
    """Served aliases: model hosts of their own, or many models in the pool. They follow the registry by themselves."""

    NAME = "endpoints"

    @route("GET", "/endpoints", Role.VIEWER)
    def list(self) -> tuple[Endpoint, ...]:
        """All served aliases, with the version each one answers with."""
        return tuple(self._serving().endpoints())

    @route("GET", "/endpoints/{model}/{alias}", Role.VIEWER)
    def get(self, model: str, alias: str) -> Endpoint:
        """One served alias. Raises NotFound."""
        for endpoint in self.list():
            if (endpoint.model, endpoint.alias) == (model, alias):
                return endpoint
        raise NotFound("endpoint", f"{model}/{alias}", f"serve it with `rayplat serve create {model} {alias}`")

    @route("POST", "/endpoints/{model}/{alias}", Role.DEVELOPER, long=True)
    def create(
        self,
        model: str,
        alias: str,
        *,
        placement: str | None = None,
        replicas: int | None = None,
        cpus: float | None = None,
        gpus: float | None = None,
        pinned: bool | None = None,
        public: bool | None = None,
        default: bool | None = None,
    ) -> Endpoint:
        """Serve an alias; it is ready when this returns.

        Options that are not given stay as they are, or are as by default; doing it again changes nothing.
        """
        before = self._context.registry.read(endpoints.find, model, alias) or EndpointSpec(model, alias)
        wanted = changed(
            before,
            placement=placement,
            replicas=replicas,
            cpus=cpus,
            gpus=gpus,
            pinned=pinned,
            public=public,
            default=default,
        )
        serving = self._serving()
        for step in serving.plan((wanted,), prune=False).steps:
            serving.take(step)
        return self.get(model, alias)

    @route("DELETE", "/endpoints/{model}/{alias}", Role.DEVELOPER)
    def delete(self, model: str, alias: str) -> None:
        """Stop serving an alias; the registry keeps it. Needs an approver where the alias is protected."""
        self._serving().remove(model, alias)

    @route("POST", "/endpoints/plan", Role.VIEWER)
    def plan(self, spec: str, prune: bool = False) -> ServingPlan:
        """What applying a serving spec (the YAML text) would change, and what that costs."""
        from rayplat.serve.deployment import spec as specs

        return self._serving().plan(specs.parse(spec), prune)

    @route("POST", "/endpoints/apply", Role.DEVELOPER, long=True)
    def apply(self, spec: str, prune: bool = False, expected: str | None = None) -> ServingApplied:
        """Serve like a serving spec says; with ``prune`` what it does not name is served no longer. ``expected`` is
        the digest of the plan that was looked at: with another one nothing is done (`StaleGeneration`)."""
        plan = self.plan(spec, prune)
        if expected is not None and plan.digest != expected:
            raise StaleGeneration("what is served has changed since this plan was made; look at the new one")
        return self._serving().apply(plan)

    @route("GET", "/endpoints/spec", Role.VIEWER)
    def export(self) -> str:
        """What is served now as a serving spec: applying it changes nothing."""
        from rayplat.serve.deployment import spec as specs

        return specs.dump(self._context.registry.read(endpoints.listed))

    def _serving(self) -> Serving:
        context = self._context
        return Serving(context.settings, context.registry, context.serve_url, context.principal)
