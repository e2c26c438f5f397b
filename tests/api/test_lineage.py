"""Lineage through the platform's verbs, in process and over HTTP."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pytest

from rayplat.errors import InvalidInput, NotFound
from rayplat.registry.candidate import Candidate
from rayplat.registry.record import versions
from rayplat.services import lineage
from rayplat.services.lineage import Lineage
from rayplat.services.remote import remote
from rayplat.types import LineageGraph, Role
from tests.api.conftest import Served
from tests.registry.test_data_lineage import DIGEST, training_set

SET = f"training_set:{DIGEST}"


@pytest.fixture(scope="module")
def registered(served: Served) -> Served:
    """A version that was trained on a set whose table lies in the platform."""
    tables = served.context.tables
    flights = tables.create("lineage_flights", pa.table({"flight": ["a", "b"]}))
    note = {"training_set": json.dumps(training_set(tables, (flights,)))}
    tables.overwrite("training_set_x", pa.table({"flight": ["a"]}), metadata=note)
    assert lineage.note_data(served.context, DIGEST) == 2
    assert lineage.note_data(served.context, DIGEST) == 0
    assert lineage.note_data(served.context, "sha256:" + "0" * 64) == 0
    candidate = Candidate("traced", "sha256:" + "8" * 64, "run-t", DIGEST, (flights,), {"auc": 0.7})
    served.context.registry.write(versions.register, candidate, by=served.context.principal)
    return served


@pytest.fixture(params=["in process", "over HTTP"])
def nouns(request: pytest.FixtureRequest, registered: Served) -> Any:
    if request.param == "in process":
        return Lineage(registered.context)
    http = registered.http(Role.VIEWER)
    http.base_url = f"{registered.url}/api/v1"
    return remote(Lineage, http)


def test_both_directions(nouns: Any) -> None:
    above: LineageGraph = nouns.upstream("model:traced/1")
    assert {node.kind.value for node in above.nodes} == {"model", "run", "training_set", "table", "artifact"}
    assert {node.name for node in above.nodes if node.kind == "table"} == {"lineage_flights", "training_set_x"}
    assert len(nouns.upstream("model:traced/1", depth=1).edges) == 2
    below: LineageGraph = nouns.downstream(SET)
    assert [edge.target for edge in below.edges if edge.relation == "made"] == ["model:traced/1"]
    with pytest.raises(InvalidInput, match="<model>/<version>"):
        nouns.upstream("model:traced")
    with pytest.raises(NotFound, match="nothing is linked"):
        nouns.downstream("model:absent/1")


def test_the_impact_of_a_table_version(nouns: Any) -> None:
    found = nouns.impact("lineage_flights", 0, through=4)
    assert (found.table, found.version, found.through, found.aliases) == ("lineage_flights", 0, 4, ())
    with pytest.raises(NotFound, match="no training set or feature table"):
        nouns.impact("absent", 1)


def test_the_export_goes_on_over_pages_and_from_a_moment(nouns: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = [json.loads(line) for line in nouns.export()]
    monkeypatch.setattr("rayplat.registry.record.happenings.MOST", 2)
    assert [json.loads(line) for line in nouns.export()] == whole
    assert {e["job"]["name"] for e in whole} >= {"training_set/x", "train/traced", "register/traced"}
    assert list(nouns.export(datetime(2999, 1, 1, tzinfo=UTC))) == []
