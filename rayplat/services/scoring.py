"""Verbs on scoring whole tables."""

from __future__ import annotations

from rayplat.services.verbs import Noun, route
from rayplat.types import Role, ScoreReport


class Scoring(Noun):
    """Batch scoring: a table version in, predictions of a registered model out."""

    NAME = "scoring"

    @route("POST", "/scoring", Role.DEVELOPER, long=True)
    def run(
        self,
        table: str,
        model: str,
        output: str,
        *,
        keys: tuple[str, ...] = (),
        event_time: str | None = None,
        lookup: bool | None = None,
        columns: tuple[str, ...] = (),
        limit: int | None = None,
        part_rows: int = 262_144,
        batch_rows: int = 8_192,
        workers: int | None = None,
        cpus: float = 1.0,
        gpus: float = 0.0,
        log: bool = False,
        fresh: bool = False,
    ) -> ScoreReport:
        """Score ``table`` (name or name@version) with ``model`` (name, name@alias or name@version) into ``output``.

        The output gets the columns ``keys``, the predictions, the row's position in the input, who made them, when, and
        ``error`` for a row that could not be scored. Features come from the table, or where it lacks them from the
        model's feature views as of ``event_time`` (``lookup`` decides otherwise); ``columns`` are stacked into the one
        array that the model takes. ``workers`` of ``cpus`` and ``gpus`` each; ``log``: the inference log has the
        answers too. Killed and asked again, it goes on behind its last commit with what it was pinned to, unless
        ``fresh``.
        """
        from rayplat.serve.batch_scoring import Backends, ScoreRequest, Workers, score
        from rayplat.serve.loader import VersionLoader

        context = self._context
        request = ScoreRequest(
            table, model, output, tuple(keys), lookup, event_time, tuple(columns), limit, part_rows, batch_rows
        )
        loader = VersionLoader(context.settings)
        parts = Backends(
            context.tables, context.registry, context.artifacts, context.features, loader, context.principal
        )
        return score(parts, request, Workers(workers, cpus, gpus, log), fresh=fresh)
