"""A batch scoring job from its request to its report: pinned, spread over workers, committed part after part.

The output table is the job's only state. Each commit holds one part, counts it under the job's own application
transaction, and notes the plan; a job that was killed is found by that note when the same is asked again, and goes on
behind its last commit. So no row is there twice, and none is missing once a run has ended.
"""

from __future__ import annotations

import json
import logging
import pickle
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rayplat.artifacts import bundle
from rayplat.data.features import EVENT_TIME
from rayplat.data.features.notes import built
from rayplat.data.parity import in_lookup_order
from rayplat.data.tables import upkeep
from rayplat.errors import Conflict, NotFound, RayplatError, SchemaMismatch
from rayplat.registry.record import aliases, lineage, versions
from rayplat.resources import require_resources
from rayplat.serve.batch_scoring import joined
from rayplat.serve.batch_scoring.plan import NOTE, Plan, ScoreRequest
from rayplat.serve.batch_scoring.scorer import Done, Scorer, Task
from rayplat.serve.http.routes import DEFAULT_ALIAS
from rayplat.types import Edge, ModelSpec, ModelVersion, Principal, ScoreReport, TableVersion, VersionState
from rayplat.types.lineage import model_node, run_node, table_node

if TYPE_CHECKING:
    from rayplat.artifacts.store import ArtifactStore
    from rayplat.data.feature_store import FeatureStore
    from rayplat.data.features import View
    from rayplat.data.tables import Tables
    from rayplat.registry.calls import Registry
    from rayplat.serve.ports import Loader

log = logging.getLogger(__name__)

_COUNTS = "batch_score_counts"
_LOOK_BACK = 1_000  # commits of the output that are looked at for an unfinished job
_PARTS_AT_ONCE = 2  # of one worker: one is computed, another read or written
_WAVE_ROWS = 1 << 24  # rows whose features are joined at once
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Backends:
    """What a job works with; ``principal`` is who asks."""

    tables: Tables
    registry: Registry
    artifacts: ArtifactStore
    features: FeatureStore
    loader: Loader
    principal: Principal


@dataclass(frozen=True)
class Workers:
    """``count`` actors (None: as many as the free CPUs hold) that reserve ``cpus`` and ``gpus`` each; with ``log`` they
    hand their answers to the inference log too, under the role ``batch``."""

    count: int | None = None
    cpus: float = 1.0
    gpus: float = 0.0
    log: bool = False


@dataclass
class _Counts:
    scored: int = 0
    failed: int = 0
    busy_s: float = 0.0
    first_at: float | None = None
    fresh: int = field(default=0)


def score(
    parts: Backends,
    request: ScoreRequest,
    workers: Workers | None = None,
    *,
    fresh: bool = False,
    progress: Progress = lambda done, of: None,
) -> ScoreReport:
    """Score the table and return when the last part is committed. ``fresh`` begins anew where the same job is
    unfinished. Call it on a cluster (a Ray driver).

    Raises `NotFound` for table, model, alias, version or view, `SchemaMismatch` for columns that the model needs,
    `Unschedulable` where not even one worker fits, and what loading the model raised; what was committed stays, and
    asking again goes on behind it.
    """
    workers = workers or Workers()
    began, began_at = time.perf_counter(), time.time()
    plan = (None if fresh else _unfinished(parts.tables, request)) or _planned(parts, request)
    first, counts = _progress(parts.tables, plan)
    resumed = counts.scored + counts.failed
    with _kept(parts.tables, plan):
        if first < plan.parts:
            _run(parts, plan, workers, (first, counts, progress))
    output = parts.tables.version(request.output) if plan.parts else None
    if output is not None:
        _note_lineage(parts, plan, output)
    seconds = time.perf_counter() - began
    rate = counts.fresh / seconds if seconds else 0.0
    return ScoreReport(
        job_id=plan.job_id,
        table=plan.table,
        output=output,
        model=plan.model,
        version=plan.version,
        alias=plan.alias,
        rows=plan.rows,
        scored=counts.scored,
        failed=counts.failed,
        resumed_rows=resumed,
        parts=plan.parts,
        seconds=seconds,
        start_s=max((counts.first_at or began_at) - began_at, 0.0),
        rows_per_s=rate,
        rows_per_s_per_core=counts.fresh / counts.busy_s if counts.busy_s else 0.0,
    )


# --- the plan ---------------------------------------------------------------------------------------


