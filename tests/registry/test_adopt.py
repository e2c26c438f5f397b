"""Import of another MLflow registry: what comes over, what is refused, and that the other one stays as it was."""

from __future__ import annotations

import shutil
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from rayplat.artifacts.store import ArtifactStore
from rayplat.errors import Conflict, Forbidden, NotFound, Unavailable
from rayplat.registry.adopt import MlflowSource, adopt
from rayplat.registry.local import LocalRegistry
from rayplat.registry.record import aliases, audit, drift, mlflow_rows, policies, versions
from rayplat.registry.record.database import Defaults, Record
from rayplat.types import Adopted, AdoptedAlias, AliasPolicy, Principal, VersionState
from tests.registry.desk import ANN, BOB, EVE, ROOT, Desk, candidate

pytestmark = pytest.mark.services  # another MLflow's database, made by MLflow

NAME = "churn"


@dataclass
class Other:
    """Somebody's MLflow: a database and a folder of run files."""

    file: Path
    client: Any
    experiment: str

    @property
    def source(self) -> MlflowSource:
        return MlflowSource(f"sqlite:///{self.file}")

    def run(self, content: str, **metrics: float) -> Any:
        run = self.client.create_run(self.experiment, tags={"mlflow.user": "carol"})
        for key, value in metrics.items():
            self.client.log_metric(run.info.run_id, key, value)
        self.client.log_text(run.info.run_id, content, "model/weights.txt")
        self.client.log_text(run.info.run_id, "flavors: {}\n", "model/MLmodel")
        return run

    def version(self, name: str, content: str, **metrics: float) -> Any:
        run = self.run(content, **metrics)
        return self.client.create_model_version(name, f"{run.info.artifact_uri}/model", run.info.run_id)

    def dump(self) -> list[str]:
        with sqlite3.connect(f"file:{self.file}?mode=ro", uri=True) as db:
            return list(db.iterdump())


