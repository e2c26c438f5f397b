"""What a client may rely on, whichever way it reaches the platform. Subclasses give ``platform`` and ``model``:
a registered model with two versions or more whose ``champion`` is set. Results and errors are the same both ways.
"""

from __future__ import annotations

import secrets
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rayplat.errors import BadRows, InvalidInput, InvalidName, NotFound
from rayplat.types import (
    AliasHead,
    ChangeCount,
    Evidence,
    Ingested,
    ModelVersion,
    ParityEvidence,
    PromotionState,
    Role,
    SourceSpec,
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

    def test_a_promotion_without_evidence_is_rejected(self, platform: Any, model: str) -> None:
        newest = platform.models.versions(model)[0].version
        asked = platform.promotions.request(model, newest, "contract-candidate")
        assert asked.state is PromotionState.REJECTED
        assert platform.promotions.get(asked.promotion_id) == asked

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
        asked = platform.promotions.request(model, newest, "contract-parity", evidence, ParityEvidence(200, 1))
        assert asked.evidence == replace(evidence, parity=ParityEvidence(200, 1))
        assert platform.promotions.get(asked.promotion_id) == asked
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
