"""Releases that would bring together versions which take other requests: refused before anything is written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file

from rayplat.artifacts.store import ArtifactStore
from rayplat.data.tables import Tables
from rayplat.errors import SchemaMismatch
from rayplat.registry.record import decisions, policies, releases
from rayplat.services import releases as service
from rayplat.services.aliases import Aliases
from rayplat.services.models import Models
from rayplat.services.promotions import Promotions
from rayplat.services.releases import Releases
from rayplat.services.verbs import Context
from rayplat.settings import Settings
from rayplat.types import AliasPolicy, Evidence, GateSpec, PromotionState, Release
from tests.api.fakes import ADMIN, AUTHOR, TRAINING_SET, FakeTracking, registry

A, B = {"name": "a", "type": "double"}, {"name": "b", "type": "string"}
OPTIONAL = {"name": "c", "type": "double", "required": False}
Y, Z = {"name": "y", "type": "double"}, {"name": "z", "type": "double"}
SAME, MORE_GIVEN, MORE_TAKEN, OTHER, FEWER_GIVEN, SILENT = 2, 3, 4, 5, 6, 7
SIGNATURES: list[Any] = [
    ([A, B], [Y]),
    ([A, B], [Y]),
    ([A, B], [Y, Z]),
    ([A, B, OPTIONAL], [Y]),
    ([A], [Y]),
    ([A, B], [Z]),
    None,
]
EVIDENCE = Evidence(TRAINING_SET, 50_000, {"auc": 0.7}, 1, {"auc": 0.69})


class Hosts:
    """Stands for the endpoints: what would have been started."""

    def __init__(self) -> None:
        self.created: list[str] = []

    def __call__(self, _: Context) -> Hosts:
        return self

    def list(self) -> tuple[Any, ...]:
        return ()

    def create(self, model: str, alias: str) -> None:
        self.created.append(f"{model}/{alias}")


@dataclass
class World:
    """Model ``m`` with the versions of `SIGNATURES`, from 1; ``champion`` is the first. ``challenger`` is free."""

    context: Context
    hosts: Hosts

    @property
    def releases(self) -> Releases:
        return Releases(self.context)

    @property
    def release(self) -> Release:
        return self.context.registry.read(releases.get, "m")

    def point(self, alias: str, version: int) -> None:
        self.context.registry.write(decisions.break_glass, "m", version, alias, "for this test", by=ADMIN)

    def ask(self, version: int, alias: str = "champion") -> Any:
        return Promotions(replace(self.context, principal=AUTHOR)).request("m", version, alias, EVIDENCE)


@pytest.fixture
def world(settings: Settings, empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    record = registry(Path(shutil.copy(empty_database, tmp_path / "rayplat.db")))
    nothing: Any = None
    tracking: Any = FakeTracking()
    store = ArtifactStore.of(settings)
    context = Context(settings, record, Tables(settings.tables_uri), tracking, nothing, store, "", ADMIN)
    for n, signature in enumerate(SIGNATURES, 1):
        digest = store.put_tree(_folder(tmp_path / f"v{n}", n, signature), "model").digest
        Models(replace(context, principal=AUTHOR)).register("m", digest, f"run{n}", TRAINING_SET, (), {"auc": 0.7})
    gates = (GateSpec("schema_compatible"),)
    record.write(policies.set, AliasPolicy("m", "champion", True, gates, min_approvals=1), by=ADMIN)
    record.write(policies.set, AliasPolicy("m", "challenger", False, gates, min_approvals=0), by=ADMIN)
    hosts = Hosts()
    monkeypatch.setattr(service, "Endpoints", hosts)
    world = World(context, hosts)
    world.point("champion", 1)
    return world


def _folder(folder: Path, n: int, signature: Any) -> Path:
    folder.mkdir()
    save_file({"w": np.full(4, n, np.float32)}, folder / "model.safetensors")
    if signature is not None:
        inputs, outputs = signature
        said = {"signature": {"inputs": json.dumps(inputs), "outputs": json.dumps(outputs)}, "flavors": {}}
        (folder / "MLmodel").write_text(yaml.safe_dump(said))
    return folder


RELEASING: dict[str, Callable[[Releases, str], Release]] = {
    "split.shares": lambda verbs, target: verbs.split("m", {"champion": 1.0, target: 1.0}),
    "canary.target": lambda verbs, target: verbs.canary("m", target),
    "shadows": lambda verbs, target: verbs.shadow("m", target),
}


@pytest.mark.parametrize("field", RELEASING)
@pytest.mark.parametrize(
    ("version", "problem"), [(OTHER, "the input 'b' was removed"), (SILENT, "the model declares no inputs and outputs")]
)
def test_a_target_that_does_not_take_the_requests_is_refused(
    world: World, field: str, version: int, problem: str
) -> None:
    world.point("challenger", version)
    for target in (f"v{version}", "challenger"):
        with pytest.raises(SchemaMismatch, match=rf"version {version}\) is no match for 'champion' \(version 1\)") as e:
            RELEASING[field](world.releases, target)
        assert (e.value.field, problem in str(e.value)) == (field, True)
    assert world.release.generation == 0
    assert world.hosts.created == []


@pytest.mark.parametrize("field", RELEASING)
@pytest.mark.parametrize("version", [SAME, MORE_GIVEN, MORE_TAKEN])
def test_one_that_takes_or_gives_more_is_let_in(world: World, field: str, version: int) -> None:
    assert RELEASING[field](world.releases, f"v{version}").generation == 1


def test_nobody_reads_what_a_shadow_gives(world: World) -> None:
    assert world.releases.shadow("m", "6").generation == 1
    for refused in ("split.shares", "canary.target"):  # also where it is a shadow already
        with pytest.raises(SchemaMismatch, match="the output 'y' was removed"):
            RELEASING[refused](world.releases, "6")


def test_beside_a_default_alias_that_declares_nothing_anything_goes(world: World) -> None:
    world.point("champion", SILENT)
    for release in RELEASING.values():
        assert release(world.releases, "5")
        world.releases.clear("m")


def test_what_is_in_force_can_always_be_taken_back(world: World) -> None:
    world.point("challenger", SAME)
    world.releases.canary("m", "challenger")
    world.releases.shadow("m", "4")
    world.point("challenger", OTHER)  # an emergency asks nobody
    world.releases.pause("m")
    assert world.releases.rollback("m", "it fails").canary.state == "rolled_back"  # type: ignore[union-attr]
    with pytest.raises(SchemaMismatch, match="the input 'b' was removed"):
        world.releases.canary("m", "challenger")
    assert world.releases.clear("m").shadows == ()


def test_a_target_s_alias_is_not_moved_to_what_does_not_fit(world: World) -> None:
    aliases = Aliases(world.context)
    aliases.set("m", "challenger", OTHER)  # nobody sends it anything yet
    aliases.set("m", "challenger", SAME)
    world.releases.split("m", {"champion": 1.0, "challenger": 1.0})
    said = (
        r"release in force sends requests of 'champion' \(version 1\) to 'challenger' \(version 5\), and the input 'b'"
    )
    with pytest.raises(SchemaMismatch, match=f"{said}.*rayplat serve release m --clear"):
        aliases.set("m", "challenger", OTHER)
    assert aliases.get("m", "challenger").version == SAME
    aliases.set("m", "challenger", MORE_GIVEN)
    asked = world.ask(OTHER, "challenger")
    assert asked.state is PromotionState.REJECTED
    assert "sends requests of 'champion'" in asked.gates[0].reason
    world.releases.clear("m")
    assert aliases.set("m", "challenger", OTHER).version == OTHER


def test_the_default_alias_is_not_promoted_away_from_its_targets(world: World) -> None:
    """Version 3 takes what version 1 does and gives more; beside it version 2 gives less than is expected now."""
    world.releases.split("m", {"champion": 1.0, "2": 1.0})
    refused = world.ask(MORE_GIVEN)
    assert refused.state is PromotionState.REJECTED
    assert "'champion' (version 3) to '2' (version 2), and the output 'z' was removed" in refused.gates[0].reason
    world.releases.clear("m")
    asked = world.ask(MORE_GIVEN)
    assert asked.state is PromotionState.AWAITING_APPROVAL
    world.releases.split("m", {"champion": 1.0, "2": 1.0})  # began after the gate had passed
    promotions = Promotions(world.context)
    with pytest.raises(SchemaMismatch, match="the output 'z' was removed"):
        promotions.approve(asked.promotion_id)
    assert promotions.get(asked.promotion_id).state is PromotionState.AWAITING_APPROVAL
    world.releases.split("m", {})
    world.releases.shadow("m", "2")  # takes the same requests, and nobody reads its answers
    assert promotions.approve(asked.promotion_id).state is PromotionState.LIVE


def test_a_canary_that_is_done_is_promoted_with_its_release_in_force(world: World) -> None:
    world.releases.canary("m", "3")
    asked = world.ask(MORE_GIVEN)
    assert Promotions(world.context).approve(asked.promotion_id).state is PromotionState.LIVE
