"""Whole batch scoring jobs on the session's cluster."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from rayplat.data.features.build import build
from rayplat.data.tables import Tables, upkeep
from rayplat.errors import Corrupt, NotFound, SchemaMismatch, Unschedulable
from rayplat.registry.local import LocalRegistry
from rayplat.registry.record import lineage
from rayplat.registry.record.database import Record
from rayplat.serve.batch_scoring import ScoreRequest, Workers, score
from rayplat.serve.loader import VersionLoader
from rayplat.settings import Settings
from rayplat.types.lineage import run_node, table_node
from tests.serve import tiny
from tests.serve.batch_scoring import driver
from tests.serve.batch_scoring.fakes import DIGEST, TwiceLoader, backends, numbers, registered

pytestmark = pytest.mark.ray
ROOT = Path(__file__).resolve().parents[3]
HALF = Workers(1, cpus=0.5)


@pytest.fixture
def database(settings: Settings, empty_database: Path) -> Path:
    file = settings.home / "registry.db"
    file.write_bytes(empty_database.read_bytes())
    return file


def test_a_killed_job_goes_on_and_no_row_is_lost_or_twice(ray_cluster: str, settings: Settings, database: Path) -> None:
    registered(database, "twice", DIGEST)
    tables = Tables(settings.tables_uri)
    tables.create("numbers", numbers(600))
    first = _started(settings.home, ray_cluster, pause_s=0.3)
    try:
        _until_committed(tables, 3, first)
    finally:
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()
    registry = LocalRegistry(Record(f"sqlite:///{database}"))  # its record is the driver's no more
    kept = tables.read("scores").num_rows
    assert 0 < kept < 600
    tables.append("numbers", numbers(5))  # what came later is not the job's
    report = score(backends(settings, registry, TwiceLoader()), driver.REQUEST, HALF)
    assert report.resumed_rows == kept
    assert (report.rows, report.scored, report.failed, report.parts) == (600, 600, 0, 12)
    assert report.table.version == 0
    found = tables.read("scores")
    assert Counter(found["row"].to_pylist()) == Counter(range(600))
    assert pc.all(pc.equal(found["y"], pc.multiply(pc.add(found["id"].cast(pa.float64()), 100.0), 2.0))).as_py()
    assert len(set(found["job_id"].to_pylist())) == 1
    assert upkeep.pins(tables, "numbers") == []
    again = score(backends(settings, registry, TwiceLoader()), driver.REQUEST, HALF)
    assert again.job_id != report.job_id  # a job that came to its end is not gone on with
    assert (again.rows, again.resumed_rows) == (605, 0)
    graph = registry.read(lineage.upstream, table_node(report.output or report.table))
    assert {run_node(report.job_id), table_node(report.table), "model:twice/1"} <= {node.id for node in graph.nodes}


def _started(home: Path, address: str, pause_s: float) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.serve.batch_scoring.driver", str(home), address, str(pause_s)]
    return subprocess.Popen(command, cwd=ROOT, start_new_session=True)


def _until_committed(tables: Tables, versions: int, driver: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while "scores" not in tables.names() or tables.version("scores").version < versions - 1:
        assert driver.poll() is None, "the driver ended by itself"
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_features_are_those_that_were_known_at_the_rows_own_moments(
    ray_cluster: str, settings: Settings, database: Path
) -> None:
    registry = registered(database, tiny.MODEL, tiny.put_bundle(settings, 0.5))
    tiny.put_features(settings)
    tables = Tables(settings.tables_uri)
    early, late = tiny.DEPARTURE, tiny.DEPARTURE + timedelta(minutes=30)
    source = {
        "flight": ["A", "A", "B", "C"],
        "scheduled_at": [early, late, early, early],
        "distance": [100.0, 200.0, 300.0, None],
        "carrier": ["UA", "UA", "AA", "UA"],
    }
    tables.create("flights", pa.table(source))
    build(tables, tiny.VIEW)
    asked = [early + timedelta(minutes=1), late + timedelta(minutes=1), early, early - timedelta(days=1), late, late]
    rows = pa.table({"flight": ["A", "A", "B", "B", "C", "nobody"], "asked": asked, "gate": [1, 2, 3, 4, 5, 6]})
    tables.create("asks", rows)
    request = ScoreRequest("asks", tiny.MODEL, "scores", ("flight", "gate"), event_time="asked", part_rows=4)
    report = score(backends(settings, registry, VersionLoader(settings)), request, HALF)
    assert (report.rows, report.scored, report.failed) == (6, 3, 3)
    found = tables.read("scores").sort_by("row").to_pylist()
    assert [row["gate"] for row in found] == [1, 2, 3, 4, 5, 6]
    expected = [0.6, 0.7, 0.9, None, None, None]
    given = [row["probability"] for row in found]
    assert given == [None if p is None else pytest.approx(p) for p in expected]
    assert "unknown flight 'B'" in found[3]["error"]
    assert "distance" in found[4]["error"]
    assert "unknown flight 'nobody'" in found[5]["error"]
    report = score(backends(settings, registry, VersionLoader(settings)), replace(request, limit=2), HALF)
    assert report.rows == 2


def test_given_columns_are_scored_by_the_same_model_in_parts_and_in_order(
    ray_cluster: str, settings: Settings, database: Path
) -> None:
    registry = registered(database, tiny.MODEL, tiny.put_bundle(settings, 0.5))
    tiny.put_features(settings)
    tables = Tables(settings.tables_uri)
    rows = pa.table({"flight": [f"X{i}" for i in range(1000)], "distance": np.arange(1000.0), "carrier": ["UA"] * 1000})
    tables.create("flights", rows)
    request = ScoreRequest("flights@0", f"{tiny.MODEL}@1", "scores", ("flight",), part_rows=300, batch_rows=64)
    seen: list[tuple[int, int]] = []
    parts = backends(settings, registry, VersionLoader(settings))
    report = score(parts, request, Workers(2, cpus=0.5), progress=lambda done, of: seen.append((done, of)))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert (report.scored, report.alias, report.version) == (1000, None, 1)
    assert report.rows_per_s_per_core > 0
    found = tables.read("scores")
    assert found["row"].to_pylist() == list(range(1000))
    np.testing.assert_allclose(found["probability"].to_numpy(), 0.5 + np.arange(1000) / 1000, rtol=1e-5)
    assert set(found["model_alias"].to_pylist()) == {None}


def test_what_cannot_be_done_is_said_and_nothing_is_written(
    ray_cluster: str, settings: Settings, database: Path
) -> None:
    registry = registered(database, "twice", DIGEST)
    tables = Tables(settings.tables_uri)
    tables.create("numbers", numbers(10))
    tables.create("empty", numbers(0).schema)
    parts = backends(settings, registry, TwiceLoader())
    request = ScoreRequest("numbers", "twice", "scores")
    with pytest.raises(NotFound):
        score(parts, replace(request, table="nothing"), HALF)
    with pytest.raises(NotFound):
        score(parts, replace(request, model="twice@nightly"), HALF)
    with pytest.raises(SchemaMismatch, match="gate"):
        score(parts, replace(request, keys=("gate",)), HALF)
    with pytest.raises(SchemaMismatch, match="no feature views"):
        score(parts, replace(request, lookup=True), HALF)
    with pytest.raises(Unschedulable):
        score(parts, request, Workers(1, cpus=64))
    with pytest.raises(Corrupt):
        score(replace(parts, loader=TwiceLoader(broken=True)), request, HALF)
    assert "scores" not in tables.names()
    report = score(parts, replace(request, table="empty"), HALF)
    assert (report.rows, report.output) == (0, None)
