"""The steps of the flights' life, each on its own: the demo runs them in a row, the programs in ``jobs/`` one by one.

A step finds what it needs in the platform (tables, runs, models), not in the memory of the step before; so each
can be repeated, and an interrupted demo starts again without harm.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from rayplat.artifacts.bundle import load_bundle
from rayplat.client import Platform
from rayplat.data import training_sets
from rayplat.data.features import FeatureService
from rayplat.data.features.build import build
from rayplat.demo import flights
from rayplat.demo.replay import Ask, Replay, ReplayReport
from rayplat.errors import NotFound
from rayplat.monitor import profiles
from rayplat.registry.record import aliases, artifacts, versions
from rayplat.serve.deployment import deploy
from rayplat.services.verbs import Context
from rayplat.tracking import Run
from rayplat.train import evaluation, evidence
from rayplat.train.evidence import Measured
from rayplat.train.plan import TrainPlan
from rayplat.train.trainer import train as train_model
from rayplat.types import (
    AliasPolicy,
    DriftReport,
    Endpoint,
    Evidence,
    GateSpec,
    ModelVersion,
    ParityEvidence,
    Promotion,
    Role,
    TableVersion,
    TrainingSet,
)

MODEL = "flight-delay"
ALIAS = "champion"
EXPERIMENT = "flights"
HOLDOUT_FROM = datetime(2013, 10, 1, tzinfo=UTC)
REPLAY_FROM = datetime(2013, 11, 1, 4, tzinfo=UTC)  # midnight in New York
REPLAY_DAYS = 7
BASELINE_ROWS = 20_000


# A version goes live if it is what was signed, no worse than the champion (paired, 95 %) over all flights and at each
# airport, and believable; ten times what it needs on two busy cores is what it may take. Its inputs may differ from the
# champion's: the host looks them up.
GATES = (
    GateSpec("intact"),
    GateSpec("signed"),
    GateSpec("safe_format", {"formats": ["torch_export"]}),
    GateSpec("pinned_dataset"),
    GateSpec("enough_rows", {"min_rows": 10_000}),
    GateSpec("metric_floor", {"metric": "auc", "floor": 0.6}),
    GateSpec("leak_ceiling", {"metric": "auc", "ceiling": evaluation.LEAKAGE_AUC}),
    GateSpec("champion_interval", {"metric": "auc", "margin": 0.005}),
    GateSpec("segments", {"column": "origin", "metric": "auc", "margin": 0.02}),
    GateSpec("latency_budget", {"p99_ms": 500.0}),
    GateSpec("size_budget", {"max_bytes": 100_000_000}),
)


@dataclass(frozen=True)
class Recipe:
    """One of the two models: which features it takes."""

    name: str
    service: FeatureService


RECIPES = {
    "first": Recipe("first", flights.SCHEDULE_WEATHER),
    "second": Recipe("second", flights.ALL),
}


def parts(platform: Platform) -> Context:
    """The platform's parts; steps run in process on the cluster."""
    if platform.context is None:
        raise NotFound("cluster", platform.url, "steps run on the cluster: use Platform() there, or a job")
    return platform.context


def ingest(platform: Platform) -> dict[str, TableVersion]:
    """Flights, weather, planes, airports and the flights' labels, each as a new version of its Delta table."""
    return flights.ingest(parts(platform).tables)


def build_features(platform: Platform, progress: Callable[[str], None] = lambda view: None) -> dict[str, TableVersion]:
    """Build every declared view on the cluster and register the declarations with Feast."""
    context = parts(platform)
    built = {}
    for view in flights.VIEWS:
        progress(view.name)
        built[view.name] = build(context.tables, view)
    progress("feast")
    context.features.apply(flights.ENTITIES, flights.VIEWS, flights.SERVICES)
    return built


def materialize(platform: Platform, upto: datetime = REPLAY_FROM) -> dict[str, int]:
    """Write what was known at ``upto`` into the online store, afresh: a replay begins earlier than the last ended."""
    context = parts(platform)
    return context.features.materialize(context.tables, flights.VIEWS, upto, fresh=True)


