"""MLflow's store with the record's rules: what a plain client is refused, and what it may still do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from rayplat.registry.mlflow_store import guarded_uri, open_store, sql_uri
from rayplat.registry.record import mlflow_rules, versions
from tests.registry.desk import BOB, MLFLOW_ALIASES, MODEL, Desk

OTHER = "somebody-elses"


@pytest.fixture
def guarded(either: Desk, either_url: str) -> Any:
    """MLflow's store as our server opens it; the champion is version 2."""
    either.move(2)
    return open_store(guarded_uri(either_url))


def refused(call: Callable[[], Any], *words: str) -> None:
    from mlflow.exceptions import MlflowException

    with pytest.raises(MlflowException) as info:
        call()
    assert info.value.error_code == "PERMISSION_DENIED"
    for word in words:
        assert word in info.value.message, info.value.message


def test_a_protected_alias_is_not_moved(guarded: Any, either: Desk) -> None:
    refused(
        lambda: guarded.set_registered_model_alias(MODEL, "champion", "3"),
        "flight-delay@champion is protected",
        "rayplat promote flight-delay 3 champion",
    )
    assert either.rows(MLFLOW_ALIASES) == [(MODEL, "champion", 2)]


def test_an_alias_may_be_set_to_where_it_is(guarded: Any, either: Desk) -> None:
    guarded.set_registered_model_alias(MODEL, "champion", 2)
    assert either.rows(MLFLOW_ALIASES) == [(MODEL, "champion", 2)]


def test_a_new_alias_of_a_model_of_ours_goes_through_the_record(guarded: Any, either: Desk) -> None:
    refused(lambda: guarded.set_registered_model_alias(MODEL, "mine", 1), "flight-delay@mine", "rayplat ")
    assert either.rows(MLFLOW_ALIASES) == [(MODEL, "champion", 2)]


def test_an_alias_is_not_deleted(guarded: Any, either: Desk) -> None:
    refused(lambda: guarded.delete_registered_model_alias(MODEL, "champion"), "protected", "rayplat rollback")
    assert either.rows(MLFLOW_ALIASES) == [(MODEL, "champion", 2)]


def test_an_alias_that_only_mlflow_has_may_go(guarded: Any, either: Desk) -> None:
    either.change(
        "insert into registered_model_aliases (workspace, name, alias, version) values "
        f"('default', '{MODEL}', 'stray', 1)"
    )
    guarded.delete_registered_model_alias(MODEL, "stray")
    assert either.rows(MLFLOW_ALIASES) == [(MODEL, "champion", 2)]


def test_a_version_with_an_alias_is_not_deleted(guarded: Any) -> None:
    refused(lambda: guarded.delete_model_version(MODEL, "2"), "flight-delay/2 is in use by alias 'champion'")
    assert guarded.get_model_version_by_alias(MODEL, "champion").version == 2


def test_a_version_with_an_open_promotion_is_not_deleted(guarded: Any, either: Desk) -> None:
    asked = either.request(3)
    refused(lambda: guarded.delete_model_version(MODEL, "3"), asked.promotion_id)


def test_a_version_without_users_is_deleted_through_the_record(guarded: Any, either: Desk) -> None:
    refused(lambda: guarded.delete_model_version(MODEL, "1"), "rayplat model delete flight-delay 1")
    either.write(versions.delete, MODEL, 1, "too old", by=BOB)
    assert [v.version for v in guarded.search_model_versions(f"name='{MODEL}'")] == [3, 2]


def test_a_model_is_neither_deleted_nor_renamed(guarded: Any) -> None:
    refused(lambda: guarded.delete_registered_model(MODEL), "in use by alias 'champion' (version 2)")
    refused(lambda: guarded.rename_registered_model(MODEL, "better"), "flight-delay is registered")
    guarded.create_registered_model(OTHER)
    refused(lambda: guarded.rename_registered_model(OTHER, MODEL), "flight-delay is registered")
    assert guarded.get_registered_model(MODEL).name == MODEL


@pytest.mark.parametrize("archive", [False, True])
@pytest.mark.parametrize("stage", ["Production", "Staging", "Archived", "None"])
def test_a_version_of_ours_enters_no_stage(guarded: Any, stage: str, archive: bool) -> None:
    refused(lambda: guarded.transition_model_version_stage(MODEL, "1", stage, archive), "aliases and no stages")
    assert guarded.get_model_version(MODEL, "1").current_stage == "None"


