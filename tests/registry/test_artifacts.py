"""Artifacts on record, and what keeps them."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from rayplat.errors import Forbidden, InvalidInput, NotFound
from rayplat.registry.record import artifacts, audit, pins
from rayplat.types import ArtifactRef
from tests.registry.desk import ALIAS, ANN, EVE, MODEL, Desk

PLOT = ArtifactRef("sha256:" + "9" * 64, "plot", 12)


def digest(n: int) -> str:
    return f"sha256:{n:064x}"


def test_an_artifact_is_linked_to_the_run_that_made_it(desk: Desk) -> None:
    made = desk.write(artifacts.add, PLOT, "run-1", by=ANN)
    assert (made.digest, made.kind, made.size_bytes, made.run_id, made.created_by) == (
        PLOT.digest,
        "plot",
        12,
        "run-1",
        "ann",
    )
    other = desk.write(artifacts.add, PLOT, "run-2", by=ANN)
    assert desk.write(artifacts.add, PLOT, "run-1", by=ANN) == made
    assert desk.read(artifacts.get, PLOT.digest) == made
    assert desk.read(artifacts.listed, run_id="run-2") == [other]
    assert desk.read(artifacts.listed, "plot") == [other, made]
    assert desk.read(artifacts.listed, "model") == []
    assert desk.rows("select source, target from rp_edge where source = 'run:run-1'") == [
        ("run:run-1", f"artifact:{PLOT.digest}")
    ]
    assert [e.action for e in desk.read(audit.listed, 2)] == ["artifact.add", "artifact.add"]


def test_an_artifact_of_no_run_is_a_persons(desk: Desk) -> None:
    made = desk.write(artifacts.add, PLOT, by=ANN)
    assert (made.run_id, desk.read(artifacts.get, PLOT.digest)) == (None, made)


def test_bad_artifacts_are_refused_and_leave_no_row(desk: Desk) -> None:
    for ref, run in [
        (ArtifactRef("sha256:1", "plot", 1), None),
        (ArtifactRef(PLOT.digest, "virus", 1), None),
        (ArtifactRef(PLOT.digest, "plot", -1), None),
        (ArtifactRef(PLOT.digest, "plot", True), None),
        (ArtifactRef(PLOT.digest, "plot", 2**63), None),
        (PLOT, "../x"),
        (PLOT, ""),
        (PLOT, "a" * 65),
    ]:
        with pytest.raises(InvalidInput):
            desk.write(artifacts.add, ref, run, by=ANN)
    with pytest.raises(Forbidden):
        desk.write(artifacts.add, PLOT, by=EVE)
    with pytest.raises(NotFound):
        desk.read(artifacts.get, PLOT.digest)
    for limit in (0, 10_001):
        with pytest.raises(InvalidInput):
            desk.read(artifacts.listed, limit=limit)
    assert desk.read(artifacts.listed) == []


def test_roots_are_what_something_still_needs(desk: Desk) -> None:
    for n in range(4, 8):
        desk.register(n)
    for version in (1, 2, 3, 2, 4, 5):
        desk.move(version)
    desk.write(pins.pin, "artifact", PLOT.digest, "for the report", by=ANN)
    desk.change(f"update rp_model_version set baseline = '{digest(70)}', statement = '{digest(71)}' where version = 7")
    desk.change("update rp_model_version set state = 'deleted' where version in (1, 6)")
    found = desk.read(artifacts.roots)
    assert found["alias"] == {digest(5)}
    assert found["rollback"] == {digest(5), digest(4), digest(2)}
    assert found["pin"] == {PLOT.digest}
    assert found["promotion"] == set()
    assert found["model version"] == {digest(n) for n in (2, 3, 4, 5, 7, 70, 71)}


@pytest.mark.parametrize(
    ("state", "kept"),
    [("requested", True), ("awaiting_approval", True), ("live", True), ("rejected", False), ("superseded", False)],
)
def test_an_open_promotion_keeps_its_version(desk: Desk, state: str, kept: bool) -> None:
    columns = "promotion_id, model, version, digest, alias, expected_generation, state, requester, created_at,"
    values = f"'p1', '{MODEL}', 3, '{digest(3)}', '{ALIAS}', 0, '{state}', 'ann', 0,"
    with desk.record.engine.begin() as connection:
        row = f"insert into rp_promotion ({columns} subject_digest, gates) values ({values} '{digest(0)}', '[]')"
        connection.execute(sa.text(row))
    assert (digest(3) in desk.read(artifacts.roots)["promotion"]) == kept
