"""Parity of a registered version over real parts: online reads are logged, then replayed; no Ray."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from rayplat.artifacts.store import ArtifactStore
from rayplat.data import parity
from rayplat.data.feature_store import FeatureStore
from rayplat.data.features import Derived, Entity, FeatureService, FeatureView, Field, OnRequestView, col
from rayplat.data.features.build import rows_of
from rayplat.data.features.notes import held, note
from rayplat.data.online import catalog
from rayplat.data.tables import Tables
from rayplat.errors import Conflict, InvalidInput, NotFound
from rayplat.serve.log import schema as log_schema
from rayplat.services.features import Features
from rayplat.services.verbs import Context
from rayplat.settings import Settings
from rayplat.types import AliasHead, FeatureSpec, Principal, Role
from tests.api.fakes import DIGEST, NOW, registry
from tests.data.declared import DELAYS, FLIGHT, SCHEDULE, SERVICE, START, VIEWS, WEATHER, flights, weather
from tests.data.online.world import apply

HEAD = AliasHead("m", "champion", 2, DIGEST, 1, NOW, "ada")
FEATURES = (
    FeatureSpec("distance", "numeric"),
    FeatureSpec("origin", "categorical"),
    FeatureSpec("temp", "numeric"),
    FeatureSpec("departures_1h", "numeric"),
    FeatureSpec("delay_1h", "numeric"),
)
NOON = START + timedelta(hours=2, minutes=10)


@dataclass
class World:
    settings: Settings
    tables: Tables
    store: FeatureStore
    database: Path

    def build(self, view: FeatureView, source: pa.Table) -> None:
        pinned = self.tables.version(view.source)
        before = held(self.tables, view)
        noted = note(view, pinned, "build")
        self.tables.overwrite(view.table, rows_of(view, source), transaction=before.transaction, metadata=noted)

    def bundle(self, folder: Path, views: dict[str, str], features: tuple[FeatureSpec, ...], entity: str) -> Features:
        """The verbs, with version 2 a bundle of these views and features."""
        words = {feature.name: ["JFK"] for feature in features if feature.kind == "categorical"}
        spec = {
            "model": "m",
            "entity": entity,
            "features": [{"name": f.name, "kind": f.kind, "nullable": True} for f in features],
            "views": views,
            "outputs": ["p"],
            "params": {},
        }
        stored = {"format": "rayplat-bundle/1", "spec": spec, "encoding": {"vocabularies": words}, "example": {}}
        folder.mkdir()
        (folder / "rayplat.json").write_text(json.dumps(stored))
        store = ArtifactStore.of(self.settings)
        digest = store.put_tree(folder, "model").digest
        known = registry(shutil.copy(self.database, folder.with_suffix(".db")), DIGEST, digest)
        who = Principal("ann", Role.DEVELOPER)
        return Features(Context(self.settings, known, self.tables, None, self.store, store, "", who))  # type: ignore[arg-type]

    def ask(
        self, service: str, keys: list[str], at: datetime, features: tuple[FeatureSpec, ...], **given: list[Any]
    ) -> None:
        """Look up and log, as a model host does."""
        rows = self.store.online(service).read(keys, at, given or None)
        inputs = {f.name: rows.columns[f.name] for f in features}
        outputs = {"p": rows.found.astype(float)}
        record = log_schema.Record(
            "r", len(keys), at, at, HEAD, 2, keys, inputs, outputs, 1.0, 200, "champion", "primary"
        )
        made = log_schema.decode(log_schema.encode([record], "host"))
        if log_schema.TABLE not in self.tables.names():
            self.tables.create(log_schema.TABLE, log_schema.SCHEMA, partition_by=log_schema.PARTITION_BY)
        self.tables.append(log_schema.TABLE, made)


@pytest.fixture
def world(settings: Settings, empty_database: Path) -> World:
    tables = Tables(settings.tables_uri)
    tables.create("flights", flights())
    tables.create("weather", weather())
    made = World(settings, tables, FeatureStore(settings), empty_database)
    for view in VIEWS:
        made.build(view, weather() if view is WEATHER else flights())
    catalog.put_service(apply(settings, VIEWS), SERVICE)
    return made


@pytest.fixture
def features(world: World, tmp_path: Path) -> Features:
    return world.bundle(tmp_path / "bundle", SERVICE.view_digests(), FEATURES, "flight")


def by_name(report: Any) -> dict[str, tuple[int, int]]:
    return {found.feature: (found.compared, found.mismatches) for found in report.features}


def test_what_was_read_online_is_what_the_join_gives(world: World, features: Features) -> None:
    for minutes in (0, 35, 95):
        moment = START + timedelta(hours=2, minutes=minutes)
        features.materialize((), moment)
        world.ask("all", ["f1", "f2", "f7", "f9", "nobody"], moment, FEATURES)
    report = features.parity("m", 2)
    assert (report.vectors, report.mismatched, report.mismatch_rate) == (15, 0, 0.0)
    assert by_name(report) == {feature.name: (15, 0) for feature in FEATURES}
    assert {pin.table for pin in report.pins} == {view.table for view in VIEWS}
    assert (report.evidence.vectors, report.evidence.mismatched) == (15, 0)


@pytest.mark.ray
def test_large_tables_are_joined_on_the_cluster(
    world: World, features: Features, ray_cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    features.materialize((), START)
    world.ask("all", ["f2", "f9", "nobody"], NOON, FEATURES)
    here = features.parity("m", 2)
    monkeypatch.setattr(parity, "IN_PROCESS_BYTES", -1)
    assert features.parity("m", 2) == here
    assert here.mismatched == 2


def test_a_stale_online_store_shows_in_the_features_that_it_stales(world: World, features: Features) -> None:
    features.materialize((), START)
    world.ask("all", ["f2", "f9"], NOON, FEATURES)
    report = features.parity("m", 2)
    found = by_name(report)
    assert (found["distance"], found["origin"]) == ((2, 0), (2, 0))
    assert found["departures_1h"] == (2, 2)
    assert report.mismatched == 2
    example = next(f for f in report.features if f.feature == "departures_1h").examples[0]
    assert example == {"key": "f2", "at": NOON.isoformat(), "online": 0.0, "offline": 1}
    looser = features.parity("m", 2, tolerance=0.5)
    assert looser.tolerance == 0.5


def test_rows_are_chosen_by_time_newest_first(world: World, features: Features) -> None:
    features.materialize((), START)
    world.ask("all", ["f2"], START, FEATURES)
    world.ask("all", ["f2", "f4"], NOON + timedelta(days=1), FEATURES)
    assert features.parity("m", 2).vectors == 3
    assert features.parity("m", 2, end=NOON).vectors == 1
    assert features.parity("m", 2, start=NOON.replace(tzinfo=None)).vectors == 2
    newest = features.parity("m", 2, limit=1)
    assert newest.vectors == 1
    assert newest.features[0].compared == 1
    with pytest.raises(NotFound, match=r"logged feature vectors.*m:2.*serve it"):
        features.parity("m", 2, start=NOON + timedelta(days=2))


def test_an_older_definition_is_replayed_as_it_was(world: World, features: Features) -> None:
    features.materialize((), NOON)
    world.ask("all", ["f2"], NOON, FEATURES)
    changed = replace(SCHEDULE, fields=(Field("origin", "string"), Field("distance", "double", default=7.0)))
    apply(world.settings, (changed,))
    assert features.parity("m", 2).mismatched == 0


def test_what_is_computed_on_request(world: World, tmp_path: Path) -> None:
    sent = OnRequestView("sent", (Field("bags", "int64"),), (Derived("weight", col("bags") * 20.0, "double"),))
    far = OnRequestView("far", (), (Derived("is_far", (col("distance") > 250).cast("double"), "double"),))
    service = FeatureService("asked", FLIGHT, (SCHEDULE, sent, far))
    catalog.put_service(apply(world.settings, service.views), service)
    wanted = (FeatureSpec("weight", "numeric"), FeatureSpec("is_far", "numeric"), FEATURES[0])
    features = world.bundle(tmp_path / "bundle", service.view_digests(), wanted, "flight")
    features.materialize(("schedule",), NOON)
    world.ask("asked", ["f1", "f9"], NOON, wanted, bags=[1, 2])
    report = features.parity("m", 2)
    assert by_name(report) == {"weight": (0, 0), "is_far": (2, 0), "distance": (2, 0)}
    assert (report.vectors, report.mismatched) == (2, 0)


def test_integer_keys_are_logged_as_text(world: World, tmp_path: Path) -> None:
    shops = pa.table({"shop": pa.array([7, 8], pa.int64()), "at": [START, START], "size": [1.5, 2.5]})
    world.tables.create("shops", shops)
    view = FeatureView("shops", Entity("shop", "shop", ("int64",)), "shops", "at", fields=(Field("size", "float"),))
    world.build(view, shops)
    service = FeatureService("shops", view.entity, (view,))
    catalog.put_service(apply(world.settings, (view,)), service)
    wanted = (FeatureSpec("size", "numeric"),)
    features = world.bundle(tmp_path / "bundle", service.view_digests(), wanted, "shop")
    features.materialize(("shops",), NOON)
    world.ask("shops", ["7", "8", "9"], NOON, wanted)
    assert by_name(features.parity("m", 2)) == {"size": (3, 0)}


def test_what_cannot_be_compared_is_named(world: World, features: Features, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="m:2"):
        features.parity("m", 2)  # no log yet
    with pytest.raises(NotFound, match="m/9"):
        features.parity("m", 9)
    with pytest.raises(InvalidInput, match="limit"):
        features.parity("m", 2, limit=0)
    with pytest.raises(InvalidInput, match="not after the start"):
        features.parity("m", 2, start=NOON, end=NOON)
    with pytest.raises(InvalidInput, match="tolerance"):
        features.parity("m", 2, tolerance=float("nan"))
    world.ask("all", ["f2"], NOON, FEATURES)
    views = {"schedule": SCHEDULE.digest(), "delays": "sha256:" + "0" * 64}
    with pytest.raises(Conflict, match="delays"):
        world.bundle(tmp_path / "other", views, FEATURES, "flight").parity("m", 2)
    with pytest.raises(InvalidInput, match="nothing leads from flight to delays"):
        world.bundle(tmp_path / "lone", {"delays": DELAYS.digest()}, FEATURES, "flight").parity("m", 2)
    with pytest.raises(InvalidInput, match="looks nothing up"):
        world.bundle(tmp_path / "bare", {}, FEATURES, "flight").parity("m", 2)
    unbuilt = replace(SCHEDULE, fields=(Field("origin", "string"),))
    apply(world.settings, (unbuilt,))
    with pytest.raises(NotFound, match="build the view 'schedule' first"):
        world.bundle(tmp_path / "new", {"schedule": unbuilt.digest()}, FEATURES, "flight").parity("m", 2)
