"""Paths of a served alias."""

from __future__ import annotations

import pytest

from rayplat.errors import InvalidName, NotFound
from rayplat.serve import flags
from rayplat.serve.deploy import app_name
from rayplat.serve.routes import Route, prefix, route


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
    ],
)
def test_paths(path: str, found: Route) -> None:
    assert route(path, "champion") == found


@pytest.mark.parametrize(
    "path",
    ["/infer/more", "/versions", "/versions/0/infer", "/versions/07", "/versions/v7", "/versions/1e3", "/versions/²"],
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
