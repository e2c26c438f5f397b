"""What the platform says of a version before it may be promoted; closed by default."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rayplat.artifacts import formats, keys, schema, signing
from rayplat.artifacts.provenance import Facts
from rayplat.artifacts.schema import Field, Schema
from rayplat.artifacts.store import ArtifactStore
from rayplat.errors import Unavailable
from rayplat.registry import verification
from rayplat.registry.candidate import Candidate
from rayplat.registry.local import LocalRegistry
from rayplat.registry.record import aliases, versions, waivers
from rayplat.settings import Settings
from rayplat.types import FeatureSpec, ModelSpec, ModelVersion, VerificationEvidence
from tests.artifacts.formats import samples
from tests.registry.desk import ANN, BOB, HOLDOUT, MODEL, ROOT, Desk

INPUTS = tuple(Field(name, "number") for name in samples.COLUMNS)
SERVED = Schema(INPUTS, (Field("prediction", "number"),))


class World:
    """A store and a key, and model versions registered in it."""

    def __init__(self, work: Path) -> None:
        self.work, self.store = work, ArtifactStore(work / "store")
        self.key, self.trusted = keys.ensure(work / "keys"), keys.trusted(work / "keys")

    def version(self, folder: Path, number: int = 1, format: str = "") -> ModelVersion:
        digest = self.store.put_tree(folder, "model").digest
        now = datetime.now(UTC)
        made = ModelVersion("m", number, digest, "run", "ann", now, "sha256:" + "1" * 64, (), {}, format=format)
        return replace(made, statement=signing.sign_version(self.store, self.key, Facts.of(made)))

    def verify(self, version: ModelVersion, **more) -> VerificationEvidence:
        return verification.verify(self.store, version, keys=self.trusted, **more)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def onnx(folder: Path) -> Path:
    return samples.put(samples.describe(folder, "onnx", "m.onnx"), "m.onnx", samples.onnx_model().SerializeToString())


def weights(folder: Path) -> Path:
    """A tree that says what it takes and is looked at without a process of its own."""
    samples.describe(folder, "onnx", "model.safetensors")
    text = (folder / "MLmodel").read_text().replace("  onnx:\n    code: null\n    data: model.safetensors\n", "")
    samples.put(folder, "MLmodel", text)
    return samples.put(folder, "model.safetensors", samples.safetensors_bytes())


def damage(world: World, version: ModelVersion, path: str) -> None:
    entry = next(e for e in world.store.manifest(version.digest).entries if e.path == path)
    stored = next(p for p in (world.work / "store").rglob(entry.digest.removeprefix("sha256:")) if p.is_file())
    stored.chmod(0o644)
    stored.write_bytes(stored.read_bytes()[:-1] + b"!")


def test_a_sound_version(world: World) -> None:
    version = world.version(onnx(world.work / "m"), format="onnx")
    found = world.verify(version, champion_spec=SERVED)
    assert found == VerificationEvidence(version.digest, True, True, "onnx", False, False)


def test_damaged_bytes_are_never_interpreted(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    version = world.version(weights(world.work / "m"))
    damage(world, version, "model.safetensors")
    monkeypatch.setattr(formats, "detect", lambda _: pytest.fail("the bytes were looked at"))
    found = world.verify(version)
    assert (found.intact, found.signed, found.format, found.runs_code) == (False, False, "", True)
    assert "is damaged" in found.problems[0]


def test_missing_bytes(world: World) -> None:
    found = world.verify(replace(world.version(weights(world.work / "m")), digest="sha256:" + "9" * 64))
    assert not found.intact
    assert "does not exist" in found.problems[0]


@pytest.mark.parametrize("statement", ["none", "older"])
def test_a_version_without_a_statement_of_its_own(statement: str, world: World) -> None:
    older = world.version(samples.put(world.work / "old", "model.safetensors", samples.safetensors_bytes()))
    version = replace(
        world.version(weights(world.work / "m"), 2), statement=None if statement == "none" else older.statement
    )
    found = world.verify(version)
    assert (found.intact, found.signed, found.format) == (True, False, "safetensors")
    assert found.problems[0].startswith("the signature: the statement of m/2 is not trusted")


def test_code_needs_a_waiver_for_this_digest(world: World) -> None:
    payload = samples.call("os", "system", f"touch {world.work}/canary")
    folder = samples.describe(world.work / "m", "sklearn", "model.pkl")
    version = world.version(samples.put(folder, "model.pkl", payload))
    found = world.verify(version, waivers=("sha256:" + "2" * 64,))
    assert (found.format, found.runs_code, found.waived) == ("code", True, False)
    assert "model.pkl: it is a pickle" in found.problems[0]
    assert world.verify(version, waivers=(version.digest,)).waived
    assert not (world.work / "canary").exists()


def test_a_format_that_is_not_the_recorded_one(world: World) -> None:
    found = world.verify(world.version(weights(world.work / "m"), format="torch_export"))
    assert (found.format, found.runs_code) == ("", True)
    assert "the record says torch_export" in found.problems[0]


def test_what_cannot_be_loaded_at_all(world: World) -> None:
    content = samples.onnx_model().SerializeToString()[:-9]
    found = world.verify(world.version(samples.put(world.work / "m", "m.onnx", content)))
    assert (found.intact, found.format, found.runs_code) == (True, "", True)
    assert found.problems


def test_what_nobody_foresaw_is_no_pass(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    version = world.version(weights(world.work / "m"))
    monkeypatch.setattr(formats, "detect", lambda _: 1 / 0)
    found = world.verify(version)
    assert (found.intact, found.signed) == (False, False)
    assert "division by zero" in found.problems[0]


def test_a_store_that_does_not_answer_is_no_verdict(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    version = world.version(weights(world.work / "m"))

    def down(*_: object) -> None:
        raise Unavailable("the artifact store", "connection refused")

    monkeypatch.setattr(world.store, "checkout", down)
    with pytest.raises(Unavailable):
        world.verify(version)


# --- a promotion ------------------------------------------------------------------------------------


def test_a_promotion_is_judged_by_what_the_record_holds_now(world: World, desk: Desk, settings: Settings) -> None:
    payload = samples.put(world.work / "m", "model.pkl", samples.call("os", "abort", ""))
    digest = world.store.put_tree(payload, "model").digest
    reason = "looked at by two people, see the ticket"
    as_approver = replace(ANN, role=BOB.role)  # who is its author only later
    desk.record.write(lambda tx: waivers.waive(tx, "format", digest, reason, by=as_approver))
    wanted = Candidate(MODEL, digest, "run", HOLDOUT, (), {"auc": 0.7})
    version = desk.record.write(lambda tx: versions.register(tx, wanted, by=ANN))
    key = keys.platform_key(settings.keys_folder)
    statement = signing.sign_version(world.store, key, Facts.of(version))
    desk.record.write(lambda tx: versions.sign(tx, MODEL, version.version, statement, by=ANN))
    asked: Any = SimpleNamespace(model=MODEL, version=version.version, digest=digest, alias="champion")
    registry = LocalRegistry(desk.record)

    def judged() -> VerificationEvidence:
        return verification.verify_promotion(registry, world.store, settings, asked)

    assert (judged().intact, judged().signed, judged().runs_code, judged().waived) == (True, True, True, False)
    given = desk.record.write(lambda tx: waivers.waive(tx, "format", digest, reason, by=BOB))
    assert judged().waived
    desk.record.write(lambda tx: waivers.revoke(tx, given.waiver_id, reason, by=BOB))
    assert not judged().waived
    desk.go_live(1)
    assert "sha256:" in judged().problems[0]  # what is live has no bytes to compare with
    desk.write(aliases.remove, MODEL, "champion", reason=reason, by=ROOT)
    assert not judged().intact
    desk.write(versions.delete, MODEL, 1, reason, by=BOB)
    assert judged().intact
    asked.digest = "sha256:" + "3" * 64
    assert "the record says" in judged().problems[0]
    assert not judged().intact


# --- schema -----------------------------------------------------------------------------------------

CHANGES: dict[str, tuple[Callable[[Schema], Schema], tuple[str, ...]]] = {
    "nothing": (lambda s: s, ()),
    "an optional input added": (lambda s: replace(s, inputs=(*s.inputs, Field("d", "number", False))), ()),
    "an output added": (lambda s: replace(s, outputs=(*s.outputs, Field("upper", "number"))), ()),
    "an input made optional": (lambda s: replace(s, inputs=(replace(s.inputs[0], required=False), *s.inputs[1:])), ()),
    "a required input added": (
        lambda s: replace(s, inputs=(*s.inputs, Field("d", "string"))),
        ("the input 'd' was added and is required",),
    ),
    "an input removed": (lambda s: replace(s, inputs=s.inputs[1:]), ("the input 'a' was removed",)),
    "an input retyped": (
        lambda s: replace(s, inputs=(Field("a", "string"), *s.inputs[1:])),
        ("the input 'a' is string and was number",),
    ),
    "an output removed": (lambda s: replace(s, outputs=()), ("the output 'prediction' was removed",)),
    "an output retyped": (
        lambda s: replace(s, outputs=(Field("prediction", "string"),)),
        ("the output 'prediction' is string and was number",),
    ),
    "several": (
        lambda s: Schema((Field("z", "number"),), ()),
        (
            "the input 'a' was removed",
            "the input 'b' was removed",
            "the input 'c' was removed",
            "the input 'z' was added and is required",
            "the output 'prediction' was removed",
        ),
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_schema_changes_are_named_field_by_field(change: str) -> None:
    made, expected = CHANGES[change]
    assert schema.problems(made(SERVED), SERVED) == expected


def test_an_optional_input_that_becomes_required() -> None:
    was = replace(SERVED, inputs=(Field("a", "number", False), *INPUTS[1:]))
    assert schema.problems(SERVED, was) == ("the input 'a' is required and was optional",)


def test_features_are_looked_up_by_the_same_keys() -> None:
    views = {"schedule": "sha256:" + "1" * 64}
    by_flight, by_plane = (schema.of_spec(ModelSpec("m", key, (), views)) for key in ("flight", "plane"))
    brought = schema.of_spec(ModelSpec("m", "flight", (), {}))
    assert schema.problems(by_flight, by_flight) == schema.problems(by_flight, brought) == ()
    assert schema.problems(by_plane, by_flight) == ("features are looked up by plane, and were by flight",)
    assert schema.problems(brought, by_flight) == ("features are looked up by nothing, and were by flight",)


def test_a_version_against_what_is_served(world: World) -> None:
    served = ModelSpec("m", "e", (FeatureSpec("a", "numeric"), FeatureSpec("q", "categorical")), {}, ("probability",))
    found = world.verify(world.version(weights(world.work / "m")), champion_spec=served)
    assert found.schema_problems[0] == "the input 'a' is required and was optional"
    assert {"the input 'q' was removed", "the output 'probability' was removed"} <= set(found.schema_problems)
    silent = world.version(samples.put(world.work / "s", "model.safetensors", samples.safetensors_bytes()))
    assert "declares no inputs" in world.verify(silent, champion_spec=served).schema_problems[0]
