"""Verbs on aliases: where they point, where they ever pointed, and moving those that are free."""

from __future__ import annotations

from datetime import UTC, datetime

from rayplat.registry import release_schemas
from rayplat.registry.record import aliases, drift
from rayplat.services.verbs import Noun, route
from rayplat.types import AliasDrift, AliasHead, Role


class Aliases(Noun):
    """Names that point at versions. A protected one moves by promotion only."""

    NAME = "aliases"

    @route("GET", "/models/{model}/aliases", Role.VIEWER)
    def list(self, model: str) -> tuple[AliasHead, ...]:
        """Where each alias of a model points. Raises NotFound for an unknown model."""
        return tuple(self._context.registry.read(aliases.of_model, model))

    @route("GET", "/models/{model}/aliases/{alias}", Role.VIEWER)
    def get(self, model: str, alias: str) -> AliasHead:
        """Where one alias points. Raises NotFound."""
        return self._context.registry.read(aliases.get, model, alias)

    @route("GET", "/models/{model}/aliases/{alias}/history", Role.VIEWER)
    def history(self, model: str, alias: str) -> tuple[AliasHead, ...]:
        """Every move of an alias, newest first: who, when, by which promotion."""
        return tuple(self._context.registry.read(aliases.history, model, alias))

    @route("GET", "/models/{model}/aliases/{alias}/at", Role.VIEWER)
    def at(self, model: str, alias: str, moment: datetime) -> AliasHead | None:
        """Where an alias pointed at a moment (UTC, unless it says otherwise); null where it did not exist then."""
        utc = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        self._context.registry.read(aliases.history, model, alias)
        return self._context.registry.read(aliases.at, model, alias, utc)

    @route("POST", "/models/{model}/aliases/{alias}", Role.DEVELOPER)
    def set(self, model: str, alias: str, version: int, *, expected_generation: int | None = None) -> AliasHead:
        """Point a free alias at a version, if nobody moved it since ``expected_generation``.

        A protected alias moves by promotion: Forbidden. StaleGeneration where somebody was faster. SchemaMismatch where
        a release in force brings it together with a version that takes other requests."""
        release_schemas.check_move(self._context.registry, self._context.artifacts, model, alias, version)
        return self._context.registry.write(
            aliases.set, model, alias, version, expected_generation, by=self._context.principal
        )

    @route("DELETE", "/models/{model}/aliases/{alias}", Role.DEVELOPER)
    def remove(self, model: str, alias: str, reason: str = "", *, expected_generation: int | None = None) -> AliasHead:
        """Remove a free alias, or as an admin with a reason a protected one; its history goes on."""
        return self._context.registry.write(
            aliases.remove, model, alias, expected_generation, reason, by=self._context.principal
        )

    @route("GET", "/drift", Role.VIEWER)
    def drift(self) -> tuple[AliasDrift, ...]:
        """Where MLflow's rows differ from the record, because somebody changed them around it; empty where all is well.

        The platform looks every half minute, and sets back what it finds."""
        return tuple(self._context.registry.read(drift.find))

    @route("POST", "/drift/repair", Role.ADMIN)
    def repair(self) -> tuple[AliasDrift, ...]:
        """Set MLflow's rows back to the record now; what was found, each in the audit log."""
        return tuple(self._context.registry.write(drift.repair, by=self._context.principal))