@pytest.fixture(scope="module")
def theirs(empty_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Other:
    """Three versions of `churn` with stages and aliases; tests work on copies of its database."""
    folder = tmp_path_factory.mktemp("theirs")
    shutil.copy(empty_database, folder / "other.db")
    client = client_of(folder / "other.db")
    made = Other(folder / "other.db", client, client.create_experiment("theirs", (folder / "files").as_uri()))
    client.create_registered_model(NAME, tags={"team": "crm"}, description="who leaves")
    for n in (1, 2, 3):
        made.version(NAME, f"weights {n}", auc=0.6 + n / 100)
    client.set_model_version_tag(NAME, "2", "note", "solid")
    client.update_model_version(NAME, "2", "the second try")
    client.set_registered_model_alias(NAME, "champion", "2")
    client.transition_model_version_stage(NAME, "1", "Production")
    client.transition_model_version_stage(NAME, "2", "Production")
    client.transition_model_version_stage(NAME, "3", "Staging")
    return made


@pytest.fixture
def other(theirs: Other, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Other:
    monkeypatch.chdir(tmp_path)
    with sqlite3.connect(theirs.file) as whole, sqlite3.connect(tmp_path / "other.db") as copy:
        whole.backup(copy)  # the file alone would lack what is still in its log
    return Other(tmp_path / "other.db", client_of(tmp_path / "other.db"), theirs.experiment)


def client_of(file: Path) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(f"sqlite:///{file}", f"sqlite:///{file}")


@pytest.fixture
def here(database_url: str, tmp_path: Path) -> Any:
    """Our registry and our store."""
    record = Record(database_url, defaults=Defaults(str(tmp_path / "store")))
    yield LocalRegistry(record), ArtifactStore(tmp_path / "store")
    record.close()


def bring(other: Other, here: Any, by: Principal = ROOT, **more: Any) -> Adopted:
    found = adopt(other.source, *here, by=by, **more)
    return next(a for a in found if a.model == NAME)


def test_versions_aliases_and_stages_come_over(other: Other, here: Any) -> None:
    registry, store = here
    found = bring(other, here)
    assert [(v.source_version, v.version, v.new) for v in found.versions] == [(1, 1, True), (2, 2, True), (3, 3, True)]
    assert found.aliases == (
        AdoptedAlias("champion", 2, True),
        AdoptedAlias("production", 2, True),
        AdoptedAlias("staging", 3, True),
    )
    assert found.refused == ("stage Production: version 2 is the newest in it, left out: 1",)
    for theirs in other.client.search_model_versions(f"name='{NAME}'"):
        ours = registry.read(versions.get, NAME, int(theirs.version))
        assert (ours.run_id, ours.author, ours.run_author) == (theirs.run_id, "carol", "carol")
        assert ours.metrics == {"auc": pytest.approx(0.6 + int(theirs.version) / 100)}
        assert int(ours.created_at.timestamp() * 1000) == theirs.creation_timestamp
        files = {e.path: store.get_bytes(e.digest) for e in store.manifest(ours.digest).entries}
        assert files == {"weights.txt": f"weights {theirs.version}".encode(), "MLmodel": b"flavors: {}\n"}
        assert store.exists(ours.training_set)


def test_the_other_registry_stays_as_it_was(other: Other, here: Any) -> None:
    before = other.dump()
    bring(other, here)
    bring(other, here)
    assert other.dump() == before


def test_again_brings_nothing_new(other: Other, here: Any) -> None:
    registry, _ = here
    bring(other, here)
    entries = registry.read(audit.listed, 100)
    again = bring(other, here)
    assert [(v.version, v.new) for v in again.versions] == [(1, False), (2, False), (3, False)]
    assert not any(a.new for a in again.aliases)
    assert registry.read(audit.listed, 100) == entries
    other.version(NAME, "weights 4")
    assert [v.version for v in bring(other, here).versions if v.new] == [4]


def test_an_interrupted_import_goes_on(other: Other, here: Any) -> None:
    def stop(what: str) -> None:
        if what == f"{NAME} version 2":
            raise KeyboardInterrupt

    registry, _ = here
    with pytest.raises(KeyboardInterrupt):
        adopt(other.source, *here, by=ROOT, progress=stop)
    assert [v.version for v in registry.read(versions.listed, NAME)] == [1]
    assert [(v.version, v.new) for v in bring(other, here).versions] == [(1, False), (2, True), (3, True)]


def test_it_shows_in_the_history_and_the_audit_log_who_imported(other: Other, here: Any) -> None:
    registry, _ = here
    bring(other, here)
    (head,) = registry.read(aliases.history, NAME, "champion")
    assert (head.moved_by, head.version, head.promotion_id) == ("import", 2, None)
    entries = [e for e in registry.read(audit.listed, 100) if e.action == "model.adopt"]
    assert {e.actor for e in entries} == {"root"}
    assert {e.subject for e in entries} == {
        *(f"{NAME}/{n}" for n in (1, 2, 3)),
        *(f"{NAME}@{alias}" for alias in ("champion", "production", "staging")),
    }


def test_words_and_tags_show_on_our_page_and_models_load_from_our_store(other: Other, here: Any) -> None:
    registry, _ = here
    bring(other, here)
    database = registry.record.engine
    with database.connect() as connection:
        tags = dict(connection.execute(sa.text("select key, value from model_version_tags where version = 2")).all())
        (description,) = connection.execute(sa.text("select description from model_versions where version = 2")).one()
        assert connection.execute(sa.text("select key, value from registered_model_tags")).all() == [("team", "crm")]
    assert tags["note"] == "solid"
    assert description == "the second try"
    sources = registry.read(mlflow_rows.sources)
    assert all(source.startswith("cas://") for source, _ in sources.values())
    assert registry.read(drift.find) == ()


def test_a_protected_alias_needs_an_admin(other: Other, here: Any) -> None:
    registry, _ = here
    registry.write(policies.set, AliasPolicy(NAME, "staging", False, ()), by=ROOT)
    found = bring(other, here, by=ANN)
    assert [a.alias for a in found.aliases] == ["staging"]
    assert sum("it needs the role admin" in line for line in found.refused) == 2
    assert {v.author for v in registry.read(versions.listed, NAME)} == {"ann"}, "her import is hers"
    assert registry.read(aliases.find, NAME, "champion") is None
    assert [a.alias for a in bring(other, here, by=ROOT).aliases if a.new] == ["champion", "production"]


def test_a_viewer_imports_nothing(other: Other, here: Any) -> None:
    with pytest.raises(Forbidden):
        bring(other, here, by=EVE)


def test_what_our_rules_refuse_is_reported_and_the_rest_comes(other: Other, here: Any, tmp_path: Path) -> None:
    client = other.client
    for name in ("Große Namen", "has space", "x" * 100):
        client.create_registered_model(name)
    client.set_registered_model_alias(NAME, "Best_One", "1")
    client.set_registered_model_alias(NAME, "ok-name", "1")
    lost = other.version(NAME, "weights 4")
    shutil.rmtree(Path(lost.source.removeprefix("file://")))
    other.version(NAME, "weights 5", bad=float("nan"), auc=0.7)
    found = {a.model: a for a in adopt(other.source, *here, by=ROOT)}
    for name in ("Große Namen", "has space", "x" * 100):
        assert found[name].versions == ()
        assert "no valid name" in found[name].refused[0]
    said = " | ".join(found[NAME].refused)
    assert "alias 'Best_One'" in said
    assert "version 4: artifacts" in said
    assert "version 5: metrics that are not finite" in said
    assert [v.version for v in found[NAME].versions] == [1, 2, 3, 5]
    assert "ok-name" in [a.alias for a in found[NAME].aliases]


def test_an_alias_wins_over_a_stage_of_its_name(other: Other, here: Any) -> None:
    other.client.set_registered_model_alias(NAME, "production", "1")
    found = bring(other, here)
    assert AdoptedAlias("production", 1, True) in found.aliases
    assert "stage Production: the alias 'production' says where it is, version 1" in found.refused


def test_a_number_that_is_taken_here_becomes_another_and_is_reported(other: Other, here: Any) -> None:
    registry, _ = here
    registry.write(versions.register, candidate(1, NAME), by=ANN)
    found = bring(other, here)
    assert [(v.source_version, v.version) for v in found.versions] == [(1, 4), (2, 2), (3, 3)]
    assert "version 1: its number is taken here, so it became version 4" in found.refused
    assert [(v.version, v.new) for v in bring(other, here).versions] == [(4, False), (2, False), (3, False)]


def test_an_import_moves_no_alias_that_the_record_has_decided(other: Other, here: Any) -> None:
    registry, _ = here
    bring(other, here)
    other.client.set_registered_model_alias(NAME, "champion", "3")
    found = bring(other, here)
    assert any("champion points at version 2 here" in line for line in found.refused)
    assert registry.read(aliases.get, NAME, "champion").version == 2


def test_the_same_bytes_under_two_numbers_are_one_version(other: Other, here: Any) -> None:
    other.version(NAME, "weights 1")
    other.client.set_registered_model_alias(NAME, "twin", "4")
    found = bring(other, here)
    assert found.versions[3].version == 1
    assert AdoptedAlias("twin", 1, True) in found.aliases


def test_deleted_versions_do_not_come_and_numbers_with_holes_stay(other: Other, here: Any) -> None:
    registry, _ = here
    other.client.delete_model_version(NAME, "1")
    assert [v.version for v in bring(other, here).versions] == [2, 3]
    assert registry.write(versions.register, candidate(9, NAME), by=ANN).version == 4


def test_what_was_deleted_here_does_not_come_back(other: Other, here: Any) -> None:
    registry, _ = here
    other.client.delete_registered_model_alias(NAME, "champion")
    bring(other, here, models=[NAME])
    registry.write(versions.delete, NAME, 1, "of no use", by=BOB)
    assert registry.read(versions.get, NAME, 1).state is VersionState.DELETED
    found = bring(other, here)
    assert not any(v.new for v in found.versions)
    assert registry.read(versions.get, NAME, 1).state is VersionState.DELETED


def test_a_database_that_is_ours_is_adopted_in_place(other: Other, tmp_path: Path) -> None:
    record = Record(f"sqlite:///{other.file}", defaults=Defaults(str(tmp_path / "store")))
    here = (LocalRegistry(record), ArtifactStore(tmp_path / "store"))
    found = bring(other, here)
    assert [(v.source_version, v.version) for v in found.versions] == [(1, 1), (2, 2), (3, 3)]
    assert record.read(drift.find) == ()
    desk = Desk(record)
    before = without_lease(other.dump())
    assert not any(v.new for v in bring(other, here).versions)
    assert without_lease(other.dump()) == before
    assert [v.tags.get("note") for v in other.client.search_model_versions(f"name='{NAME}'")] == [None, "solid", None]
    assert desk.rows("select distinct current_stage from model_versions order by 1") == [("Production",), ("Staging",)]
    record.close()


def without_lease(dump: list[str]) -> list[str]:
    """Without the row that every transaction of the record begins with."""
    return [line for line in dump if "rp_lease" not in line]


def test_only_named_models(other: Other, here: Any) -> None:
    other.client.create_registered_model("second")
    assert [a.model for a in adopt(other.source, *here, by=ROOT, models=["second"])] == ["second"]
    with pytest.raises(NotFound, match="absent"):
        adopt(other.source, *here, by=ROOT, models=["absent"])


def test_a_source_that_is_not_there_is_refused_and_not_made(
    here: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(NotFound, match="no such file"):
        adopt(MlflowSource(f"sqlite:///{tmp_path}/absent.db"), *here, by=ROOT)
    assert not (tmp_path / "absent.db").exists()
    with sqlite3.connect(tmp_path / "foreign.db") as db:
        db.execute("create table x (y int)")
    with pytest.raises(NotFound, match="no tables of MLflow"):
        adopt(MlflowSource(f"sqlite:///{tmp_path}/foreign.db"), *here, by=ROOT)
    with pytest.raises(Unavailable):
        adopt(MlflowSource("http://127.0.0.1:9"), *here, by=ROOT)


def test_a_database_of_another_mlflow_is_refused_and_not_migrated(other: Other, here: Any) -> None:
    with sqlite3.connect(other.file) as db:
        db.execute("update alembic_version set version_num = '000000000000'")
        db.execute("drop table logged_models")
    before = other.dump()
    with pytest.raises(Conflict, match="mlflow db upgrade"):
        bring(other, here)
    assert other.dump() == before
