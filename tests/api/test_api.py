"""The control API: who may call what, and what bad input gets."""

from __future__ import annotations

import re
from typing import Any

import httpx
import pytest

from rayplat.services.catalog import NOUNS
from rayplat.services.verbs import Verb, verbs
from rayplat.types import Role
from tests.api.conftest import Served

ALL: list[Verb] = [verb for noun in NOUNS for verb in verbs(noun)]


@pytest.mark.parametrize("token", [None, "rubbish", "rpt_" + "a" * 12 + "_" + "b" * 64])
def test_every_route_but_health_needs_a_token(served: Served, token: str | None) -> None:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    open_routes = set()
    with httpx.Client(base_url=served.url, headers=headers) as http:
        for path, methods in served.app.openapi()["paths"].items():
            for method in methods:
                answer = http.request(method, re.sub(r"{\w+}", "x", path))
                if answer.status_code != 401:
                    open_routes.add(path)
        assert http.post("/v2/models/x/infer", json={}).status_code == 401
    assert open_routes == {"/v2/health/live", "/v2/health/ready"}


def test_every_verb_is_a_documented_route(served: Served) -> None:
    paths = served.app.openapi()["paths"]
    for verb in ALL:
        route = paths[f"/api/v1{verb.route.path}"][verb.route.method.lower()]
        assert route["summary"]
        assert str(verb.route.role) in route["description"]


def test_the_page_of_routes_needs_nothing_from_elsewhere(served: Served) -> None:
    with httpx.Client(base_url=served.url) as http:
        page = http.get("/api/v1/docs")
        assert page.status_code == 200
        loaded = re.findall(r"""(?:src|href)=["']([^"']+)""", page.text)
        assert len(loaded) >= 2
        for path in loaded:
            answer = http.get(path)  # an absolute address would go elsewhere
            assert path.startswith("/api/v1/docs/static/")
            assert (answer.status_code, len(answer.content) > 100) == (200, True)


@pytest.mark.parametrize("verb", [v for v in ALL if v.route.role is not Role.VIEWER], ids=lambda v: v.route.path)
def test_a_lower_role_is_refused(served: Served, verb: Verb) -> None:
    lower = list(Role)[list(Role).index(verb.route.role) - 1]
    with served.http(lower) as http:
        answer = http.request(verb.route.method, "/api/v1" + re.sub(r"{\w+}", "1", verb.route.path))
    assert answer.status_code == 403
    assert answer.json()["code"] == "Forbidden"
    assert str(verb.route.role) in answer.json()["error"]


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        ("/promotions", "{not json", 400, "not valid JSON"),
        ("/promotions", '{"model": "m"}', 422, "version"),
        ("/promotions", '{"model": "m", "version": 1, "alias": "c", "extra": 1}', 422, "extra"),
        ("/promotions", '{"model": "m", "version": 1, "alias": "v2"}', 422, "shadow a version"),
        ("/promotions", '{"model": "m", "version": 9, "alias": "champion"}', 404, "m/9"),
        (
            "/promotions",
            '{"model": "m", "version": 1, "alias": "c", "evidence": {"dataset": "d", "rows": NaN, "candidate": {}}}',
            422,
            "rows",
        ),
        ("/promotions", "[" * 5000, 400, "parsing the body"),
        ("/promotions/p9/approve", "{}", 404, "p9"),
        ("/tokens", '{"principal": "ada", "role": "emperor"}', 422, "role"),
    ],
)
def test_bad_bodies(served: Served, path: str, body: str, status: int, said: str) -> None:
    with served.http() as http:
        answer = http.post(f"/api/v1{path}", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == status, answer.text
    assert said in answer.json()["error"]


def test_a_form_body_is_refused_by_name(served: Served) -> None:
    with served.http() as http:
        answer = http.post("/api/v1/promotions", data={"model": "m"})
    assert answer.status_code == 400
    assert "application/json" in answer.json()["error"]


def test_a_large_body_is_refused_before_it_is_read(served: Served) -> None:
    with served.http() as http:
        answer = http.post("/api/v1/promotions", content=b"x" * (5 << 20), headers={"Content-Type": "application/json"})
    assert answer.status_code == 413


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/models/nope/versions", 404),
        ("/models/m/versions/9", 404),
        ("/models/m/versions/many", 422),
        ("/models/m/aliases/nope", 404),
        ("/models/m/aliases/v2", 404),
        ("/tables/nope", 404),
        ("/tables/..%2F..%2Fetc", 404),
        ("/runs/nope", 404),
        ("/nope", 404),
    ],
)
def test_what_does_not_exist(served: Served, path: str, status: int) -> None:
    with served.http() as http:
        answer = http.get(f"/api/v1{path}")
    assert answer.status_code == status, answer.text
    assert set(answer.json()) >= {"error", "code"}


def test_a_missing_metric_is_null_in_json(served: Served) -> None:
    with served.http() as http:
        found: list[dict[str, Any]] = http.get("/api/v1/runs").json()
    assert found[0]["metrics"] == {"auc": None}


def test_a_model_without_a_host(served: Served) -> None:
    with served.http() as http:
        answer = http.post("/v2/models/m/infer", json={})
    assert answer.status_code == 404
    assert "no alias of it is served" in answer.json()["error"]


def test_health_is_open(served: Served) -> None:
    with served.http(None) as http:
        assert http.get("/v2/health/ready").json() == {"live": True}
