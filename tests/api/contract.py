"""What a client may rely on, whichever way it reaches the platform. Subclasses give ``platform`` and ``model``:
a registered model with two versions or more whose ``champion`` is set. Results and errors are the same both ways.
"""

from __future__ import annotations

import secrets
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from rayplat.errors import (
    AlreadyExists,
    BadRows,
    Conflict,
    Forbidden,
    InvalidInput,
    InvalidName,
    NotFound,
    StaleGeneration,
)
from rayplat.services.audit import verify_file
from rayplat.types import (
    AliasHead,
    ChangeCount,
    Evidence,
    GateSpec,
    Ingested,
    ModelDiff,
    ModelVersion,
    ParityEvidence,
    PromotionState,
    Role,
    SourceSpec,
    Verdict,
    VersionState,
)


class ClientContract:
    def test_models_and_versions(self, platform: Any, model: str) -> None:
        assert model in platform.models.list()
        versions = platform.models.versions(model)
        assert isinstance(versions, tuple)
        assert all(isinstance(v, ModelVersion) for v in versions)
        assert [v.version for v in versions] == sorted((v.version for v in versions), reverse=True)
        assert platform.models.version(model, versions[0].version) == versions[0]

    def test_alias_and_history(self, platform: Any, model: str) -> None:
        head = platform.aliases.get(model, "champion")
        assert isinstance(head, AliasHead)
        assert head in platform.aliases.list(model)
        history = platform.aliases.history(model, "champion")
        assert history[0] == head
        assert [h.generation for h in history] == sorted((h.generation for h in history), reverse=True)
        assert head.moved_at.tzinfo is not None

    def test_what_does_not_exist(self, platform: Any, model: str) -> None:
        with pytest.raises(NotFound, match="no-such-model"):
            platform.models.versions("no-such-model")
        with pytest.raises(NotFound):
            platform.models.version(model, 999_999)
        with pytest.raises(NotFound):
            platform.aliases.get(model, "no-such-alias")
        with pytest.raises(NotFound):
            platform.tables.get("no_such_table")
        with pytest.raises(NotFound):
            platform.runs.get("0" * 32)
        with pytest.raises(NotFound):
            platform.promotions.get("no-such-promotion")

    @pytest.mark.parametrize("alias", ["v2", "7", "latest"])
    def test_an_alias_that_would_shadow_a_version(self, platform: Any, model: str, alias: str) -> None:
        with pytest.raises(InvalidName, match="shadow"):
            platform.promotions.request(model, 1, alias)

    def test_a_promotion_waits_for_evidence_and_is_refused_on_bad_evidence(self, platform: Any, model: str) -> None:
        newest = platform.models.versions(model)[0].version
        asked = platform.promotions.request(model, newest, "contract-candidate")
        assert asked.state is PromotionState.VERIFIED
        assert asked.verification.intact
        assert asked.verification.signed
        assert platform.promotions.get(asked.promotion_id) == asked == platform.promotions.verify(asked.promotion_id)
        refused = platform.promotions.evidence(asked.promotion_id, Evidence("no digest", 3, {"auc": 0.2}))
        assert refused.state is PromotionState.REJECTED
        assert {g.gate for g in refused.gates if g.verdict is Verdict.FAIL} >= {"pinned_dataset", "enough_rows"}
        with pytest.raises(Conflict, match="rejected"):
            platform.promotions.cancel(asked.promotion_id)

    def test_a_promotion_is_withdrawn(self, platform: Any, model: str) -> None:
        newest = platform.models.versions(model)[0].version
        asked = platform.promotions.request(model, newest, "contract-withdrawn")
        assert asked in platform.promotions.list(model, asked.state)
        assert platform.promotions.cancel(asked.promotion_id, "asked too early").state is PromotionState.CANCELLED

    def test_policies_and_gates(self, platform: Any, model: str) -> None:
        gates = {gate.gate: gate for gate in platform.policies.gates()}
        assert gates["metric_floor"].params == {"metric": "auc", "floor": 0.6}
        built_in = platform.policies.get(model, "contract-policy")
        assert (built_in.protected, built_in.model) == (True, "*")
        wanted = (GateSpec("metric_floor", {"metric": "auc", "floor": 0.5}),)
        stored = platform.policies.set(model, "contract-policy", gates=wanted, min_approvals=2)
        assert (stored.gates, stored.min_approvals, stored.protected) == (wanted, 2, True)
        assert platform.policies.get(model, "contract-policy") == stored
        assert stored in platform.policies.list()
        with pytest.raises(InvalidInput, match="nope"):
            platform.policies.set(model, "contract-policy", gates=(GateSpec("nope"),))
        assert platform.policies.remove(model, "contract-policy") is None
        with pytest.raises(NotFound):
            platform.policies.remove(model, "contract-policy")

    def test_a_free_alias(self, platform: Any, model: str) -> None:
        newest, *_, oldest = platform.models.versions(model)
        with pytest.raises(Forbidden, match="protected"):
            platform.aliases.set(model, "contract-free", oldest.version)
        platform.policies.set(model, "contract-free", protected=False, gates=(), min_approvals=0)
        try:
            first = platform.aliases.set(model, "contract-free", oldest.version)
            second = platform.aliases.set(model, "contract-free", newest.version, expected_generation=first.generation)
            with pytest.raises(StaleGeneration):
                platform.aliases.set(model, "contract-free", oldest.version, expected_generation=first.generation)
            assert platform.aliases.at(model, "contract-free", first.moved_at) == first
            assert platform.aliases.at(model, "contract-free", first.moved_at - timedelta(days=1)) is None
            with pytest.raises(Conflict, match="contract-free"):
                platform.models.retire(model, newest.version, "no longer wanted")
            removed = platform.aliases.remove(model, "contract-free")
            assert (removed.removed, removed.generation) == (True, second.generation + 1)
            assert platform.aliases.history(model, "contract-free")[:2] == (removed, second)
            with pytest.raises(NotFound):
                platform.aliases.get(model, "contract-free")
        finally:
            platform.policies.remove(model, "contract-free")

    def test_a_version_is_signed_and_what_the_record_says(self, platform: Any, model: str) -> None:
        for version in platform.models.versions(model)[:2]:
            found = platform.models.verify(model, version.version)
            assert (found.digest, found.version) == (version.digest, version.version)
            assert found.files >= 1
            assert version.format
            assert version.statement in {a.digest for a in platform.artifacts.list(kind="statement")}

    def test_a_version_is_pinned_retired_and_restored(self, platform: Any, model: str) -> None:
        champion = platform.aliases.get(model, "champion").version
        other = next(v.version for v in platform.models.versions(model) if v.version != champion)
        pin = platform.models.pin(model, other, "compared in a paper")
        assert platform.models.pins(model, other) == (pin,)
        with pytest.raises(Conflict, match="compared in a paper"):
            platform.models.delete(model, other, "space is short")
        assert platform.models.unpin(model, other) is None
        assert platform.models.retire(model, other, "superseded").state is VersionState.RETIRED
        with pytest.raises(Conflict, match="retired"):
            platform.promotions.request(model, other, "contract-retired")
        assert platform.models.restore(model, other, "it is needed again").state is VersionState.ACTIVE
        with pytest.raises(Conflict, match="champion"):
            platform.models.retire(model, champion, "no")

    def test_two_versions_are_compared(self, platform: Any, model: str) -> None:
        newest, other, *_ = platform.models.versions(model)
        found = platform.models.diff(f"{model}/{other.version}", f"{model}/{newest.version}")
        assert isinstance(found, ModelDiff)
        assert any(d.name == "digest" for d in found.identity)
        assert found.files
        champion = platform.models.diff(f"{model}@champion", f"{model}@champion")
        assert (champion.identity, champion.files) == ((), ())
        for wrong in (model, f"{model}/", f"{model}/x", "a@b@c"):
            with pytest.raises(InvalidInput, match="champion"):
                platform.models.diff(wrong, f"{model}/1")

    def test_owners(self, platform: Any, model: str) -> None:
        made = platform.owners.set("model", model, "ada", team="flights")
        assert (made.owner, made.team) == ("ada", "flights")
        assert platform.owners.get("model", model) == made
        assert made in platform.owners.list("model", "ada")
        for kind, name in (("model", "no-such-model"), ("table", "no_such_table")):
            with pytest.raises(NotFound):
                platform.owners.set(kind, name, "ada")

    def test_audit(self, platform: Any, model: str) -> None:
        entries = platform.audit.list(limit=5)
        assert [e.seq for e in entries] == sorted((e.seq for e in entries), reverse=True)
        of_model = platform.audit.list(subject=f"{model}/1")
        assert {e.action for e in of_model} >= {"model.register", "model.sign"}

    def test_an_audit_export_is_checked_anywhere(self, platform: Any, tmp_path: Path) -> None:
        assert platform.audit.verify().intact
        written = platform.audit.export(tmp_path / "audit.jsonl")
        report = verify_file(tmp_path / "audit.jsonl")
        assert (report.intact, report.entries) == (True, written.entries)
        lines = (tmp_path / "audit.jsonl").read_text().splitlines(keepends=True)
        (tmp_path / "edited.jsonl").write_text("".join(lines).replace("model.register", "model.retire", 1))
        assert not verify_file(tmp_path / "edited.jsonl").intact
        with pytest.raises(AlreadyExists):
            platform.audit.export(tmp_path / "audit.jsonl")

    def test_mlflow_says_what_the_record_says(self, platform: Any) -> None:
        assert platform.aliases.drift() == ()
        assert platform.aliases.repair() == ()

    def test_garbage_collection_is_a_dry_run_unless_told_otherwise(self, platform: Any, model: str) -> None:
        report = platform.artifacts.gc()
        assert report.dry_run
        assert platform.models.versions(model)[0].digest not in {*report.condemned, *report.deleted}
        with pytest.raises(InvalidInput, match="keep_hours"):
            platform.artifacts.gc(keep_hours=-1.0)

    def test_waivers(self, platform: Any) -> None:
        digest = "sha256:" + "e" * 64  # of nobody's model: who made one may not waive it
        made = platform.waivers.create(digest, "reviewed line by line by two people")
        assert made in platform.waivers.list()
        assert platform.waivers.revoke(made.waiver_id, "no longer needed by anybody").revoked_at is not None
        with pytest.raises(InvalidInput, match="reason"):
            platform.waivers.create(digest, "why not")

    def test_webhooks(self, platform: Any) -> None:
        made = platform.webhooks.create("https://receiver.invalid/hook", ("promotion.*",))
        assert made.secret.startswith("whsec_")
        assert made.webhook in platform.webhooks.list()
        assert platform.webhooks.replay(made.webhook.webhook_id, 1).position == 0
        assert platform.webhooks.test(made.webhook.webhook_id) is None
        assert platform.webhooks.delete(made.webhook.webhook_id) is None
        with pytest.raises(InvalidInput, match="https"):
            platform.webhooks.create("http://169.254.169.254/", ("*",))
        with pytest.raises(NotFound):
            platform.webhooks.delete("wh-none")

    def test_tables(self, platform: Any) -> None:
        assert isinstance(platform.tables.list(), tuple)
        with pytest.raises(InvalidInput, match="limit"):
            platform.tables.head("any", limit=0)

    def test_a_table_is_filled_pinned_and_kept_fit(self, platform: Any, tmp_path: Path) -> None:
        name = f"contract-{secrets.token_hex(4)}"
        (tmp_path / "a.csv").write_text("id,at\n1,2024-05-01T10:00:00Z\n2,2024-05-02T10:00:00Z\n")
        source = SourceSpec("orders", "csv", str(tmp_path), {"id": "int64", "at": "timestamp"})
        rules = {"unique": [["id"]]}
        first = platform.tables.ingest(name, source, checks=rules)
        assert isinstance(first, Ingested)
        assert (first.rows, first.table.table) == (2, name)
        assert platform.tables.ingest(name, source).rows == 0
        (tmp_path / "b.csv").write_text("id,at\n2,2024-05-03T10:00:00Z\n")
        with pytest.raises(BadRows, match="1 of 1 rows break 'unique' of id, such as id=2") as caught:
            platform.tables.ingest(name, source)
        assert caught.value.violations[0]["samples"] == [{"id": 2}]
        (tmp_path / "b.csv").write_text("id,at\n3,2024-05-03T10:00:00Z\n")
        assert platform.tables.ingest(name, source).rows == 1
        assert platform.tables.checks(name)["unique"] == [["id"]]
        assert platform.tables.changes(name, 0) == ChangeCount(name, 0, 2, 3, 0)
        pin = platform.tables.pin(name, 1, reason="trained on")
        assert platform.tables.pins(name) == (pin,)
        compacted = platform.tables.compact(name)
        assert (compacted.version, compacted.row_count) == (3, 3)
        report = platform.tables.vacuum(name, keep_days=0)
        assert (report.dry_run, report.pinned, report.kept_from) == (True, (1,), 3)
        assert platform.tables.unpin(name, 1) is None
        with pytest.raises(NotFound, match="pin"):
            platform.tables.unpin(name, 1)
        with pytest.raises(InvalidInput, match="kind"):
            platform.tables.ingest(name, SourceSpec("orders", "xml", "x"))

    def test_features(self, platform: Any, model: str) -> None:
        for ask in (
            lambda: platform.features.get("no-such-view"),
            lambda: platform.features.versions("no-such-view"),
            lambda: platform.features.build("no-such-view"),
            lambda: platform.features.refresh("no-such-view"),
            lambda: platform.features.materialize(("no-such-view",)),
            lambda: platform.features.read("no-such-view", ("k",)),
            lambda: platform.features.training_sets("no-such-view"),
            lambda: platform.features.training_set(
                "set", service="no-such-view", table="t", event_time="at", label="late"
            ),
        ):
            with pytest.raises(NotFound, match="no-such-view"):
                ask()
        assert isinstance(platform.features.training_sets(), tuple)
        with pytest.raises(NotFound, match=f"{model}/999999. does not exist"):
            platform.features.parity(model, 999_999)
        with pytest.raises(InvalidInput, match=r"views\[0\]"):
            platform.features.apply(views=({"name": "half"},))
        with pytest.raises(InvalidInput, match="there are none"):
            platform.features.apply()

    def test_parity_is_a_part_of_the_evidence(self, platform: Any, model: str) -> None:
        newest = platform.models.versions(model)[0].version
        evidence = Evidence("sha256:" + "a" * 64, 10, {"auc": 0.7})
        wanted = (GateSpec("pinned_dataset"), GateSpec("feature_parity", {"max_mismatch": 0.001, "min_vectors": 100}))
        platform.policies.set(model, "contract-parity", gates=wanted)
        asked = platform.promotions.request(model, newest, "contract-parity", evidence, ParityEvidence(200, 1))
        assert asked.evidence == replace(evidence, parity=ParityEvidence(200, 1))
        assert platform.promotions.get(asked.promotion_id) == asked
        assert {g.gate: g.verdict for g in asked.gates}["feature_parity"] is Verdict.FAIL
        with pytest.raises(InvalidInput, match="give the evidence too"):
            platform.promotions.request(model, newest, "contract-parity", parity=ParityEvidence(200, 1))

    def test_runs(self, platform: Any) -> None:
        runs = platform.runs.list(limit=1)
        assert len(runs) == 1
        with pytest.raises(InvalidInput, match="two runs"):
            platform.runs.compare((runs[0].run_id,))

    def test_tokens(self, platform: Any) -> None:
        made = platform.tokens.create("contract-person", Role.VIEWER)
        assert made.secret.startswith("rpt_")
        assert made.info in platform.tokens.list()
        assert platform.tokens.revoke(made.info.token_id) is None
        with pytest.raises(NotFound):
            platform.tokens.revoke("no-such-token")
