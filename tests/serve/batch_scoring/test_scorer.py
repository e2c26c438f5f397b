"""Plans and workers of batch scoring, without a cluster."""

from __future__ import annotations

import pickle
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from rayplat.data.tables import Tables
from rayplat.errors import Corrupt, InvalidInput, InvalidName, SchemaMismatch
from rayplat.serve.batch_scoring.plan import Plan, ScoreRequest
from rayplat.serve.batch_scoring.scorer import Scorer, Task
from rayplat.settings import Settings
from tests.serve.batch_scoring.fakes import DIGEST, TwiceLoader, numbers

NOW = datetime(2013, 11, 1, tzinfo=UTC)
REQUEST = ScoreRequest("numbers", "twice", "scores", keys=("id",), part_rows=40, batch_rows=16)


@pytest.fixture
def tables(settings: Settings) -> Tables:
    return Tables(settings.tables_uri)


def _plan(tables: Tables, request: ScoreRequest = REQUEST, rows: int = 100) -> Plan:
    return Plan("job-1", request, tables.version("numbers"), "twice", 1, DIGEST, "champion", 3, rows, NOW)


def _task(tables: Tables, data: Any, request: ScoreRequest = REQUEST) -> Task:
    tables.create("numbers", data)
    plan = _plan(tables, request, data.num_rows)
    return Task(plan, tables.scan(plan.table), tables, TwiceLoader())


@pytest.mark.parametrize(
    ("table", "model", "expected"),
    [
        ("flights", "m", (("flights", None), ("m", None))),
        ("flights@7", "m@challenger", (("flights", 7), ("m", "challenger"))),
        ("flights@0", "m@12", (("flights", 0), ("m", 12))),
    ],
)
def test_tables_and_models_are_named_with_versions_and_aliases(table: str, model: str, expected: Any) -> None:
    request = ScoreRequest(table, model, "out")
    assert (request.input, request.target) == expected


@pytest.mark.parametrize(
    "wrong",
    [
        {"table": "flights@new"},
        {"table": "No Such"},
        {"output": "flights"},
        {"output": "Bad Name"},
        {"model": "m@"},
        {"limit": 0},
        {"part_rows": 0},
        {"batch_rows": -1},
        {"keys": ("error",)},
    ],
)
def test_what_cannot_be_asked_is_refused_by_field(wrong: dict[str, Any]) -> None:
    with pytest.raises((InvalidInput, InvalidName)):
        ScoreRequest(**({"table": "flights", "model": "m", "output": "out"} | wrong))


def test_a_plan_is_read_back_as_it_was_noted(tables: Tables) -> None:
    tables.create("numbers", numbers(5))
    plan = replace(_plan(tables), views={"v": tables.version("numbers")}, view_digests={"v": "sha256:1"}, entity="id")
    assert Plan.from_json(plan.to_json()) == plan
    assert [plan.span(part) for part in range(plan.parts)] == [(0, 40), (40, 40), (80, 20)]


def test_the_same_question_is_known_again_however_it_is_cut() -> None:
    assert REQUEST.digest() == replace(REQUEST, part_rows=7, batch_rows=3).digest()
    assert REQUEST.digest() != replace(REQUEST, limit=5).digest()


def test_a_part_is_written_with_keys_predictions_and_who_made_them(tables: Tables) -> None:
    scorer = Scorer(_task(tables, numbers(100)))
    answer = scorer(pa.table({"part": [1]}))
    done = pickle.loads(answer["done"][0].as_py())
    assert (done.part, done.scored, done.failed) == (1, 40, 0)
    tables.adopt("scores", done.written, transaction=("job-1", 1))
    found = tables.read("scores")
    assert found.column_names == [
        "id",
        "y",
        "row",
        "model_version",
        "model_alias",
        "scored_at",
        "job_id",
        "error",
    ]
    assert found["row"].to_pylist() == found["id"].to_pylist() == list(range(40, 80))
    assert found["y"].to_pylist() == [2 * (i + 100.0) for i in range(40, 80)]
    assert set(found["model_version"].to_pylist()) == {1}
    assert set(found["model_alias"].to_pylist()) == {"champion"}
    assert found["error"].null_count == 40


def test_rows_that_cannot_be_scored_stay_with_their_reason(tables: Tables) -> None:
    x = np.arange(40, dtype=np.float64)
    data = pa.table({"id": np.arange(40), "x": pa.array([None if v == 5 else v for v in x])})
    done = Scorer(_task(tables, data)).part(0)
    assert (done.scored, done.failed) == (37, 3)
    tables.adopt("scores", done.written, transaction=("job-1", 0))
    found = tables.read("scores").to_pylist()
    reasons = {row["id"]: row["error"] for row in found if row["error"]}
    assert sorted(reasons) == [5, 13, 17]
    assert "missing" in reasons[5]
    assert reasons[13] == "the model failed: ValueError: thirteen"
    assert "0,) values for 1 rows" in reasons[17]
    assert all((row["y"] is None) == (row["id"] in reasons) for row in found)
    assert all(row["y"] == 2 * row["id"] for row in found if row["id"] not in reasons)


def test_a_model_that_fails_for_everything_is_not_asked_for_ever(tables: Tables) -> None:
    data = pa.table({"id": np.arange(3000), "x": np.full(3000, 13.0)})
    scorer = Scorer(_task(tables, data, replace(REQUEST, part_rows=3000, batch_rows=3000)))
    done = scorer.part(0)
    assert (done.scored, done.failed) == (0, 3000)
    assert scorer._loaded.predictor.calls < 1000  # type: ignore[attr-defined]


def test_a_table_without_the_model_s_columns_is_refused(tables: Tables) -> None:
    scorer = Scorer(_task(tables, pa.table({"id": [1], "z": [1.0]})))
    with pytest.raises(SchemaMismatch, match="'numbers' has no such column, there are id, z"):
        scorer.part(0)


def test_a_key_may_not_have_the_name_of_an_output(tables: Tables) -> None:
    data = numbers(5).append_column("y", pa.array([0] * 5))
    scorer = Scorer(_task(tables, data, replace(REQUEST, keys=("y",))))
    with pytest.raises(InvalidInput, match="'y' is an output"):
        scorer.part(0)


def test_a_model_that_does_not_load_is_told_of_by_the_first_part(tables: Tables) -> None:
    scorer = Scorer(replace(_task(tables, numbers(5)), loader=TwiceLoader(broken=True)))
    with pytest.raises(Corrupt, match="version 1"):
        scorer.part(0)
    (told,) = scorer(pa.table({"part": [0]}))["done"].to_pylist()
    assert str(pickle.loads(told)).startswith("version 1 is damaged")