def _planned(parts: Backends, request: ScoreRequest) -> Plan:
    """A new job: everything it reads pinned to what is there now."""
    table = parts.tables.version(*request.input)
    alias, generation, version = _target(parts, request)
    spec = _spec(parts, version)
    scan = parts.tables.scan(table)
    lookup = _looks_up(request, spec, scan.schema.names)
    found = scan.count()
    views = _views(parts, spec) if lookup else []
    pins = {view.name: built(parts.tables, view) for view in joined.stored(views)}
    _check_columns(request, scan.schema.names, spec, joined.inputs(views) if lookup else None)
    now = datetime.now(UTC)
    return Plan(
        job_id=f"score-{now:%Y%m%dT%H%M%S}-{secrets.token_hex(4)}",
        request=request,
        table=table,
        model=version.model,
        version=version.version,
        digest=version.digest,
        alias=alias,
        generation=generation,
        rows=found if request.limit is None else min(found, request.limit),
        started_at=now,
        view_digests=dict(spec.views) if lookup and spec is not None else {},
        views=pins,
        entity=spec.entity if lookup and spec is not None else None,
    )


def _target(parts: Backends, request: ScoreRequest) -> tuple[str | None, int, ModelVersion]:
    """Alias and generation (None and 0 for an exact version), and the version that is asked."""
    model, target = request.target
    alias, generation, number = None, 0, target
    if not isinstance(number, int):
        head = parts.registry.read(aliases.get, model, number or DEFAULT_ALIAS)
        alias, generation, number = head.alias, head.generation, head.version
    version = parts.registry.read(versions.get, model, number)
    if version.state is VersionState.DELETED:
        raise Conflict(f"version {number} of model {model!r} was deleted; score with another")
    return alias, generation, version


def _spec(parts: Backends, version: ModelVersion) -> ModelSpec | None:
    """What a model of our own training says of itself; None for others, which say it when they are loaded."""
    try:
        return bundle.spec_of(parts.artifacts, version.digest)
    except NotFound:
        return None


def _looks_up(request: ScoreRequest, spec: ModelSpec | None, there: Sequence[str]) -> bool:
    if request.lookup is not None and not (request.lookup and (spec is None or not spec.views)):
        return request.lookup
    if request.lookup:
        raise SchemaMismatch(
            "lookup", f"model {request.target[0]!r} names no feature views: its table holds all columns"
        )
    return spec is not None and bool(spec.views) and not {f.name for f in spec.features} <= set(there)


def _views(parts: Backends, spec: ModelSpec | None) -> list[View]:
    if spec is None:
        return []
    declared = [parts.features.declaration(name, digest) for name, digest in spec.views.items()]
    return in_lookup_order(declared, (spec.entity,))


def _check_columns(
    request: ScoreRequest, there: Sequence[str], spec: ModelSpec | None, looked_up_by: tuple[str, ...] | None
) -> None:
    """Before anything is started: the columns that the job reads are there."""
    needed = list(request.keys) + list(request.columns)
    if looked_up_by is not None and spec is not None:
        needed += [spec.entity, *looked_up_by] + ([request.event_time] if request.event_time else [])
    elif spec is not None:
        needed += [feature.name for feature in spec.features]
    for name in needed:
        if name not in there:
            shown = ", ".join(there)
            raise SchemaMismatch(name, f"table {request.input[0]!r} has no such column, there are {shown}")


# --- what was done already ---------------------------------------------------------------------------


def _unfinished(tables: Tables, request: ScoreRequest) -> Plan | None:
    """The plan of the newest job that was asked for the same, if it did not come to its end."""
    try:
        latest = tables.version(request.output).version
    except NotFound:
        return None
    for number in range(latest, max(-1, latest - _LOOK_BACK), -1):
        try:
            text = tables.metadata(request.output, number).get(NOTE)
        except NotFound:
            return None  # the log of older versions was removed
        if text is not None and (plan := Plan.from_json(text)).request.digest() == request.digest():
            last = tables.transaction_version(request.output, plan.application)
            return plan if last is not None and last + 1 < plan.parts else None
    return None


def _progress(tables: Tables, plan: Plan) -> tuple[int, _Counts]:
    """The first part that is not committed, and the counts of those before."""
    try:
        last = tables.transaction_version(plan.request.output, plan.application)
        latest = tables.version(plan.request.output).version
    except NotFound:
        return 0, _Counts()
    if last is None:
        return 0, _Counts()
    for number in range(latest, max(-1, latest - _LOOK_BACK), -1):
        noted = tables.metadata(plan.request.output, number)
        if NOTE in noted and Plan.from_json(noted[NOTE]).job_id == plan.job_id:
            return last + 1, _Counts(**json.loads(noted[_COUNTS]))
    raise Conflict(f"the commits of job {plan.job_id} are no longer in the log of {plan.request.output!r}; begin anew")


