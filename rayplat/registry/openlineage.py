"""OpenLineage events of what happened in the registry. Pure: from `Happening`s to RunEvents of specification 2-0-2.

=====================  ===================================================================================
job                    events and datasets
=====================  ===================================================================================
``features/<table>``   START, COMPLETE: source table versions -> version of the feature table
``training_set/<name>`` START, COMPLETE: table versions -> training set and the table with its rows
``train/<model>``      START, COMPLETE (FAIL for a tracked run that failed): training set -> artifact
``register/<model>``   START, COMPLETE: artifact -> model version, with the facet ``rayplat_model``
``promote/<m>@<a>``    START, RUNNING, then COMPLETE, FAIL or ABORT; its gates are a test facet
``alias/<m>@<a>``      START, COMPLETE: model version -> alias, whose dataset version is the generation
``serve/<m>@<a>``      START, and COMPLETE at the next move: alias -> inference log
=====================  ===================================================================================

A run's id is computed from what it made, or is MLflow's own: the same events sent again are the same runs.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import attr
from openlineage.client import event_v2 as ol
from openlineage.client import facet_v2 as facets
from openlineage.client.serde import Serde

from rayplat.registry.record.lineage import HOLDS, PINNED_BY, SOURCE_OF
from rayplat.types import (
    AliasHead,
    Happening,
    LineageGraph,
    ModelVersion,
    Node,
    NodeKind,
    Promotion,
    PromotionState,
    RunInfo,
    Verdict,
)
from rayplat.types.lineage import alias_node, model_node, promotion_node

PRODUCER = "urn:rayplat:lineage"
FACET_SCHEMA = "urn:rayplat:openlineage:ModelDatasetFacet:1-0-0#/$defs/ModelDatasetFacet"  # docs/lineage.md has it
_RUN_IDS = uuid.uuid5(uuid.NAMESPACE_URL, PRODUCER)
_S, _E = PromotionState, ol.RunState
_ENDS = {
    _S.LIVE: _E.COMPLETE,
    _S.REJECTED: _E.FAIL,
    _S.EXPIRED: _E.ABORT,
    _S.STALE: _E.ABORT,
    _S.CANCELLED: _E.ABORT,
}
_BEGINNINGS = ("promotion.request", "promotion.break_glass")
_AFTERWARDS = (_S.SUPERSEDED, _S.ROLLED_BACK)  # the promotion's own run ended when it went live
_STATUS = {Verdict.PASS: ("pass", "error"), Verdict.FAIL: ("fail", "error"), Verdict.WAIVED: ("fail", "warn")}

Columns = Sequence[Sequence[str]]  # name and type of each


@attr.define
class ModelDatasetFacet(facets.DatasetFacet):
    """Which model version a dataset is: ``digest`` names its bytes, ``run`` and ``trainingSet`` what it came from."""

    model: str
    version: int
    digest: str
    run: str
    trainingSet: str  # noqa: N815 - facets are written in camel case
    author: str
    format: str | None = None
    baseline: str | None = None
    metrics: dict[str, float] = attr.field(factory=dict)

    @staticmethod
    def _get_schema() -> str:
        return FACET_SCHEMA


@dataclass(frozen=True)
class _Work:
    """One run of a job: which, and what it read and wrote."""

    job: str
    run: str
    inputs: tuple[ol.InputDataset, ...] = ()
    outputs: tuple[ol.OutputDataset, ...] = ()
    kind: str = "BATCH"
    parent: tuple[str, str] | None = None


class Events:
    """Builds events in one OpenLineage ``namespace``; ``columns`` gives the features and outputs of a model version."""

    def __init__(self, namespace: str = "rayplat", columns: Callable[[ModelVersion], Columns] | None = None) -> None:
        self._namespace = namespace
        self._columns = columns or (lambda _: ())

    def of(self, found: Happening) -> list[ol.RunEvent]:
        """The events of one entry of the audit log; none for what lineage does not speak of."""
        events: list[ol.RunEvent] = []
        if found.version is not None:
            events += self._registered(found, found.version)
        if found.promotion is not None and found.state is not None:
            events += self._promoted(found, found.promotion, found.state)
        if found.head is not None:
            events += self._moved(found.head, found.before)
        return events

    def of_failed_run(self, run: RunInfo) -> list[ol.RunEvent]:
        """START and FAIL of a tracked training that failed, so that it made no model version; none for another."""
        if run.status not in ("FAILED", "KILLED") or run.ended_at is None:
            return []
        model, data = run.tags.get("rayplat.model", run.experiment), run.tags.get("rayplat.training_set.digest")
        inputs = () if data is None else (_input(self._training_set(data)),)
        work = _Work(f"train/{model}", _uuid("run", run.run_id), inputs)
        message = run.tags.get("rayplat.error", f"the run ended as {run.status}")
        failed = {"errorMessage": facets.error_message_run.ErrorMessageRunFacet(message, "PYTHON", producer=PRODUCER)}
        return [
            self._event(work, _E.START, run.started_at),
            self._event(work, _E.FAIL, run.ended_at, failed),
        ]

    # --- each kind of happening -------------------------------------------------------------------

    def _registered(self, found: Happening, version: ModelVersion) -> list[ol.RunEvent]:
        at = found.entry.at
        events = [] if found.made_from is None else self._built(found.made_from, at)
        artifact = _dataset(self._namespace, f"artifacts/{version.digest}", version.digest)
        trained = _Work(
            f"train/{version.model}",
            _uuid("run", version.run_id),
            (_input(self._training_set(version.training_set)),),
            (_output(artifact),),
        )
        ended = found.run_ended_at or at
        events += self._whole(trained, found.run_started_at or ended, ended)
        registered = _Work(
            f"register/{version.model}",
            _uuid("registration", model_node(version.model, version.version)),
            (_input(artifact),),
            (_output(self._model(version)),),
            parent=(trained.run, trained.job),
        )
        return [*events, *self._whole(registered, at, at)]

    def _built(self, graph: LineageGraph, at: datetime) -> list[ol.RunEvent]:
        """The builds that led to a training set: those of its feature tables, and its own."""
        nodes, events = {node.id: node for node in graph.nodes}, []
        targets = dict.fromkeys(e.target for e in reversed(graph.edges) if e.relation == SOURCE_OF)
        for target in targets:
            sources = [_table(nodes[e.source]) for e in graph.edges if (e.target, e.relation) == (target, SOURCE_OF)]
            outputs = (_output(_table(nodes[target])),)
            work = _Work(f"features/{nodes[target].name}", _uuid("build", target), _inputs(sources), outputs)
            moment = _noted(nodes[target], at)
            events += self._whole(work, moment, moment)
        root = nodes[graph.root]
        pins = [_table(nodes[e.source]) for e in graph.edges if (e.target, e.relation) == (graph.root, PINNED_BY)]
        rows = [_table(nodes[e.source]) for e in graph.edges if (e.target, e.relation) == (graph.root, HOLDS)]
        made = [self._training_set(root.name, root.facts), *rows]
        name = root.facts.get("name", root.name)
        work = _Work(f"training_set/{name}", _uuid("build", graph.root), _inputs(pins), tuple(map(_output, made)))
        moment = _noted(root, at)
        return [*events, *self._whole(work, moment, moment)]

    def _promoted(self, found: Happening, asked: Promotion, state: PromotionState) -> list[ol.RunEvent]:
        inputs = [_dataset(self._namespace, f"models/{asked.model}", str(asked.version))]
        evidence = asked.evidence
        if evidence is not None and isinstance(evidence.dataset, str) and evidence.dataset:
            inputs.append(self._training_set(evidence.dataset))
        baseline = None if evidence is None else evidence.baseline_version
        if baseline is not None:
            inputs.append(_dataset(self._namespace, f"models/{asked.model}", str(baseline)))
        outputs = () if found.head is None else (_output(self._alias(found.head)),)
        job = f"promote/{asked.model}@{asked.alias}"
        work = _Work(job, _uuid("promotion", promotion_node(asked.promotion_id)), _inputs(inputs), outputs)
        events = [self._event(work, _E.START, asked.created_at)] if found.entry.action in _BEGINNINGS else []
        over = state in _AFTERWARDS or (state is _S.LIVE and found.head is None)
        if over or state is _S.REQUESTED:
            return events
        about: dict[str, Any] = {}
        if asked.gates:
            about["test"] = facets.test_run.TestRunFacet([_test(*one) for one in _results(asked)], producer=PRODUCER)
        if _ENDS.get(state) in (_E.FAIL, _E.ABORT):
            failed = "; ".join(f"{gate}: {reason}" for gate, verdict, reason in _results(asked) if verdict == "fail")
            message = asked.reason or failed or f"the promotion is {state}"
            about["errorMessage"] = facets.error_message_run.ErrorMessageRunFacet(message, "PYTHON", producer=PRODUCER)
        return [*events, self._event(work, _ENDS.get(state, _E.RUNNING), found.entry.at, about)]

    def _moved(self, head: AliasHead, before: AliasHead | None) -> list[ol.RunEvent]:
        """The move itself, the end of what the alias served before, and the beginning of what it serves now."""
        events = []
        if before is not None and not before.removed:
            events.append(self._event(self._serving(before), _E.COMPLETE, head.moved_at))
        if head.removed:
            return events
        parent = None
        if head.promotion_id is not None:
            parent = (_uuid("promotion", promotion_node(head.promotion_id)), f"promote/{head.model}@{head.alias}")
        work = _Work(
            f"alias/{head.model}@{head.alias}",
            _uuid("move", alias_node(head.model, head.alias, head.generation)),
            (_input(_dataset(self._namespace, f"models/{head.model}", str(head.version))),),
            (_output(self._alias(head)),),
            parent=parent,
        )
        events += self._whole(work, head.moved_at, head.moved_at)
        return [*events, self._event(self._serving(head), _E.START, head.moved_at)]

    def _serving(self, head: AliasHead) -> _Work:
        log = _dataset(self._namespace, f"inference_log/{head.model}", str(head.version))
        run = _uuid("serving", alias_node(head.model, head.alias, head.generation))
        job = f"serve/{head.model}@{head.alias}"
        return _Work(job, run, (_input(self._alias(head)),), (_output(log),), "SERVICE")

    # --- datasets and events ----------------------------------------------------------------------

    def _model(self, version: ModelVersion) -> ol.Dataset:
        found = _dataset(self._namespace, f"models/{version.model}", str(version.version), self._columns(version))
        about = ModelDatasetFacet(
            model=version.model,
            version=version.version,
            digest=version.digest,
            run=version.run_id,
            trainingSet=version.training_set,
            author=version.author,
            format=version.format or None,
            baseline=version.baseline,
            metrics=dict(version.metrics),
            producer=PRODUCER,
        )
        return attr.evolve(found, facets={**(found.facets or {}), "rayplat_model": about})

    def _training_set(self, digest: str, facts: dict[str, Any] | None = None) -> ol.Dataset:
        return _dataset(self._namespace, f"training_sets/{digest}", digest, (facts or {}).get("columns", ()))

    def _alias(self, head: AliasHead) -> ol.Dataset:
        return _dataset(self._namespace, f"aliases/{head.model}@{head.alias}", str(head.generation))

    def _whole(self, work: _Work, started: datetime, ended: datetime) -> list[ol.RunEvent]:
        return [self._event(work, _E.START, started), self._event(work, _E.COMPLETE, ended)]

    def _event(self, work: _Work, kind: ol.RunState, at: datetime, about: dict[str, Any] | None = None) -> ol.RunEvent:
        run_facets: dict[str, Any] = dict(about or {})
        if work.parent is not None:
            parent, job = facets.parent_run.Run(work.parent[0]), facets.parent_run.Job(self._namespace, work.parent[1])
            run_facets["parent"] = facets.parent_run.ParentRunFacet(parent, job, producer=PRODUCER)
        job_type = facets.job_type_job.JobTypeJobFacet(work.kind, "RAYPLAT", "JOB", producer=PRODUCER)
        return ol.RunEvent(
            eventType=kind,
            eventTime=at.isoformat(),
            run=ol.Run(work.run, run_facets),
            job=ol.Job(self._namespace, work.job, {"jobType": job_type}),
            inputs=list(work.inputs),
            outputs=list(work.outputs),
            producer=PRODUCER,
        )


def to_json(event: ol.RunEvent) -> str:
    """One line, as the specification's JSON schema has it."""
    return str(Serde.to_json(event))


