"""What of the registry's values a person sees in a terminal of 100 columns."""

from __future__ import annotations

from dataclasses import fields
from datetime import timedelta
from typing import Any

import pytest
from rich.console import Console

from rayplat.artifacts.manifest import Entry
from rayplat.cli import render
from rayplat.registry.promotion.policy import builtin
from rayplat.services.artifacts import ArtifactFiles
from rayplat.services.policies import GateInfo
from rayplat.types import (
    AliasHead,
    Approval,
    ArtifactInfo,
    ArtifactProblem,
    AuditProblem,
    AuditReport,
    GateResult,
    GcReport,
    Promotion,
    PromotionState,
    ScoreReport,
    TableVersion,
    Tampering,
    Verdict,
    VerificationEvidence,
    VerifyReport,
    Waiver,
)
from tests.api.fakes import DIGEST, NOW

PROMOTION = Promotion(
    promotion_id="prm-1",
    model="m",
    version=2,
    digest=DIGEST,
    alias="champion",
    expected_generation=4,
    state=PromotionState.VERIFIED,
    requester="ada",
    created_at=NOW,
    subject_digest=DIGEST,
    gates=(GateResult("signed", Verdict.WAIVED, f"no statement about {DIGEST}", "verify"),),
    approvals=(Approval("bob", "approve", DIGEST, NOW),),
    verification=VerificationEvidence(DIGEST, True, False, "onnx", False, False),
    waivers=(Waiver("signed", "bob", "made before signatures", NOW),),
    baseline_version=1,
    live_after=NOW + timedelta(hours=1),
)


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    monkeypatch.setattr(render, "OUT", Console(width=100))

    def lines(value: Any) -> list[str]:
        render.show(value, as_json=False)
        return [line.rstrip() for line in capsys.readouterr().out.splitlines()]

    return lines


def test_a_promotion_says_where_it_stands_and_why(shown: Any) -> None:
    text = "\n".join(shown(PROMOTION))
    assert "m@champion to version 2" in text
    assert "version 1 (generation 4)" in text
    assert "verified, waits for evidence" in text
    assert "intact, not signed, onnx" in text
    assert DIGEST in text  # the subject, to be copied
    assert "no statement about sha256:aaaaaaaaaaaa…" in text
    assert "signed, 2013-11-01 10:00:00 by bob: made before signatures" in text


def test_a_list_of_promotions_has_a_row_each(shown: Any) -> None:
    names, row = shown((PROMOTION,))
    assert names.split()[:2] == ["promotion", "id"]
    assert row.split()[:5] == ["prm-1", "m", "2", "champion", "verified"]


def test_aliases_have_a_row_each(shown: Any) -> None:
    _, row = shown((AliasHead("m", "champion", 2, DIGEST, 5, NOW, "bob", "prm-1"),))
    assert row.split() == ["champion", "2", "5", "2013-11-01", "10:00:00", "bob", "prm-1"]


def test_a_policy_and_the_gates_there_are(shown: Any) -> None:
    text = "\n".join(shown(builtin()))
    assert "the built-in policy" in text
    assert "min_rows=1000" in text
    rows = shown((GateInfo("size_budget", "evaluate", True, {"least": 1}, ("max_bytes",), ""),))
    assert rows[1].split() == ["size_budget", "evaluate", "max_bytes,", "least=1"]


def test_an_audit_report_names_the_first_bad_entry(shown: Any) -> None:
    assert shown(AuditReport(7, "f" * 64, anchors=2, anchored_seq=5))[0].startswith("intact: 7 entries, anchored up to")
    bad = AuditReport(7, "f" * 64, problem=AuditProblem(3, Tampering.EDITED, "its content does not give its hash"))
    assert shown(bad)[0] == "audit entry 3: edited: its content does not give its hash"


def test_an_artifact_and_its_check(shown: Any) -> None:
    info = ArtifactInfo(DIGEST, "model", 3_000_000, "run1", "ada", NOW)
    lines = shown(ArtifactFiles(info, (Entry("data/w", 20, DIGEST),)))
    assert lines[0].split() == ["digest", DIGEST]
    assert lines[1].split() == ["kind", "model,", "3.00", "MB"]
    assert lines[-1].split()[:3] == ["data/w", "20", "B"]
    assert shown(VerifyReport(3, 900, ())) == ["intact: 3 objects, 900 B"]
    damaged = shown(VerifyReport(3, 900, (ArtifactProblem(DIGEST, "data/w", "other bytes"),)))
    assert damaged[0] == "1 of 3 objects are damaged or missing"
    assert damaged[-1].split()[1:] == ["data/w", "other", "bytes"]


def test_a_dry_run_says_would(shown: Any) -> None:
    lines = shown(GcReport(True, (DIGEST,), 2, (), 5, 0, {"alias": 10}, (), True))
    assert lines[0].split() == ["would", "be", "condemned", "1"]
    assert not any("time was up" in line for line in lines)


def test_a_scoring_tells_its_two_tables_and_its_model_apart(shown: Any) -> None:
    def table(name: str, version: int) -> TableVersion:
        said: dict[str, Any] = {"table": name, "version": version}
        return TableVersion(**{field.name: said.get(field.name, 0) for field in fields(TableVersion)})

    found = ScoreReport(
        "score-1", table("flights", 0), table("scored", 1), "m", 2, "champion", 20, 19, 1, 8, 1, 19.5, 19.0, 1000.0, 9e4
    )
    lines = [" ".join(line.split()) for line in shown(found)]
    assert lines[1:4] == ["input flights version 0", "output scored version 1", "model m version 2 (champion)"]
    assert lines[4] == "rows 19 of 20 scored, 1 failed, 8 of them by an earlier run, in 1 parts"