def build_training_set(platform: Platform, recipe: Recipe) -> TrainingSet:
    """Each labelled flight with its features as of an hour before departure, pinned to table versions."""
    tables = parts(platform).tables
    spine = training_sets.Spine(flights.LABELS, flights.FLIGHT.join_key, "prediction_at", "late")
    return training_sets.build(tables, f"flights_{recipe.name}", spine, recipe.service)


def train(platform: Platform, recipe: Recipe) -> str:
    """Tune and train one model on two workers; returns the id of its tracked run, which holds the bundle's digest."""
    context = parts(platform)
    training_set = training_sets.get(context.tables, f"flights_{recipe.name}")
    plan = TrainPlan(
        model=MODEL,
        experiment=EXPERIMENT,
        training_set=training_set,
        holdout_from=HOLDOUT_FROM,
        folder=context.settings.home / "training",
        views=recipe.service.view_digests(),
        exclude=("month",),
        required=("hour", "minute_of_day", "weekday", "distance", "sched_minutes"),
        author=context.principal.name,
        **TrainPlan.resources(context.settings.train),
    )
    result = train_model(plan, context.tables, context.tracking)
    store = context.artifacts
    bundle = store.put_tree(result.folder, "model")
    baseline = store.put_bytes(_baseline(context, plan, result.folder), "profile")
    plots = store.put_tree(result.plots, "plot")
    for made in (bundle, baseline, plots):
        context.registry.write(artifacts.add, made, result.run_id, by=context.principal)
    Run(context.tracking, result.run_id).set_tags(
        {
            "rayplat.bundle": bundle.digest,
            "rayplat.baseline": baseline.digest,
            "rayplat.training_set": training_set.name,
        }
    )
    return result.run_id


