"""Registering through the verbs: what is no model is refused, what was cut off is completed, damage is found."""

from __future__ import annotations

import os
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from rayplat.artifacts import datasets
from rayplat.artifacts.places.place import object_name
from rayplat.errors import Conflict, Corrupt, InvalidInput, NotFound, NotTrusted
from rayplat.registry import documents
from rayplat.registry.record import artifacts as record_artifacts
from rayplat.registry.record import versions
from rayplat.services.artifacts import Artifacts
from rayplat.services.audit import Audit
from rayplat.services.models import Models
from rayplat.services.promotions import Promotions
from rayplat.services.verbs import Context
from rayplat.types import Evidence, PromotionState, TableVersion
from tests.api.conftest import Served
from tests.api.fakes import AUTHOR, TRAINING_SET


@pytest.fixture
def context(served: Served) -> Context:
    return replace(served.context, principal=AUTHOR)


def put(context: Context, tmp_path: Path, **files: bytes) -> str:
    folder = tmp_path / "tree"
    folder.mkdir()
    save_file({"w": np.random.default_rng().random(8)}, folder / "model.safetensors")
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return context.artifacts.put_tree(folder, "model").digest


def register(context: Context, digest: str, model: str = "other") -> Any:
    return Models(context).register(model, digest, "run9", TRAINING_SET)


def damage(context: Context, digest: str) -> None:
    weights = next(e for e in context.artifacts.manifest(digest).entries if e.path == "model.safetensors")
    file = context.settings.home / "artifacts" / object_name(weights.digest)
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    os.chmod(file, 0o644)
    file.write_bytes(content)


def test_what_is_no_model_is_refused(context: Context, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        register(context, "sha256:" + "9" * 64)
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "readme.txt").write_text("no model")
    with pytest.raises(InvalidInput, match="no model"):
        register(context, context.artifacts.put_tree(tmp_path / "text", "model").digest)
    with pytest.raises(NotFound, match="other"):
        Models(context).versions("other-that-never-was")


def test_a_registration_that_was_cut_off_is_completed(
    context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = put(context, tmp_path)

    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as cut:
        cut.setattr("rayplat.artifacts.signing.sign_version", dies)
        with pytest.raises(KeyboardInterrupt):
            register(context, digest, "cut-off")
    unsigned = context.registry.read(versions.get, "cut-off", 1)
    assert unsigned.statement is None
    with pytest.raises(NotTrusted, match="never signed"):
        Models(context).verify("cut-off", 1)
    signed = register(context, digest, "cut-off")
    assert (signed.version, signed.digest) == (1, digest)
    assert Models(context).verify("cut-off", 1).version == 1


def test_damage_after_registration_is_found_and_not_promoted(context: Context, tmp_path: Path) -> None:
    version = register(context, put(context, tmp_path), "damaged")
    asked = Promotions(context).request("damaged", version.version, "champion")
    assert asked.state is PromotionState.VERIFIED
    damage(context, version.digest)
    with pytest.raises(Corrupt, match=r"model\.safetensors"):
        Models(context).verify("damaged", version.version)
    refused = Promotions(context).request("damaged", version.version, "production")
    assert refused.state is PromotionState.REJECTED
    assert refused.verification is not None
    assert not refused.verification.intact
    assert Promotions(context).verify(asked.promotion_id).state is PromotionState.STALE


def test_a_model_that_runs_code_needs_a_waiver(context: Context, tmp_path: Path) -> None:
    version = register(context, put(context, tmp_path, **{"extra.pkl": pickle.dumps({"a": 1})}), "pickled")
    assert version.format == "code"
    refused = Promotions(context).request("pickled", version.version, "champion")
    assert refused.state is PromotionState.REJECTED
    assert refused.verification is not None
    assert refused.verification.runs_code
    assert not refused.verification.waived
    with pytest.raises(Conflict):
        Promotions(context).cancel(refused.promotion_id)


def test_what_garbage_collection_deletes_is_in_the_audit_log(served: Served, tmp_path: Path) -> None:
    context = served.context
    needed, loose = register(context, put(context, tmp_path), "kept"), context.artifacts.put_bytes(b"loose", "file")
    artifacts = Artifacts(context)
    assert loose.digest in artifacts.gc(dry_run=False, keep_hours=0.0).condemned
    report = artifacts.gc(dry_run=False, keep_hours=0.0)
    assert loose.digest in report.deleted
    assert not context.artifacts.exists(loose.digest)
    assert Models(context).verify("kept", needed.version).digest == needed.digest
    entry = Audit(context).list(limit=1)[0]
    assert (entry.action, entry.actor) == ("artifact.gc", "admin-person")
    assert loose.digest in entry.detail["deleted"]


def test_what_a_version_was_made_of_is_on_record_with_its_run(context: Context, tmp_path: Path) -> None:
    digest = put(context, tmp_path)
    baseline = context.artifacts.put_bytes(b"a profile", "profile").digest
    pin = TableVersion("flights", "tables/flights", "id-1", 3, "sha256:" + "1" * 64, "sha256:" + "2" * 64, 336_776)
    version = Models(context).register("recorded", digest, "run-recorded", TRAINING_SET, (pin,), None, baseline)
    evidence = Evidence(TRAINING_SET, 50_000, {"auc": 0.7})
    Promotions(context).request("recorded", version.version, "champion", evidence)
    made = {one.kind: one for one in Artifacts(context).list(run_id="run-recorded")}
    assert set(made) == {"model", "profile", "dataset", "statement", "report"}
    assert (made["model"].digest, made["profile"].digest) == (digest, baseline)
    assert made["report"].digest == documents.digest(evidence)
    assert datasets.read(context.artifacts.get_bytes(made["dataset"].digest)) == pin
    roots = context.registry.read(record_artifacts.roots)
    assert {one.digest for one in made.values()} <= roots["run"]
