"""Verbs on tracked runs."""

from __future__ import annotations

from rayplat.errors import InvalidInput
from rayplat.services.verbs import Noun, route
from rayplat.types import Role, RunInfo


class Runs(Noun):
    """Training runs as MLflow has recorded them."""

    NAME = "runs"

    @route("GET", "/runs", Role.VIEWER)
    def list(self, experiment: str | None = None, limit: int = 50) -> tuple[RunInfo, ...]:
        """The newest runs first, of one experiment or of all."""
        if not 1 <= limit <= 1000:
            raise InvalidInput("limit", f"{limit} is not between 1 and 1000")
        return tuple(self._context.tracking.runs(experiment, limit))

    @route("GET", "/runs/{run_id}", Role.VIEWER)
    def get(self, run_id: str) -> RunInfo:
        """One run. Raises NotFound."""
        return self._context.tracking.get(run_id)

    @route("POST", "/runs/compare", Role.VIEWER)
    def compare(self, run_ids: tuple[str, ...]) -> dict[str, dict[str, str | float | None]]:
        """For each param and metric that differs, its value in each run: ``{name: {run_id: value}}``."""
        if len(run_ids) < 2:
            raise InvalidInput("run_ids", "give at least two runs to compare")
        return self._context.tracking.compare(list(run_ids))