def _baseline(context: Context, plan: TrainPlan, folder: Any) -> bytes:
    """Profile of a sample of the training rows and of what the model says of them: what later windows are held to."""
    model = load_bundle(folder)
    names = [f.name for f in model.spec.features]
    rows = context.tables.read(plan.training_set.data, columns=names, where=plan.training_rows())
    every = max(1, rows.num_rows // BASELINE_ROWS)
    sample = rows.take(pa.array(range(0, rows.num_rows, every)))
    scores = model.predict({name: sample[name].to_pylist() for name in names})[model.spec.outputs[0]]
    return profiles.baseline_profile(sample, names, scores)


def register(platform: Platform, run_id: str, author: Platform | None = None) -> ModelVersion:
    """Register what a run has trained, under its content digest, in the name of ``author``."""
    run = platform.runs.get(run_id)
    missing = [t for t in ("rayplat.bundle", "rayplat.baseline", "rayplat.training_set") if t not in run.tags]
    if missing:
        raise NotFound("bundle", run_id, f"the run has no {', '.join(missing)}: it did not finish; train again")
    training_set = training_sets.get(parts(platform).tables, run.tags["rayplat.training_set"])
    return (author or platform).models.register(
        MODEL,
        run.tags["rayplat.bundle"],
        run_id,
        training_set.digest,
        training_set.pins,
        {k.removeprefix("holdout_"): v for k, v in run.metrics.items() if k.startswith("holdout_") and v is not None},
        run.tags["rayplat.baseline"],
    )


def set_policy(platform: Platform, alias: str = ALIAS) -> AliasPolicy:
    """What a version must go through before it answers: `GATES`, and one approval. Again changes nothing."""
    return platform.policies.set(MODEL, alias, gates=GATES)


def evaluate(platform: Platform, version: int, alias: str = ALIAS) -> Evidence:
    """Score ``version``, and the version ``alias`` points at, on the same rows of the pinned holdout."""
    context = parts(platform)
    candidate = context.registry.read(versions.get, MODEL, version)
    head = context.registry.read(aliases.last_live, MODEL, alias)
    second = training_sets.get(context.tables, f"flights_{RECIPES['second'].name}")  # it has every feature of the first
    baseline = None if head is None else (head.version, _checkout(context, head.digest))
    bundle, measured = _checkout(context, candidate.digest), Measured(segments=("origin",))
    found = evidence.evaluate(bundle, baseline, context.tables, second, HOLDOUT_FROM, measured)
    return replace(found, candidate_digest=candidate.digest, parity=_parity(platform, version))


def _parity(platform: Platform, version: int) -> ParityEvidence | None:
    """How the features that ``version`` was given online compare, where promotions ask for it and it was asked."""
    if parts(platform).settings.registry.max_parity_mismatch is None:
        return None
    try:
        return platform.features.parity(MODEL, version).evidence
    except NotFound:
        return None


def _checkout(context: Context, digest: str) -> Path:
    folder = context.settings.home / "checkouts" / digest.removeprefix("sha256:")[:16]
    return context.artifacts.checkout(digest, folder)


def request(platform: Platform, version: int, author: Platform, alias: str = ALIAS) -> Promotion:
    """Ask, in the name of ``author``, to point the alias at a version; the gates decide on fresh evidence."""
    return author.promotions.request(MODEL, version, alias, evaluate(platform, version, alias))


def not_champion(platform: Platform, first: int, second: int) -> int:
    """Which of two versions the alias does not point at."""
    return first if platform.aliases.get(MODEL, ALIAS).version == second else second


def serve(platform: Platform, alias: str = ALIAS) -> Endpoint:
    """Serve the alias; again changes nothing."""
    return platform.endpoints.create(MODEL, alias)


def asks(platform: Platform) -> list[Ask]:
    """The requests of the replayed week: every flight, an hour before its departure, cancelled ones too."""
    context = parts(platform)
    moment, last = (
        pa.scalar(t, pa.timestamp("us", tz="UTC")) for t in (REPLAY_FROM, REPLAY_FROM + timedelta(days=REPLAY_DAYS))
    )
    at = pc.field("prediction_at")
    rows = context.tables.read(flights.LABELS, columns=["flight", "prediction_at"], where=(at >= moment) & (at < last))
    rows = rows.sort_by([("prediction_at", "ascending"), ("flight", "ascending")])
    return [Ask(r["flight"], r["prediction_at"]) for r in rows.to_pylist()]


def replay(
    platform: Platform,
    requests: int,
    swap: Callable[[], int | None],
    progress: Callable[[int], None] = lambda sent: None,
) -> ReplayReport:
    """Replay November through HTTP; the online store advances with the requests' clock, ``swap`` moves the alias."""
    context = parts(platform)

    def advance(moment: datetime) -> None:
        context.features.materialize(context.tables, flights.VIEWS, moment)

    replayed = Replay(
        url=platform.url,
        token=platform.token,
        model=MODEL,
        entity=flights.FLIGHT.join_key,
        advance=advance,
        swap=swap,
        prefix=f"replay-{secrets.token_hex(4)}",
    )
    report = replayed.run(asks(platform), requests, progress)
    flush_log()
    return report


def flush_log() -> None:
    """Wait until every answered request is in the inference log."""
    from rayplat import actors

    deploy.flush_logs()
    actors.call(actors.INFERENCE_LOG, "flush")


def logged(platform: Platform, prefix: str) -> tuple[int, int]:
    """(requests, rows) of the inference log whose request id begins with ``prefix``."""
    ids = parts(platform).tables.read(
        "inference_log", columns=["request_id"], where=pc.starts_with(pc.field("request_id"), prefix)
    )
    return len(pc.unique(ids["request_id"])), ids.num_rows


def report(platform: Platform, versions: list[int], replayed: ReplayReport) -> list[DriftReport]:
    """Drift and live quality of each version over the replayed window, with the labels that have arrived since."""
    end = replayed.last_at + timedelta(microseconds=1)
    return [platform.monitors.report(MODEL, version, replayed.first_at, end, flights.LABELS) for version in versions]


@contextmanager
def people(platform: Platform) -> Iterator[tuple[Platform, Platform]]:
    """Two persons with tokens of their own, (author, approver), over HTTP; the tokens end with the block.

    Both are approvers, and yet neither can approve what they asked for themselves."""
    made = []
    try:
        for name in ("demo-author", "demo-approver"):
            made.append(platform.tokens.create(name, Role.APPROVER, datetime.now(UTC) + timedelta(hours=2)))
        author, approver = (Platform(platform.url, token=token.secret) for token in made)
        yield author, approver
    finally:
        for token in made:
            platform.tokens.revoke(token.info.token_id)
