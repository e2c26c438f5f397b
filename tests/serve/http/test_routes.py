"""Paths of a served alias."""

from __future__ import annotations

import pytest

from rayplat.errors import InvalidName, NotFound
from rayplat.serve.deployment import flags
from rayplat.serve.deployment.deploy import app_name
from rayplat.serve.http.routes import Route, ServerRoute, prefix, route, server


def test_the_default_alias_owns_the_models_path() -> None:
    assert prefix("m", "champion") == "/v2/models/m"
    assert prefix("m", "challenger") == "/v2/models/m/versions/challenger"


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("", Route("metadata")),
        ("/", Route("metadata")),
        ("/infer", Route("infer")),
        ("/ready", Route("ready")),
        ("/versions/7", Route("metadata", 7)),
        ("/versions/7/infer", Route("infer", 7)),
        ("/versions/champion/ready", Route("ready")),
        ("/versions/cham%70ion/ready", Route("ready")),
        ("/generate", Route("infer")),
        ("/generate_stream", Route("stream")),
        ("/versions/7/infer_stream", Route("stream", 7)),
        ("/explain", Route("explain")),
        ("/openapi.json", Route("openapi")),
        ("/versions/7/invocations", Route("invocations", 7)),
        ("/ping", Route("ping")),
        ("/health", Route("ping")),
        ("/version", Route("version")),
    ],
)
def test_paths(path: str, found: Route) -> None:
    assert route(path, "champion") == found


@pytest.mark.parametrize(
    "path",
    [
        "/infer/more",
        "/in%2Ffer",
        "/%ff",
        "/versions/7%2Finfer",
        "/..",
        "/%2e%2e/infer",
        "/versions",
        "/versions/0/infer",
        "/versions/07",
        "/versions/v7",
        "/versions/1e3",
        "/versions/²",
    ],
)
def test_unknown_paths(path: str) -> None:
    with pytest.raises(NotFound):
        route(path, "champion")


def test_application_names_can_be_read_back() -> None:
    assert app_name("a--b", "champion").rpartition("--")[::2] == ("a--b", "champion")
    assert app_name("a-", "champion").rpartition("--")[::2] == ("a-", "champion")
    with pytest.raises(InvalidName, match="cannot be served"):
        app_name("a", "b--c")


def test_missing_flags_are_named() -> None:
    assert flags.missing(flags.SERVE_ENV) == []
    assert flags.missing({"RAY_SERVE_ENABLE_HA_PROXY": "1"}) == ["RAY_SERVE_THROUGHPUT_OPTIMIZED=1"]
    assert set(flags.REASONS) == set(flags.SERVE_ENV)


def test_methods_of_paths() -> None:
    assert route("/infer", "champion").methods == ("POST",)
    assert route("", "champion").methods == ("GET",)
    assert route("/ping", "champion").methods == ("GET", "POST")


def test_an_unknown_path_is_told_what_exists() -> None:
    with pytest.raises(NotFound, match=r"POST /infer, .*POST /explain, .*GET\|POST /ping"):
        route("/predict", "champion")


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/v2", ServerRoute("metadata")),
        ("/v2/", ServerRoute("metadata")),
        ("/v2/health/live", ServerRoute("live")),
        ("/v2/health/ready", ServerRoute("ready")),
        ("/v2/models/m", ServerRoute("model", "m")),
        ("/v2/models/a%2Fb/infer", ServerRoute("model", "a/b", "/infer")),
        ("/v2/models/m/versions/7%2F8/infer", ServerRoute("model", "m", "/versions/7%2F8/infer")),
        ("/v2/repository/index", ServerRoute("index")),
        ("/v2/repository/models/m/load", ServerRoute("load", "m")),
        ("/v2/repository/models/m/unload", ServerRoute("unload", "m")),
        ("/invocations", ServerRoute("invocations")),
        ("/ping", ServerRoute("ping")),
        ("/version", ServerRoute("version")),
    ],
)
def test_paths_of_the_server(path: str, found: ServerRoute) -> None:
    assert server(path) == found


@pytest.mark.parametrize("path", ["/", "/v1/models/m", "/v2/models", "/v2/health", "/v2/repository/models/m/drop"])
def test_unknown_paths_of_the_server(path: str) -> None:
    with pytest.raises(NotFound, match="the server has"):
        server(path)