def test_the_record_s_tags_are_its_own(guarded: Any) -> None:
    from mlflow.entities.model_registry import ModelVersionTag

    refused(
        lambda: guarded.set_model_version_tag(MODEL, "1", ModelVersionTag("rayplat.digest", "sha256:forged")),
        "rayplat.",
    )
    refused(lambda: guarded.delete_model_version_tag(MODEL, "1", "rayplat.digest"), "rayplat.")
    guarded.set_model_version_tag(MODEL, "1", ModelVersionTag("note", "slow"))
    assert guarded.get_model_version(MODEL, "1").tags["note"] == "slow"


def test_words_about_a_version_may_change(guarded: Any) -> None:
    guarded.update_model_version(MODEL, "1", "a first try")
    guarded.update_registered_model(MODEL, "of flights")
    assert guarded.get_model_version(MODEL, "1").description == "a first try"


def test_a_model_the_record_does_not_know_behaves_as_in_mlflow(guarded: Any) -> None:
    guarded.create_registered_model(OTHER)
    for _ in range(2):
        guarded.create_model_version(OTHER, "s3://elsewhere/model")
    guarded.set_registered_model_alias(OTHER, "champion", "1")
    guarded.set_registered_model_alias(OTHER, "champion", "2")
    assert guarded.get_model_version_by_alias(OTHER, "champion").version == 2
    guarded.transition_model_version_stage(OTHER, "1", "Production", False)
    guarded.delete_registered_model_alias(OTHER, "champion")
    guarded.delete_model_version(OTHER, "1")
    guarded.rename_registered_model(OTHER, "renamed")
    guarded.delete_registered_model("renamed")
    assert [m.name for m in guarded.search_registered_models()] == [MODEL]


def test_mlflow_s_own_refusals_come_through(guarded: Any) -> None:
    from mlflow.exceptions import MlflowException

    for alias, version in (("latest", "1"), ("champion", "x"), ("", "1")):
        with pytest.raises(MlflowException) as info:
            guarded.set_registered_model_alias("unknown", alias, version)
        assert info.value.error_code in ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST")


def test_a_version_that_mlflow_adds_to_a_model_of_ours_takes_no_number_twice(guarded: Any, either: Desk) -> None:
    assert guarded.create_model_version(MODEL, "s3://elsewhere/model").version == 4
    assert either.register(4).version == 5
    refused(lambda: guarded.set_registered_model_alias(MODEL, "champion", "4"), "protected")
    guarded.delete_model_version(MODEL, "4")


def test_before_the_record_has_tables_mlflow_is_mlflow(tmp_path: Any, empty_database: Any) -> None:
    import shutil
    import sqlite3

    file = tmp_path / "bare.db"
    shutil.copy(empty_database, file)
    with sqlite3.connect(file) as db:
        for (name,) in db.execute(
            "select name from sqlite_master where name like 'rp_%' and type = 'table'"
        ).fetchall():
            db.execute(f"drop table {name}")
    store = open_store(f"rayplat+sqlite:///{file}")
    store.create_registered_model(MODEL)
    store.create_model_version(MODEL, "s3://elsewhere/model")
    store.set_registered_model_alias(MODEL, "champion", "1")
    assert store.get_model_version_by_alias(MODEL, "champion").version == 1


def test_addresses() -> None:
    assert guarded_uri("sqlite:////x.db") == guarded_uri("rayplat+sqlite:////x.db") == "rayplat+sqlite:////x.db"
    assert guarded_uri("postgresql://u@h/d") == "rayplat+postgresql+psycopg://u@h/d"
    assert sql_uri("postgresql+psycopg2://u@h/d") == "postgresql+psycopg2://u@h/d"


def test_mlflow_finds_the_store_by_its_scheme(either: Desk, either_url: str) -> None:
    from mlflow.tracking._model_registry.utils import _get_store

    assert type(_get_store(guarded_uri(either_url))).__name__ == "GuardedStore"


def test_a_free_alias_is_named_by_its_own_command(either: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlflow_rules, "_is_protected", lambda *_: False)
    either.move(1, "mine")
    said = either.read(mlflow_rules.alias_set, MODEL, "mine", 2)
    assert said is not None
    assert "rayplat alias set flight-delay mine 2" in said
    said = either.read(mlflow_rules.alias_delete, MODEL, "mine")
    assert said is not None
    assert "rayplat alias remove flight-delay mine" in said
