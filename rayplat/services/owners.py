"""Verbs on ownership: who answers for a model, a table or an endpoint, and which team."""

from __future__ import annotations

from rayplat.registry.record import owners
from rayplat.services.verbs import Noun, route
from rayplat.types import Owner, Role


class Owners(Noun):
    """Who answers for a model, a table or an endpoint."""

    NAME = "owners"

    @route("GET", "/owners", Role.VIEWER)
    def list(self, kind: str | None = None, owner: str | None = None) -> tuple[Owner, ...]:
        """All that is owned, of one kind (model, table, endpoint) or by one person."""
        return tuple(self._context.registry.read(owners.listed, kind, owner))

    @route("GET", "/owners/{kind}/{name}", Role.VIEWER)
    def get(self, kind: str, name: str) -> Owner:
        """Who owns a thing. Raises NotFound where nobody has been named."""
        return self._context.registry.read(owners.get, kind, name)

    @route("POST", "/owners/{kind}/{name}", Role.DEVELOPER)
    def set(self, kind: str, name: str, owner: str, *, team: str = "") -> Owner:
        """Name the owner of a thing; where there is one, only they or an admin may."""
        if kind == "table":
            self._context.tables.info(name)
        return self._context.registry.write(owners.set_owner, kind, name, owner, team, by=self._context.principal)
