from __future__ import annotations

import unicodedata
from dataclasses import replace
from typing import Any

import pytest

from rayplat.errors import Conflict, Forbidden, InvalidInput, InvalidName, NotFound
from rayplat.registry.record import aliases, audit, pins, versions
from rayplat.registry.record.database import Record
from rayplat.types import PromotionState, VersionState
from tests.registry.desk import ANN, BOB, EVE, FREE, HOLDOUT, MODEL, PIN, ROOT, Desk, candidate

LONGEST = "a" * 63
BAD_NAMES = [
    "",
    "Flight",
    "a/b",
    "../etc",
    "a..b",
    ".a",
    "a b",
    "a\n",
    "a\x00",
    "a\u200b",
    "\u0430bc",  # the Cyrillic letter that looks like a
    "\uff41bc",  # full width
    unicodedata.normalize("NFD", "modèle"),
    "a" * 64,
    "a" * 10_000,
    None,
    7,
]


def test_a_version_keeps_everything_it_was_registered_with_and_shows_in_mlflow(either: Desk) -> None:
    extras = {"format": "torch.export", "code_digest": HOLDOUT, "env_digest": PIN.manifest_digest}
    full = replace(candidate(4), **extras, payload_digest=HOLDOUT, statement=HOLDOUT, baseline=HOLDOUT)
    made = either.write(versions.register, full, by=ANN)
    version = either.read(versions.get, MODEL, 4)
    assert version == made
    assert {name: getattr(version, name) for name in vars(full)} == vars(full)
    assert (version.version, version.author, version.state) == (4, "ann", VersionState.ACTIVE)
    assert version.created_at.tzinfo is not None
    found = either.rows("select version, run_id, status, current_stage, user_id from model_versions order by version")
    assert found[3] == (4, f"{4:032x}", "READY", "None", "ann")
    tags = either.rows("select value from model_version_tags where version = 4 and key = 'rayplat.digest'")
    assert tags == [(version.digest,)]


def test_the_same_digest_is_the_same_version(either: Desk) -> None:
    again = either.write(versions.register, replace(candidate(2), run_id="other"), by=ROOT)
    assert again == either.read(versions.get, MODEL, 2)
    assert [v.version for v in either.read(versions.listed, MODEL)] == [3, 2, 1]
    assert either.register(2, model="other").version == 1
    assert either.read(versions.models) == [MODEL, "other"]


def test_numbers_go_on_after_versions_that_mlflow_gave(record: Record) -> None:
    from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore

    desk = Desk(record)
    store = SqlAlchemyStore(str(record.engine.url))
    store.create_registered_model(MODEL)
    store.create_model_version(MODEL, "s3://bucket/model")
    assert desk.register(1).version == 2
    assert [v.version for v in store.search_model_versions(f"name='{MODEL}'")] == [2, 1]
    desk.move(2)
    assert store.get_model_version_by_alias(MODEL, "champion").version == 2
    store._dispose_engine()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"digest": "sha256:1"}, "digest"),
        ({"baseline": "none"}, "baseline"),
        ({"code_digest": "sha256:" + "A" * 64}, "code_digest"),
        ({"statement": ""}, "statement"),
        ({"format": "a format"}, "format"),
        ({"run_id": ""}, "run_id"),
        ({"training_set": None}, "training_set"),
        ({"pins": ("flights",)}, "pins"),
        ({"metrics": {"auc": float("nan")}}, "metrics"),
        ({"metrics": {"auc": "0.7"}}, "metrics"),
    ],
)
def test_a_bad_candidate_is_refused_by_field_and_leaves_nothing(
    record: Record, change: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidInput) as e:
        Desk(record).write(versions.register, replace(candidate(1), **change), by=ANN)
    assert e.value.field == field
    assert record.read(versions.models) == []
    assert record.read(audit.listed) == []


@pytest.mark.parametrize("name", BAD_NAMES, ids=lambda n: repr(n)[:20])
def test_names_outside_the_alphabet_are_refused_and_leave_nothing(desk: Desk, name: Any) -> None:
    before = desk.rows("select count(*) from rp_audit")
    with pytest.raises(InvalidName, match=r"model: .* is no valid name") as e:
        desk.write(versions.register, replace(candidate(9), model=name), by=ANN)
    assert len(str(e.value)) < 250
    with pytest.raises(NotFound):
        desk.read(versions.get, name, 1)
    assert desk.rows("select count(*) from rp_audit") == before


def test_the_longest_name_fits(either: Desk) -> None:
    either.free(LONGEST)
    assert either.register(1, model=LONGEST).model == LONGEST
    either.write(aliases.set, LONGEST, LONGEST, 1, by=ANN)
    assert either.read(aliases.get, LONGEST, LONGEST).version == 1


def test_what_is_unknown_is_named(either: Desk) -> None:
    for query, names, message in (
        (versions.listed, ("absent",), "model 'absent' does not exist"),
        (versions.get, ("absent", 1), "model 'absent' does not exist"),
        (versions.get, (MODEL, 9), "model version 'flight-delay/9' does not exist; the newest are 3, 2, 1"),
    ):
        with pytest.raises(NotFound, match=message):
            either.read(query, *names)


