"""The registry through its public ways: a promotion between two people, an import, the audit log taken along."""

from __future__ import annotations

import json
import secrets
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import pytest
from safetensors.numpy import save_file

from rayplat import Platform
from rayplat.artifacts import keys
from rayplat.errors import Conflict, Forbidden, StaleGeneration
from rayplat.tracking import prepare_mlflow
from rayplat.types import Evidence, PrincipalKind, PromotionState, Role, Verdict
from tests.e2e.conftest import Live

pytestmark = pytest.mark.e2e
MODEL = "flight-delay"


def person(live: Live, name: str, role: Role, kind: PrincipalKind = PrincipalKind.PERSON) -> Platform:
    made = live.client().tokens.create(f"{name}-{secrets.token_hex(3)}", role, kind=kind)
    return Platform(live.url, token=made.secret)


def evidence(live: Live) -> Evidence:
    """What the demo measured of its second model, for an alias that does not exist yet."""
    found = next(p.evidence for p in live.client().promotions.list(MODEL) if p.baseline_version and p.evidence)
    return replace(found, baseline_version=None, baseline=None, comparisons=(), candidate_digest="")


def test_a_promotion_between_two_people(live: Live) -> None:
    ann, bob = person(live, "ann", Role.DEVELOPER), person(live, "bob", Role.APPROVER)
    robot = person(live, "robot", Role.APPROVER, PrincipalKind.SERVICE)
    version, alias, good = 2, f"canary-{secrets.token_hex(3)}", evidence(live)
    with pytest.raises(Forbidden, match="protected"):
        ann.aliases.set(MODEL, alias, version)
    worse = ann.promotions.request(MODEL, version, alias, replace(good, candidate={"auc": 0.55}))
    assert worse.state is PromotionState.REJECTED
    assert {g.gate for g in worse.gates if g.verdict is Verdict.FAIL} == {"metric_floor"}

    asked = ann.promotions.request(MODEL, version, alias, good)
    assert asked.state is PromotionState.AWAITING_APPROVAL
    for refused, reason in ((ann, "approver"), (robot, "service")):
        with pytest.raises(Forbidden, match=reason):
            refused.promotions.approve(asked.promotion_id)
    with pytest.raises(Conflict, match="look at it again"):
        bob.promotions.approve(asked.promotion_id, worse.subject_digest)
    late = ann.promotions.request(MODEL, 1, alias, good)
    live_now = bob.promotions.approve(asked.promotion_id, asked.subject_digest)
    assert live_now.state is PromotionState.LIVE
    with pytest.raises(Conflict):
        bob.promotions.approve(asked.promotion_id, asked.subject_digest)  # replayed
    with pytest.raises(StaleGeneration):
        bob.promotions.approve(late.promotion_id)
    assert ann.aliases.get(MODEL, alias).version == version

    told = [e.action for e in bob.audit.list(100, f"{MODEL}@{alias}")][::-1]
    assert told.count("promotion.request") == 3
    assert [a for a in told if a in ("promotion.approve", "promotion.live")] == ["promotion.approve", "promotion.live"]
    assert bob.audit.verify().intact


def test_the_audit_log_is_checked_where_there_is_no_platform(live: Live, tmp_path: Path) -> None:
    file, key = tmp_path / "audit.jsonl", live.rayplat.home / "keys" / keys.PUBLIC
    written = live.rayplat.json("audit", "export", str(file))
    checked = live.rayplat.json("audit", "verify", str(file), "--public-key", str(key))
    assert (checked["problem"], checked["entries"], checked["signatures"]) == (None, written["entries"], True)
    lines = file.read_bytes().splitlines(keepends=True)
    entry = next(n for n, line in enumerate(lines) if b"promotion.approve" in line)
    (tmp_path / "cut.jsonl").write_bytes(b"".join(lines[:entry] + lines[entry + 1 :]))
    done = live.rayplat.run("audit", "verify", str(tmp_path / "cut.jsonl"), "--json")
    assert done.returncode == 1
    seq = json.loads(lines[entry])["body"]["seq"]
    assert json.loads(done.stdout)["problem"]["seq"] == seq


def test_an_mlflow_registry_is_imported(live: Live, tmp_path: Path) -> None:
    prepare_mlflow()
    name, uri = f"old-{secrets.token_hex(3)}", f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = mlflow.MlflowClient(uri, uri)
    experiment = client.create_experiment("old", (tmp_path / "files").as_uri())
    client.create_registered_model(name)
    for n in (1, 2):
        run = client.create_run(experiment)
        save_file({"w": np.full(3, n, np.float32)}, tmp_path / "model.safetensors")
        client.log_artifact(run.info.run_id, str(tmp_path / "model.safetensors"), "model")
        client.create_model_version(name, f"{run.info.artifact_uri}/model", run.info.run_id)
    client.set_registered_model_alias(name, "champion", "2")
    before = [(v.version, v.source) for v in client.search_model_versions(f"name='{name}'")]

    (adopted,) = live.rayplat.json("model", "import", uri, "--models", name)
    assert [v["version"] for v in adopted["versions"]] == [1, 2]
    assert [(a["alias"], a["version"]) for a in adopted["aliases"]] == [("champion", 2)]
    assert adopted["refused"] == []
    assert live.rayplat.json("model", "verify", name, "2")["files"] == 1
    (again,) = live.rayplat.json("model", "import", uri, "--models", name)
    assert not any(v["new"] for v in again["versions"])
    assert [(v.version, v.source) for v in client.search_model_versions(f"name='{name}'")] == before
