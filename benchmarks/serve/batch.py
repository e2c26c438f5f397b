"""Batch scoring beside a plain loop over the same Arrow batches, on the flights of 2013 twenty-one times over.

The model is the demo's network, untrained: what it answers costs the same. The plain loop has the rows in memory, and
encodes and predicts batch after batch in one process on one core; nothing is read, checked or written. Ours reads a
pinned table, checks every value, writes the output table and commits it. Both run after each other in one run, the
plain loop before and after; a job's time counts from its first part to its last commit, and starting is told apart.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

import pyarrow as pa

from benchmarks.rows import Row, row
from rayplat import actors
from rayplat import settings as settings_module
from rayplat.artifacts.bundle import LoadedModel, load_bundle, write_bundle
from rayplat.artifacts.store import ArtifactStore
from rayplat.data.feature_store import FeatureStore
from rayplat.data.tables import Tables
from rayplat.demo import flights
from rayplat.platform.state import prepare_home
from rayplat.registry.candidate import Candidate
from rayplat.registry.local import LocalRegistry
from rayplat.registry.record import policies, versions
from rayplat.registry.record.database import Record
from rayplat.serve.batch_scoring import Backends, ScoreRequest, Workers, score
from rayplat.serve.loader import VersionLoader
from rayplat.settings import Settings
from rayplat.train import tabular
from rayplat.types import AliasPolicy, ModelSpec, Principal, Role

COMMAND = "python -m benchmarks.serve batch"
MODEL, BATCH_ROWS, TIMES = "bench", 8_192, 21
NUMBERS = (
    *("month", "weekday", "hour", "minute_of_day", "sched_minutes", "distance"),
    *("dep_delay", "arr_delay", "air_time"),
)
WORDS = ("carrier", "origin", "dest", "tailnum")
ANN, ROOT = Principal("ann", Role.DEVELOPER), Principal("root", Role.ADMIN)


def measure(work: Path, quick: bool) -> tuple[list[Row], dict[str, Any]]:
    """Rows per second and core of the plain loop and of jobs with one and two workers."""
    settings = settings_module.load(work / "home", environ={})
    prepare_home(settings.home)
    data = _flights(Tables(settings.tables_uri), 1 if quick else TIMES)
    digest, model = _model(settings, work, data)
    before = _plain(model, data)
    reports = _jobs(settings, digest)
    after = _plain(model, data)
    plain = statistics.mean((before, after))
    one, two = (_rate(report) for report in reports)
    rows = [
        row("batch scoring, one worker, rows/s", one, "rows/s", None, COMMAND, {"plain loop": round(plain)}),
        row("batch scoring, one worker, of the plain loop", one / plain, "", ">= 0.7", COMMAND),
        row("batch scoring, two workers, rows/s", two, "rows/s", None, COMMAND, {"plain loop": round(plain)}),
        row("batch scoring, two workers, of the plain loop per core", two / 2 / plain, "", None, COMMAND),
        row("batch scoring, until the first model is loaded", reports[0]["start_s"], "s", None, COMMAND),
    ]
    return rows, {"rows": data.num_rows, "plain_rows_per_s": [before, after], "jobs": reports}


def _flights(tables: Tables, times: int) -> pa.Table:
    """Table ``flights``, and the rows as they are read from it."""
    flights.ingest(tables)
    once = tables.read("flights", columns=["flight", *NUMBERS, *WORDS])
    tables.create("many", once)
    for _ in range(times - 1):
        tables.append("many", once)
    return tables.read("many")


def _model(settings: Settings, work: Path, data: pa.Table) -> tuple[str, LoadedModel]:
    """The network in the artifact store and here, limited to one thread."""
    features = tabular.feature_specs(data.schema, [*NUMBERS, *WORDS])
    fitted = tabular.fit(data.slice(0, 50_000), features)
    net = tabular.build_net(fitted, tabular.DEFAULTS, seed=1)
    spec = ModelSpec(MODEL, "flight", features, {})
    example = {name: data[name].slice(0, 3).to_pylist() for name in (*NUMBERS, *WORDS)}
    write_bundle(work / "bundle", tabular.export(net, fitted), spec, fitted.encoding, example)
    return ArtifactStore.of(settings).put_tree(work / "bundle", "model").digest, load_bundle(work / "bundle")


def _plain(model: LoadedModel, data: pa.Table) -> float:
    """Rows per second of the loop; the fastest way there is to hand this model an Arrow batch."""
    batches = [data.slice(start, BATCH_ROWS) for start in range(0, data.num_rows, BATCH_ROWS)]
    model.predict_encoded(*model.encoding.encode_table(batches[0]))
    began = time.perf_counter()
    for batch in batches:
        model.predict_encoded(*model.encoding.encode_table(batch))
    return data.num_rows / (time.perf_counter() - began)


def _jobs(settings: Settings, digest: str) -> list[dict[str, Any]]:
    """Reports of a job with one worker and of one with two."""
    import ray

    registry = LocalRegistry(Record(settings.database_url))
    registry.write(policies.set, AliasPolicy(MODEL, "*", False, (), min_approvals=0), by=ROOT)
    registry.write(versions.register, Candidate(MODEL, digest, "run1", "bench", (), {}), by=ANN)
    tables, store = Tables(settings.tables_uri), ArtifactStore.of(settings)
    parts = Backends(tables, registry, store, FeatureStore(settings), VersionLoader(settings), ANN)
    ray.init(num_cpus=2, resources={actors.RESOURCE: 1}, include_dashboard=False, log_to_driver=False)
    found = []
    try:
        for workers in (1, 2):
            request = ScoreRequest("many", f"{MODEL}@1", f"scores-{workers}", ("flight",), batch_rows=BATCH_ROWS)
            report = score(parts, request, Workers(workers))
            assert report.scored == report.rows == tables.version(f"scores-{workers}").row_count
            rates = {"rows_per_s": report.rows_per_s, "rows_per_s_per_core": report.rows_per_s_per_core}
            found.append(
                {"workers": workers, "rows": report.rows, "seconds": report.seconds, "start_s": report.start_s, **rates}
            )
    finally:
        ray.shutdown()
    return found


def _rate(report: dict[str, Any]) -> float:
    """Rows per second from the first part to the last commit."""
    return float(report["rows"] / (report["seconds"] - report["start_s"]))
