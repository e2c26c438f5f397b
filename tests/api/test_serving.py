"""Serving specs and the model repository over HTTP: the record is real, Serve and the pool are stood in for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from rayplat.errors import NotFound, PartFailed
from rayplat.registry.record import endpoints
from rayplat.serve.deployment import cluster, deploy
from rayplat.serve.pool import names
from rayplat.serve.pool import start as pool
from rayplat.settings import Settings
from rayplat.types import Endpoint, EndpointSpec, Role
from tests.api.conftest import Served

SPEC = "endpoints:\n- model: m\n  alias: champion\n"


class FakeServe:
    """Which applications run and what the pool holds; ``broken`` models do not start."""

    def __init__(self) -> None:
        self.hosts: dict[str, EndpointSpec] = {}
        self.held: set[tuple[str, str]] = set()
        self.pool = False
        self.broken: set[str] = set()
        self.log: list[str] = []

    def states(self) -> dict[str, str]:
        pool = {names.FRONT: "RUNNING", "rayplat-pool-0": "RUNNING"} if self.pool else {}
        return dict.fromkeys(self.hosts, "RUNNING") | pool

    def deploy(self, settings: Settings, spec: EndpointSpec, serve_url: str) -> None:
        self.log.append(f"deploy {spec.model}/{spec.alias} x{spec.replicas}")
        if spec.model in self.broken:
            raise PartFailed(f"the endpoint {spec.model}--{spec.alias}", "the bundle is damaged")
        self.hosts[deploy.app_name(spec.model, spec.alias)] = spec

    def remove(self, model: str, alias: str) -> None:
        if self.hosts.pop(deploy.app_name(model, alias), None) is None:
            raise NotFound("endpoint", f"{model}/{alias}")
        self.log.append(f"remove {model}/{alias}")

    def endpoints(self, serve_url: str) -> list[Endpoint]:
        return [
            Endpoint(s.model, s.alias, "/r", f"{serve_url}/r", 1, 1, "running", {"r": 1}) for s in self.hosts.values()
        ]

    def ensure(self, settings: Settings) -> None:
        self.pool = True

    def load(self, settings: Settings, model: str, alias: str) -> None:
        self.log.append(f"load {model}/{alias}")
        if model in self.broken:
            raise PartFailed(f"model {model!r}", "the bundle is damaged")
        self.held.add((model, alias))

    def configure(self, settings: Settings, spec: EndpointSpec) -> None:
        self.log.append(f"configure {spec.model}/{spec.alias}")

    def drop(self, settings: Settings, model: str, alias: str) -> None:
        self.log.append(f"drop {model}/{alias}")
        self.held.discard((model, alias))

    def held_states(self) -> list[dict[str, Any]]:
        return [
            {"model": m, "alias": a, "state": "ready", "version": 1, "generation": 1, "worker": "rayplat-pool-0"}
            for m, a in sorted(self.held)
        ]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch, served: Served) -> Iterator[FakeServe]:
    fake = FakeServe()
    monkeypatch.setattr(cluster, "states", fake.states)
    for name in ("deploy", "remove", "endpoints"):
        monkeypatch.setattr(deploy, name, getattr(fake, name))
    for name in ("ensure", "load", "configure", "drop"):
        monkeypatch.setattr(pool, name, getattr(fake, name))
    monkeypatch.setattr(pool, "states", fake.held_states)
    monkeypatch.setattr(pool, "refresh", lambda: None)
    yield fake
    for spec in served.context.registry.read(endpoints.listed):
        served.context.registry.write(endpoints.delete, spec.model, spec.alias, by=served.context.principal)


def apply(served: Served, spec: str, status: int = 200, role: Role = Role.ADMIN, **more: Any) -> Any:
    with served.http(role) as http:
        answer = http.post("/api/v1/endpoints/apply", json={"spec": spec, **more})
    assert answer.status_code == status, answer.text
    return answer.json()


def plan(served: Served, spec: str, prune: bool = False) -> list[tuple[str, str, list[str]]]:
    with served.http(Role.VIEWER) as http:
        answer = http.post("/api/v1/endpoints/plan", json={"spec": spec, "prune": prune})
    assert answer.status_code == 200, answer.text
    return [(s["action"], s["model"], s["reasons"]) for s in answer.json()["steps"]]


def exported(served: Served) -> str:
    with served.http(Role.VIEWER) as http:
        return str(http.get("/api/v1/endpoints/spec").json())


def listed(served: Served) -> list[tuple[str, str, str]]:
    with served.http(Role.VIEWER) as http:
        return [(e["model"], e["placement"], e["status"]) for e in http.get("/api/v1/endpoints").json()]


def test_a_spec_is_applied_exported_and_then_there_is_nothing_to_do(served: Served, serve: FakeServe) -> None:
    assert plan(served, SPEC) == [("create", "m", ["it is not served yet"])]
    assert serve.log == []
    (outcome,) = apply(served, SPEC)["outcomes"]
    assert (outcome["action"], outcome["outcome"]) == ("create", "done")
    assert exported(served) == SPEC
    assert plan(served, exported(served)) == []
    assert apply(served, exported(served))["outcomes"] == []
    assert serve.log == ["deploy m/champion x1"]


def test_replicas_placement_and_prune(served: Served, serve: FakeServe) -> None:
    apply(served, SPEC)
    apply(served, SPEC + "  replicas: 2\n")
    assert serve.hosts["m--champion"].replicas == 2
    apply(served, SPEC + "  placement: pooled\n")
    assert (serve.hosts, serve.held) == ({}, {("m", "champion")})
    assert serve.log[-2:] == ["load m/champion", "remove m/champion"]  # in this order: nothing is refused
    assert listed(served) == [("m", "pooled", "running")]
    apply(served, SPEC)
    assert serve.log[-2:] == ["deploy m/champion x1", "drop m/champion"]
    assert plan(served, "endpoints: []") == []
    apply(served, "endpoints: []", prune=True)
    assert (serve.hosts, exported(served)) == ({}, "endpoints: []\n")


def test_what_does_not_start_is_said_and_leaves_the_record_as_it_was(served: Served, serve: FakeServe) -> None:
    serve.broken.add("m")
    (outcome,) = apply(served, SPEC)["outcomes"]
    assert (outcome["outcome"], outcome["detail"]) == (
        "failed",
        "the endpoint m--champion failed: the bundle is damaged",
    )
    assert exported(served) == "endpoints: []\n"
    serve.broken.clear()
    assert [o["outcome"] for o in apply(served, SPEC)["outcomes"]] == ["done"]
    serve.broken.add("m")
    assert [o["outcome"] for o in apply(served, SPEC + "  replicas: 3\n")["outcomes"]] == ["failed"]
    assert exported(served) == SPEC


def test_what_was_interrupted_is_found_and_completed(served: Served, serve: FakeServe) -> None:
    apply(served, SPEC)
    serve.hosts.clear()  # the process that applied it died, or the cluster forgot
    assert listed(served) == [("m", "dedicated", "not running")]
    assert plan(served, SPEC) == [("create", "m", ["its host does not run (absent)"])]
    apply(served, SPEC)
    assert list(serve.hosts) == ["m--champion"]


def test_a_plan_that_is_no_longer_what_was_shown_is_not_carried_out(served: Served, serve: FakeServe) -> None:
    with served.http() as http:
        digest = http.post("/api/v1/endpoints/plan", json={"spec": SPEC}).json()["digest"]
    apply(served, SPEC)
    error = apply(served, SPEC + "  replicas: 2\n", status=409, expected=digest)
    assert error["code"] == "StaleGeneration"
    assert serve.log == ["deploy m/champion x1"]


@pytest.mark.parametrize(
    ("spec", "status", "field"),
    [
        ("endpoints: [{model: m, replica: 1}]", 422, "endpoints[0].replica"),
        ("endpoints: [{model: nope}]", 404, "alias"),
        ("endpoints: [{model: m, alias: nope}]", 404, "alias"),
        ("endpoints: [", 422, "spec"),
    ],
)
def test_a_spec_that_cannot_be_changes_nothing(
    served: Served, serve: FakeServe, spec: str, status: int, field: str
) -> None:
    assert apply(served, spec, status=status)["args"][0] == field
    assert (serve.log, exported(served)) == ([], "endpoints: []\n")


def test_who_may_do_what(served: Served, serve: FakeServe) -> None:
    apply(served, SPEC, status=403, role=Role.VIEWER)
    apply(served, SPEC, role=Role.DEVELOPER)
    (outcome,) = apply(served, SPEC + "  public: true\n", role=Role.DEVELOPER)["outcomes"]
    assert "needs the role approver" in outcome["detail"]
    (outcome,) = apply(served, "endpoints: []", role=Role.DEVELOPER, prune=True)["outcomes"]
    assert "is protected" in outcome["detail"]
    assert list(serve.hosts) == ["m--champion"]
    assert apply(served, SPEC + "  public: true\n", role=Role.APPROVER)["outcomes"][0]["outcome"] == "done"


def test_create_is_a_spec_of_one_entry(served: Served, serve: FakeServe) -> None:
    with served.http(Role.DEVELOPER) as http:
        made = http.post("/api/v1/endpoints/m/champion", json={"replicas": 2, "cpus": 0.5, "default": True}).json()
        assert (made["status"], made["placement"]) == ("running", "dedicated")
        assert http.post("/api/v1/endpoints/m/champion", json={}).status_code == 200
        assert serve.log == ["deploy m/champion x2"]
        spec = served.context.registry.read(endpoints.get, "m", "champion")
        assert (spec.replicas, spec.cpus, spec.default) == (2, 0.5, True)
        made = http.post("/api/v1/endpoints/m/champion", json={"placement": "pooled"}).json()
        assert made["placement"] == "pooled"
        assert http.post("/api/v1/endpoints/m/champion", json={"replicas": 2}).status_code == 422
        assert http.post("/api/v1/endpoints/m/champion", json={"replica": 2}).status_code == 422
    with served.http(Role.APPROVER) as http:
        assert http.delete("/api/v1/endpoints/m/champion").status_code == 200
        assert http.delete("/api/v1/endpoints/m/champion").status_code == 404


# --- the model repository extension ---------------------------------------------------------------


def index(served: Served, **body: Any) -> list[dict[str, str]]:
    with served.http(Role.VIEWER) as http:
        answer = http.post("/v2/repository/index", json=body) if body else http.post("/v2/repository/index")
    assert answer.status_code == 200, answer.text
    found: list[dict[str, str]] = answer.json()
    return found


def test_a_model_is_loaded_into_the_pool_and_unloaded(served: Served, serve: FakeServe) -> None:
    unserved = {"name": "m", "version": "1", "state": "UNAVAILABLE", "reason": "it is not served"}
    assert index(served) == [unserved]
    assert index(served, ready=True) == []
    with served.http(Role.DEVELOPER) as http:
        answer = http.post("/v2/repository/models/m/load")
        assert (answer.status_code, answer.content) == (200, b"")
        assert http.post("/v2/repository/models/m/load", json={}).status_code == 200
    assert index(served, ready=True) == [{"name": "m", "version": "1", "state": "READY", "reason": ""}]
    assert serve.held == {("m", "champion")}
    with served.http(Role.DEVELOPER) as http:
        assert http.post("/v2/repository/models/m/unload").status_code == 403  # the alias is protected
    with served.http(Role.APPROVER) as http:
        parameters = {"parameters": {"unload_dependents": False}}
        assert http.post("/v2/repository/models/m/unload", json=parameters).status_code == 200
        assert http.post("/v2/repository/models/m/unload").status_code == 404
    assert (index(served), serve.held) == ([unserved], set())


def test_a_model_with_a_spec_is_loaded_as_that_says(served: Served, serve: FakeServe) -> None:
    apply(served, SPEC + "  replicas: 2\n")
    serve.hosts.clear()
    with served.http(Role.DEVELOPER) as http:
        assert http.post("/v2/repository/models/m/load").status_code == 200
    assert serve.hosts["m--champion"].replicas == 2


def test_bad_repository_requests_are_refused(served: Served, serve: FakeServe) -> None:
    with served.http(Role.VIEWER) as http:
        assert http.post("/v2/repository/models/m/load").status_code == 403
        assert http.post("/v2/repository/index", json={"ready": "yes"}).status_code == 422
        assert http.post("/v2/repository/index", json={"raedy": True}).status_code == 422
        assert http.get("/v2/repository/index").status_code == 405
    with served.http(Role.DEVELOPER) as http:
        assert http.post("/v2/repository/models/nope/load").status_code == 404
        for parameters in ({"config": "{}"}, {"file:1/model.onnx": "AAAA"}, {"alias": 7}):
            answer = http.post("/v2/repository/models/m/load", json={"parameters": parameters})
            assert answer.status_code == 422
            assert "error" in answer.json()
    with served.http(None) as http:
        assert http.post("/v2/repository/index").status_code == 401
    assert serve.log == []


def test_the_server_names_its_extensions(served: Served) -> None:
    with served.http(Role.VIEWER) as http:
        found = http.get("/v2").json()
    assert found["name"] == "rayplat"
    assert {"model_repository", "binary_tensor_data"} <= set(found["extensions"])