@pytest.mark.parametrize("number", [10**20, 2**31, 0, -1, -(10**20)])
def test_a_version_outside_all_numbers_does_not_exist(either: Desk, number: int) -> None:
    with pytest.raises(NotFound, match=f"{MODEL}/{number}.*the newest are 3, 2, 1"):
        either.read(versions.get, MODEL, number)
    with pytest.raises(NotFound, match=str(number)):
        either.write(aliases.set, MODEL, FREE, number, by=ANN)


@pytest.mark.parametrize("number", ["1", 1.0, True, None])
def test_a_version_that_is_no_number(desk: Desk, number: Any) -> None:
    with pytest.raises(InvalidInput, match="is no number of a version"):
        desk.read(versions.get, MODEL, number)


# --- retired and deleted ----------------------------------------------------------------------------


def test_a_retired_version_takes_no_alias_until_it_is_restored(either: Desk) -> None:
    retired = either.write(versions.retire, MODEL, 2, "wrong labels", by=ANN)
    assert retired.state is VersionState.RETIRED
    assert either.read(versions.get, MODEL, 2) == retired
    assert either.write(versions.retire, MODEL, 2, "again", by=ANN) == retired
    with pytest.raises(Conflict, match="version 2 of flight-delay is retired: restore it first"):
        either.write(aliases.set, MODEL, FREE, 2, by=ANN)
    with pytest.raises(Conflict, match="is retired"):
        either.move(2)
    assert either.write(versions.restore, MODEL, 2, "labels were right", by=ANN).state is VersionState.ACTIVE
    assert either.move(2).version == 2
    actions = [(e.action, e.detail["reason"]) for e in either.read(audit.listed, 2, f"{MODEL}/2")]
    assert actions == [("model.restore", "labels were right"), ("model.retire", "wrong labels")]


def test_a_deleted_version_keeps_its_row_and_number_for_ever(either: Desk) -> None:
    either.write(versions.delete, MODEL, 3, "leaked holdout", by=BOB)
    assert either.read(versions.get, MODEL, 3).state is VersionState.DELETED
    assert [v.version for v in either.read(versions.listed, MODEL)] == [3, 2, 1]
    assert [v.version for v in either.read(versions.listed, MODEL, False)] == [2, 1]
    assert either.rows("select current_stage, source from model_versions where version = 3") == [
        ("Deleted_Internal", "REDACTED-SOURCE-PATH")
    ]
    assert either.register(4).version == 4
    for refused in (
        lambda: either.register(3),
        lambda: either.write(versions.restore, MODEL, 3, "no", by=ROOT),
        lambda: either.write(versions.retire, MODEL, 3, "no", by=ROOT),
        lambda: either.move(3),
    ):
        with pytest.raises(Conflict, match="version 3 of flight-delay was deleted, and does not come back"):
            refused()


@pytest.mark.parametrize("operation", [versions.retire, versions.delete])
def test_what_is_in_use_is_neither_retired_nor_deleted(either: Desk, operation: Any) -> None:
    either.move(1, "champion")
    either.move(1, "production-eu")
    either.write(pins.pin, "version", f"{MODEL}/2", "for the audit of May", by=ANN)
    either.write(pins.pin, "artifact", candidate(3).digest, "kept", by=BOB)
    before = either.read(versions.listed, MODEL)
    for number, users in (
        (1, "alias 'champion', alias 'production-eu'"),
        (2, r"a pin of ann \(for the audit of May\)"),
        (3, r"a pin of bob \(kept\)"),
    ):
        with pytest.raises(Conflict, match=f"version {number} of flight-delay is in use by {users}$"):
            either.write(operation, MODEL, number, "no longer needed", by=ROOT)
    assert either.read(versions.listed, MODEL) == before
    either.move(2, "champion")
    either.move(2, "production-eu")
    assert either.write(operation, MODEL, 1, "replaced", by=ROOT).state is not VersionState.ACTIVE


def test_an_open_promotion_holds_its_version(desk: Desk) -> None:
    asked = desk.request(2)
    with pytest.raises(Conflict, match=f"in use by promotion {asked.promotion_id} .{asked.state}"):
        desk.write(versions.delete, MODEL, 2, "no", by=ROOT)
    desk.change(f"update rp_promotion set state = '{PromotionState.REJECTED.value}'")
    assert desk.write(versions.delete, MODEL, 2, "rejected", by=ROOT).state is VersionState.DELETED


def test_who_may_not(desk: Desk) -> None:
    for operation, arguments, who in (
        (versions.register, (candidate(9),), EVE),
        (versions.retire, (MODEL, 1, "x"), EVE),
        (versions.restore, (MODEL, 1, "x"), EVE),
        (versions.delete, (MODEL, 1, "x"), ANN),
    ):
        with pytest.raises(Forbidden, match="it needs the role"):
            desk.write(operation, *arguments, by=who)
    for operation in (versions.retire, versions.delete):
        with pytest.raises(InvalidInput, match="reason: say why"):
            desk.write(operation, MODEL, 1, " ", by=ROOT)
