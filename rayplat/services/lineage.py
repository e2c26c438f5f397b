"""Verbs on lineage: what a thing came from, what came of it, whom a bad table version reaches, and the export."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from rayplat.errors import RayplatError
from rayplat.registry import sheet
from rayplat.registry.record import happenings
from rayplat.registry.record import lineage as record
from rayplat.services.verbs import Context, Noun, route
from rayplat.types import Impact, LineageGraph, Role

log = logging.getLogger(__name__)

_MOST_RUNS = 1_000


@dataclass(frozen=True)
class LineageEvents:
    """OpenLineage events as JSON, one in each of ``lines``, of the audit log's entries up to ``last_seq``; ``more``
    where there are entries after it."""

    lines: tuple[str, ...]
    last_seq: int
    more: bool


class Lineage(Noun):
    """What was made from what: tables, training sets, runs, model versions, aliases, inference logs."""

    NAME = "lineage"

    @route("GET", "/lineage/upstream", Role.VIEWER)
    def upstream(self, node: str, *, depth: int | None = None) -> LineageGraph:
        """What a node (such as model:flight-delay/3) came from, at most ``depth`` edges away."""
        return self._context.registry.read(record.upstream, node, depth)

    @route("GET", "/lineage/downstream", Role.VIEWER)
    def downstream(self, node: str, *, depth: int | None = None) -> LineageGraph:
        """What came of a node, at most ``depth`` edges away."""
        return self._context.registry.read(record.downstream, node, depth)

    @route("GET", "/lineage/impact/{table}/{version}", Role.VIEWER)
    def impact(self, table: str, version: int, *, through: int | None = None) -> Impact:
        """Which live aliases were trained on a table version, or on any up to ``through``."""
        found = self._context.registry.read(record.live_aliases_trained_on, table, version, through)
        return Impact(table, version, version if through is None else through, tuple(found))

    @route("GET", "/lineage/events", Role.VIEWER, long=True)
    def events(self, after: int = 0, since: datetime | None = None) -> LineageEvents:
        """A page of OpenLineage events: of what happened after entry ``after`` of the audit log and not before
        ``since`` (UTC). The first page begins with the tracked trainings that failed."""
        from rayplat.registry.openlineage import Events, to_json

        context = self._context
        since = since if since is None or since.tzinfo is not None else since.replace(tzinfo=UTC)
        events = Events(context.settings.lineage.namespace, lambda v: sheet.columns(v, context.artifacts))
        found = context.registry.read(happenings.after, after, happenings.MOST, since)
        runs = [] if after else context.tracking.runs(limit=_MOST_RUNS)
        failed = [
            event for run in runs if since is None or run.started_at >= since for event in events.of_failed_run(run)
        ]
        told = [event for one in found for event in events.of(one)]
        last = found[-1].entry.seq if found else after
        return LineageEvents(tuple(map(to_json, [*failed, *told])), last, len(found) == happenings.MOST)

    def export(self, since: datetime | None = None) -> Iterator[str]:
        """OpenLineage events of all that happened, or of what happened not before ``since``: JSON, one by one."""
        last, more = 0, True
        while more:
            page = self.events(last, since)
            yield from page.lines
            last, more = page.last_seq, page.more


def note_data(context: Context, training_set: str) -> int:
    """Add what a training set's tables say of where it came from to the record, before a version that was trained on
    it is registered; how many edges were new. The registration does not depend on it: what cannot be read is logged."""
    from rayplat.registry import lineage as below

    try:
        found = below.of_digest(context.tables, training_set)
        if found is None:
            return 0
        return context.registry.write(record.add, found.edges, found.nodes, by=context.principal)
    except RayplatError as e:
        log.warning("the data of training set %s has no lineage of its own: %s", training_set, e)
        return 0