# --- inside ---------------------------------------------------------------------------------------


def _uuid(what: str, key: str) -> str:
    """A run's id, the same each time. A tracked run keeps MLflow's, which is a UUID written without dashes."""
    if what == "run":
        try:
            return str(uuid.UUID(key))
        except ValueError:
            pass
    return str(uuid.uuid5(_RUN_IDS, f"{what}:{key}"))


def _noted(node: Node, otherwise: datetime) -> datetime:
    try:
        found = datetime.fromisoformat(str(node.facts["at"]))
    except (KeyError, ValueError):
        return otherwise
    return found if found.tzinfo is not None else otherwise


def _results(asked: Promotion) -> list[tuple[str, str, str]]:
    return [(one.gate, one.verdict.value, one.reason) for one in asked.gates]


def _test(gate: str, verdict: str, reason: str) -> facets.test_run.TestExecution:
    status, severity = _STATUS[Verdict(verdict)]
    return facets.test_run.TestExecution(gate, status, severity, "gate", reason)


def _table(node: Node) -> ol.Dataset:
    """A table by OpenLineage's names for files: the store as namespace, the path as name."""
    if node.kind is not NodeKind.TABLE:
        raise ValueError(f"{node.id} is no table")
    uri = str(node.facts.get("uri") or "")
    place = urlsplit(uri)
    if place.scheme and place.netloc:
        namespace, name, full = f"{place.scheme}://{place.netloc}", place.path.lstrip("/"), uri
    else:
        namespace, name = "file", place.path or node.name
        full = PurePosixPath(name).as_uri() if name.startswith("/") else ""
    found = _dataset(namespace, name, str(node.version), node.facts.get("columns", ()))
    if not full:
        return found
    source = facets.datasource_dataset.DatasourceDatasetFacet(node.name, full, producer=PRODUCER)
    return attr.evolve(found, facets={**(found.facets or {}), "dataSource": source})


def _dataset(namespace: str, name: str, version: str, columns: Columns = ()) -> ol.Dataset:
    about: dict[str, Any] = {
        "version": facets.dataset_version_dataset.DatasetVersionDatasetFacet(version, producer=PRODUCER)
    }
    if columns:
        fields = [
            facets.schema_dataset.SchemaDatasetFacetFields(column, kind, ordinal_position=place, fields=None)
            for place, (column, kind) in enumerate(columns, 1)
        ]
        about["schema"] = facets.schema_dataset.SchemaDatasetFacet(fields, producer=PRODUCER)
    return ol.Dataset(namespace, name, facets=about)


def _input(found: ol.Dataset) -> ol.InputDataset:
    return ol.InputDataset(found.namespace, found.name, facets=found.facets)


def _inputs(found: Iterable[ol.Dataset]) -> tuple[ol.InputDataset, ...]:
    return tuple(map(_input, found))


def _output(found: ol.Dataset) -> ol.OutputDataset:
    return ol.OutputDataset(found.namespace, found.name, facets=found.facets)