class _kept:  # noqa: N801 - reads as a context
    """Keeps the job's inputs from being vacuumed while it runs; a job that is killed leaves its pins for the next run,
    which takes them away at its end."""

    def __init__(self, tables: Tables, plan: Plan) -> None:
        self._tables, self._plan, self._pins = tables, plan, (plan.table, *plan.views.values())

    def __enter__(self) -> None:
        for pin in self._pins:
            reason = f"batch scoring job {self._plan.job_id} reads it"
            upkeep.pin(self._tables, pin.table, pin.version, self._plan.application, reason)

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is not None:
            return
        for pin in self._pins:
            with suppress(NotFound):
                upkeep.unpin(self._tables, pin.table, pin.version, self._plan.application)


# --- running -----------------------------------------------------------------------------------------


def _run(parts: Backends, plan: Plan, workers: Workers, state: tuple[int, _Counts, Progress]) -> None:
    first, counts, progress = state
    count = _count(plan, workers)
    names = {name: parts.features.declaration(name, digest) for name, digest in plan.view_digests.items()}
    views = tuple(in_lookup_order(list(names.values()), (plan.entity or EVENT_TIME,))) if names else ()
    task = Task(plan, parts.tables.scan(plan.table), parts.tables, parts.loader, views, workers.log)
    waiting: dict[int, Done] = {}
    committed = first
    for wave in _waves(plan, first, joins=bool(views)):
        blocks = joined.blocks(task, wave) if views else _numbers(wave)
        for done in _scored(task, blocks, (count, workers)):
            waiting[done.part] = done
            while committed in waiting:
                _commit(parts, plan, waiting.pop(committed), counts)
                committed += 1
                progress(committed, plan.parts)
    if committed != plan.parts:
        raise Conflict(f"job {plan.job_id}: {plan.parts - committed} parts were not scored; ask for the same again")


def _waves(plan: Plan, first: int, *, joins: bool) -> Iterator[range]:
    size = max(1, _WAVE_ROWS // plan.request.part_rows) if joins else plan.parts
    for start in range(first, plan.parts, size):
        yield range(start, min(start + size, plan.parts))


def _numbers(wave: range) -> list[Any]:
    import pyarrow as pa
    import ray

    return [ray.put(pa.table({"part": [part]})) for part in wave]


def _count(plan: Plan, workers: Workers) -> int:
    """How many workers: as many as are asked for, never more than there are parts. Raises `Unschedulable` where not
    even one fits."""
    import ray

    bundle_ = {"CPU": workers.cpus} | ({"GPU": workers.gpus} if workers.gpus else {})
    require_resources(f"scoring with {plan.model!r}", [bundle_])
    free = ray.available_resources()
    fits = min(int(free.get(name, 0.0) / amount + 1e-6) for name, amount in bundle_.items() if amount) if bundle_ else 1
    return max(1, min(workers.count or fits, plan.parts))


def _scored(task: Task, blocks: Sequence[Any], workers: tuple[int, Workers]) -> Iterator[Done]:
    """Every part as soon as its files are written, in any order. Raises the errors of ours that a worker met."""
    import ray.data

    count, each = workers
    data = ray.data.from_arrow_refs(list(blocks))
    data.context.enable_progress_bars = False
    scored = data.map_batches(
        Scorer,
        fn_constructor_args=(task,),
        batch_size=None,
        batch_format="pyarrow",
        zero_copy_batch=True,
        compute=ray.data.ActorPoolStrategy(
            size=count, max_concurrent_calls_per_actor=_PARTS_AT_ONCE, enable_true_multi_threading=True
        ),
        num_cpus=each.cpus,
        num_gpus=each.gpus or None,
    )
    for row in scored.iter_rows():
        done: Done | RayplatError = pickle.loads(row["done"])
        if isinstance(done, RayplatError):
            raise done
        yield done


def _commit(parts: Backends, plan: Plan, done: Done, counts: _Counts) -> None:
    counts.scored += done.scored
    counts.failed += done.failed
    counts.busy_s += done.busy_s
    counts.fresh += done.scored + done.failed
    counts.first_at = min(counts.first_at or done.began_at, done.began_at)
    so_far = json.dumps({"scored": counts.scored, "failed": counts.failed})
    parts.tables.adopt(
        plan.request.output,
        done.written,
        transaction=(plan.application, done.part),
        run_id=plan.job_id,
        metadata={NOTE: plan.to_json(), _COUNTS: so_far, "action": "batch score"},
    )


def _note_lineage(parts: Backends, plan: Plan, output: TableVersion) -> None:
    """The run between what it read and what it wrote. The rows are there already, so a registry that is down is no
    reason to fail."""
    run = run_node(plan.job_id)
    read = [table_node(pin) for pin in (plan.table, *plan.views.values())]
    read.append(model_node(plan.model, plan.version))
    edges = [Edge(node, run, lineage.SCORED_IN) for node in read]
    edges.append(Edge(run, table_node(output), lineage.WROTE))
    try:
        parts.registry.write(lineage.add, edges, by=parts.principal)
    except RayplatError as e:
        log.warning("the lineage of job %s was not noted: %s", plan.job_id, e)
