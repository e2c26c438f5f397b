"""Drift between MLflow's rows and the record: made by plain MLflow code that goes around us, found and set back."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rayplat.errors import Forbidden
from rayplat.registry.mlflow_store import sql_uri
from rayplat.registry.record import audit, drift, mlflow_rows
from rayplat.types import AliasDrift, DriftKind
from tests.registry.desk import BOB, MLFLOW_ALIASES, MODEL, ROOT, Desk

ALIASES = f"{MLFLOW_ALIASES} order by name, alias"


@pytest.fixture
def around(either: Desk, either_url: str) -> Any:
    """MLflow's own store on the database itself; champion is version 2, mine is version 1."""
    from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore

    either.move(2)
    either.move(1, "mine")
    return SqlAlchemyStore(sql_uri(either_url))


def repaired(desk: Desk) -> tuple[AliasDrift, ...]:
    found = desk.write(drift.repair, by=ROOT, key="a-key")
    assert found == desk_found(found)
    assert desk.read(drift.find) == (), "after a repair all is well"
    assert desk.rows(ALIASES) == [(MODEL, "champion", 2), (MODEL, "mine", 1)]
    return found


def desk_found(found: tuple[AliasDrift, ...]) -> tuple[AliasDrift, ...]:
    return tuple(sorted(found, key=lambda d: (bool(d.alias), d.model, d.version if not d.alias else 0, d.alias)))


def test_where_all_is_well_nothing_is_written(either: Desk, around: Any) -> None:
    before = either.read(audit.listed, 100)
    assert either.read(drift.find) == either.write(drift.repair, by=ROOT) == ()
    assert either.read(audit.listed, 100) == before


def test_a_moved_alias(either: Desk, around: Any) -> None:
    around.set_registered_model_alias(MODEL, "champion", 3)
    generation = either.head().generation  # type: ignore[union-attr]
    expected = AliasDrift(DriftKind.MOVED, MODEL, "champion", 2, "version 2", "version 3")
    assert repaired(either) == (expected,)
    assert either.head().generation == generation, "the record has not moved"  # type: ignore[union-attr]


def test_a_deleted_alias(either: Desk, around: Any) -> None:
    around.delete_registered_model_alias(MODEL, "mine")
    assert repaired(either) == (AliasDrift(DriftKind.MISSING, MODEL, "mine", 1, "version 1", ""),)


def test_an_alias_that_only_mlflow_has(either: Desk, around: Any) -> None:
    around.set_registered_model_alias(MODEL, "stray", 3)
    assert repaired(either) == (AliasDrift(DriftKind.EXTRA, MODEL, "stray", None, "", "version 3"),)


def test_a_deleted_version_takes_its_alias_along_and_both_come_back(either: Desk, around: Any) -> None:
    digest = around.get_model_version(MODEL, 2).tags["rayplat.digest"]
    around.delete_model_version(MODEL, 2)
    assert repaired(either) == (
        AliasDrift(DriftKind.VERSION_DELETED, MODEL, "", 2, digest, ""),
        AliasDrift(DriftKind.MISSING, MODEL, "champion", 2, "version 2", ""),
    )
    assert around.get_model_version_by_alias(MODEL, "champion").source.endswith(digest)
    assert [v.version for v in around.search_model_versions(f"name='{MODEL}'")] == [3, 2, 1]


def test_a_deleted_model_comes_back_whole(either: Desk, around: Any) -> None:
    around.delete_registered_model(MODEL)
    kinds = [found.kind for found in repaired(either)]
    assert kinds == [DriftKind.VERSION_DELETED] * 3 + [DriftKind.MISSING] * 2
    assert [v.version for v in around.search_model_versions(f"name='{MODEL}'")] == [3, 2, 1]


@pytest.mark.parametrize("column", ["source", "storage_location"])
def test_a_changed_source(either: Desk, around: Any, column: str) -> None:
    forged = "s3://evil/trees/" + around.get_model_version(MODEL, 3).tags["rayplat.digest"]
    either.change(f"update model_versions set {column} = '{forged}' where name = '{MODEL}' and version = 3")
    (found,) = repaired(either)
    assert (found.kind, found.version, found.found) == (DriftKind.SOURCE_CHANGED, 3, forged)
    assert forged not in (
        around.get_model_version(MODEL, 3).source,
        around.get_model_version_download_uri(MODEL, 3),
    )


def test_a_renamed_model_comes_back_under_its_name(either: Desk, around: Any) -> None:
    around.rename_registered_model(MODEL, "other")
    assert {found.kind for found in repaired_beside(either)} == {DriftKind.VERSION_DELETED, DriftKind.MISSING}
    assert around.get_registered_model("other").name == "other", "what is none of ours stays"


def repaired_beside(desk: Desk) -> tuple[AliasDrift, ...]:
    found = desk.write(drift.repair, by=ROOT)
    assert desk.read(drift.find) == ()
    return found


def test_other_models_are_none_of_ours(either: Desk, around: Any) -> None:
    around.create_registered_model("somebody-elses")
    around.create_model_version("somebody-elses", "s3://elsewhere")
    around.set_registered_model_alias("somebody-elses", "champion", 1)
    around.create_model_version(MODEL, "s3://elsewhere")
    assert either.read(drift.find) == ()


def test_each_difference_is_audited_and_told(either: Desk, around: Any) -> None:
    around.set_registered_model_alias(MODEL, "champion", 3)
    around.set_registered_model_alias(MODEL, "stray", 1)
    repaired(either)
    newest = either.read(audit.listed, 2)
    assert [(e.actor, e.action, e.subject) for e in newest] == [
        ("root", "alias.drift", f"{MODEL}@stray"),
        ("root", "alias.drift", f"{MODEL}@champion"),
    ]
    assert newest[1].detail["found"] == "version 3"
    events = either.rows("select subject, body from rp_outbox where event = 'alias.drift' order by seq")
    assert [subject for subject, _ in events] == [f"{MODEL}@champion", f"{MODEL}@stray"]
    assert json.loads(events[0][1])["kind"] == "moved"


def test_only_an_admin_repairs(either: Desk, around: Any) -> None:
    around.set_registered_model_alias(MODEL, "champion", 3)
    with pytest.raises(Forbidden, match="admin"):
        either.write(drift.repair, by=BOB)
    assert len(either.read(drift.find)) == 1


@pytest.mark.parametrize(
    ("source", "same"),
    [
        ("rayplat://artifacts/{0}", True),
        ("cas:///any/where/trees/{0}", True),
        ("cas+s3://bucket/prefix/trees/{0}", True),
        ("cas:///any/where/trees/{0}/data", False),
        ("cas:///any/where/trees/{1}", False),
        ("s3://bucket/trees/{0}", False),
        ("file:///trees/{0}", False),
        ("", False),
        (None, False),
    ],
)
def test_only_an_address_that_is_verified_is_the_version_s_source(source: str | None, same: bool) -> None:
    one, other = "sha256:" + "1" * 64, "sha256:" + "2" * 64
    assert mlflow_rows.is_source_of(one, source and source.format(one, other)) is same
