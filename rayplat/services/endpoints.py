"""Verbs on served aliases."""

from __future__ import annotations

from rayplat.errors import NotFound
from rayplat.registry.record import aliases
from rayplat.services.verbs import Noun, route
from rayplat.types import Endpoint, Role


class Endpoints(Noun):
    """Model hosts: one for each served alias, following the registry by itself."""

    NAME = "endpoints"

    @route("GET", "/endpoints", Role.VIEWER)
    def list(self) -> tuple[Endpoint, ...]:
        """All served aliases, with the version each one answers with."""
        from rayplat.serve import deploy

        return tuple(deploy.endpoints(self._context.serve_url))

    @route("GET", "/endpoints/{model}/{alias}", Role.VIEWER)
    def get(self, model: str, alias: str) -> Endpoint:
        """One served alias. Raises NotFound."""
        for endpoint in self.list():
            if (endpoint.model, endpoint.alias) == (model, alias):
                return endpoint
        raise NotFound("endpoint", f"{model}/{alias}", f"serve it with `rayplat serve create {model} {alias}`")

    @route("POST", "/endpoints/{model}/{alias}", Role.DEVELOPER)
    def create(self, model: str, alias: str) -> Endpoint:
        """Serve an alias; the host is ready when this returns. Doing it again changes nothing."""
        from rayplat.serve import deploy, served

        self._context.registry.read(aliases.get, model, alias)
        endpoint = deploy.deploy(self._context.settings, model, alias, self._context.serve_url)
        served.remember(self._context.settings.home, model, alias)
        return endpoint

    @route("DELETE", "/endpoints/{model}/{alias}", Role.DEVELOPER)
    def delete(self, model: str, alias: str) -> None:
        """Stop serving an alias; the registry keeps it."""
        from rayplat.serve import deploy, served

        self.get(model, alias)
        served.forget(self._context.settings.home, model, alias)
        deploy.remove(model, alias)
