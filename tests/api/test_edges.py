"""Numbers outside what is stored, and names that nothing has: a 4xx that names them, never a 500."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from tests.api.conftest import Served

HUGE = 10**20


@pytest.fixture(scope="module")
def table(served: Served) -> str:
    served.context.tables.create("flights", pa.table({"a": [1, 2]}))
    return "flights"


@pytest.mark.parametrize("number", [HUGE, 2**31, -1, -HUGE])
def test_a_table_version_outside_all_numbers(served: Served, table: str, number: int) -> None:
    with served.http() as http:
        for verb in ("version", "rows"):
            answer = http.get(f"/api/v1/tables/{table}/{verb}", params={"version": number})
            assert answer.status_code == 404, answer.text
            assert str(number) in answer.json()["error"]


@pytest.mark.parametrize("limit", [HUGE, 0, -HUGE])
@pytest.mark.parametrize("path", ["/tables/flights/rows", "/runs"])
def test_a_limit_outside_its_bounds(served: Served, table: str, path: str, limit: int) -> None:
    with served.http() as http:
        answer = http.get(f"/api/v1{path}", params={"limit": limit})
    assert answer.status_code == 422, answer.text
    assert "limit" in answer.json()["error"]


def test_a_model_version_outside_all_numbers(served: Served) -> None:
    with served.http() as http:
        assert http.get(f"/api/v1/models/m/versions/{HUGE}").status_code == 404
        wanted = {"model": "m", "version": HUGE, "alias": "champion"}
        assert http.post("/api/v1/promotions", json=wanted).status_code == 404


@pytest.mark.parametrize("path", ["/monitors/nope/reports", "/promotions?model=nope"])
def test_a_list_of_an_unknown_model_is_not_empty_but_missing(served: Served, path: str) -> None:
    with served.http() as http:
        answer = http.get(f"/api/v1{path}")
    assert answer.status_code == 404, answer.text
    assert answer.json()["args"][:2] == ["model", "nope"]


def test_promotions_of_a_model(served: Served) -> None:
    with served.http() as http:
        found: list[dict[str, Any]] = http.get("/api/v1/promotions", params={"model": "m"}).json()
    assert isinstance(found, list)


def test_an_endpoint_that_is_not_served_says_how_to_serve_it(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    from rayplat.serve.deployment import deploy

    monkeypatch.setattr(deploy, "endpoints", lambda url: [])
    with served.http() as http:
        answer = http.get("/api/v1/endpoints/m/champion")
    assert answer.status_code == 404
    assert "`rayplat serve create m champion`" in answer.json()["error"]
