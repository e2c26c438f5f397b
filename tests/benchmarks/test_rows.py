"""Rows: what holds, what a failed run looks like, what is kept out of the raw files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import rows

DEMO: dict[str, Any] = {
    "steps": [{"step": "ingest", "seconds": 8.25}, {"step": "train", "seconds": 60.0}],
    "auc": {"champion": 0.684, "challenger": 0.727},
    "replay": {"requests": 1200, "answered": 1200, "failed": 0, "by_version": {"1": 500, "2": 700}},
    "inference_log": {"requests": 1200, "rows": 1200},
    "drift": [{"quality": {"auc": 0.71, "labelled": 1000}}],
    "seconds": 200.0,
}


def built(demo: dict[str, Any] = DEMO, **changed: Any) -> dict[str, rows.Row]:
    values: dict[str, Any] = {"wall_s": 210.0, "peak_pss_bytes": 4 << 30, "import_s": 0.2, "left": 0} | changed
    return {r.metric: r for r in rows.demo_rows(demo, **values, command="make bench-demo")}


@pytest.mark.parametrize(
    ("value", "target", "holds"),
    [(300, "<= 300", True), (300.1, "<= 300", False), (0.66, ">= 0.66", True), (1, "= 0", False), (None, "= 0", False)],
)
def test_a_row_judges_itself(value: float | None, target: str, holds: bool) -> None:
    assert rows.row("m", value, "s", target, "c").holds is holds


def test_a_good_demo_holds_everywhere() -> None:
    found = built()
    assert all(r.holds for r in found.values() if r.target)
    assert found["peak memory (summed PSS)"].value == 4.0
    assert found["largest ROC AUC anywhere"].value == 0.727
    assert (found["step: train"].value, found["step: train"].holds) == (60.0, None)


@pytest.mark.parametrize(
    ("part", "changed", "metric"),
    [
        ("auc", {"champion": 0.65, "challenger": 0.72}, "holdout ROC AUC, champion"),
        ("drift", [{"quality": {"auc": 0.93}}], "largest ROC AUC anywhere"),
        ("replay", DEMO["replay"] | {"failed": 1}, "requests failed"),
        ("replay", DEMO["replay"] | {"by_version": {"1": 500}}, "answers without a version"),
        ("inference_log", {"requests": 1199, "rows": 1199}, "requests logged minus answered"),
    ],
)
def test_each_promise_can_fail(part: str, changed: Any, metric: str) -> None:
    failed = [r.metric for r in built(DEMO | {part: changed}).values() if r.holds is False]
    assert failed == [metric]


def test_a_failed_demo_leaves_rows_without_values() -> None:
    found = built({}, wall_s=None, peak_pss_bytes=None)
    assert found["demo wall time"].value is None
    assert found["requests failed"].holds is False
    assert "not measured" in rows.show(list(found.values()))


def test_files_hold_rows_and_raw_without_places_and_tokens(tmp_path: Path) -> None:
    home = Path("/somewhere/home")
    raw = {"address": f"{home}/tables", "token": "rpt_0123456789ab_ff"}
    rows.write("demo", built().values(), raw, home, tmp_path)
    stored = json.loads((tmp_path / "demo.json").read_text())
    assert set(stored[0]) == {"metric", "value", "unit", "target", "holds", "peers", "command"}
    assert json.loads((tmp_path / "demo.raw.json").read_text()) == {"address": "<home>/tables", "token": "rpt_…"}


def test_suite_rows_name_the_slowest_tests() -> None:
    found = rows.suite_rows(40.0, 950.0, 0, 300, [("tests.e2e::test_demo", 200.0)], "make bench-test")
    assert [r.holds for r in found] == [True, False, True, True, None]
    assert found[-1].metric == "slow test: tests.e2e::test_demo"
