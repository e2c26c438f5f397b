"""Release control over HTTP and from the command line: what is started first, what is written, what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner, Result

from rayplat.cli.main import app
from rayplat.registry.record import releases
from rayplat.services import releases as service
from rayplat.types import Release, Role
from tests.api.conftest import Served


@dataclass
class Hosts:
    """Stands for the endpoints: what was created."""

    created: list[str] = field(default_factory=list)

    def __call__(self, context: Any) -> Hosts:
        return self

    def list(self) -> tuple[Any, ...]:
        return tuple(SimpleNamespace(model="m", alias=alias) for alias in ["champion", *self.created])

    def create(self, model: str, alias: str) -> None:
        self.created.append(alias)


@pytest.fixture
def hosts(served: Served, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hosts]:
    found = Hosts()
    monkeypatch.setattr(service, "Endpoints", found)
    yield found
    with served.http() as http:
        http.delete("/api/v1/models/m/release").raise_for_status()


@pytest.fixture
def run(served: Served, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    def command(*words: str, role: Role = Role.ADMIN) -> Result:
        monkeypatch.setenv("RAYPLAT_URL", served.url)
        monkeypatch.setenv("RAYPLAT_TOKEN", served.tokens[role])
        monkeypatch.setenv("COLUMNS", "120")
        return CliRunner().invoke(app, ["serve", *words])

    return command


def current(served: Served) -> Release:
    return served.context.registry.read(releases.get, "m")


def post(served: Served, path: str, role: Role = Role.ADMIN, **body: Any) -> httpx.Response:
    with served.http(role) as http:
        return http.post(f"/api/v1/models/m/{path}", json=body)


def test_a_split_starts_the_missing_host_and_is_written(served: Served, hosts: Hosts, run: Any) -> None:
    done = run("split", "m", "champion=90", "v2=10%", "--sticky", "entity", "--salt", "fees")
    assert done.exit_code == 0, done.stderr
    assert "split       champion 0.9, 2 0.1; by entity, salt fees" in done.stdout
    assert hosts.created == ["v2"]
    split = current(served).split
    assert split is not None
    assert [(s.target, s.weight) for s in split.shares] == [("champion", 90.0), ("2", 10.0)]
    assert run("split", "m", "--clear").exit_code == 0
    assert current(served).split is None
    assert run("shadow", "m", "2", "--sample", "0.5").exit_code == 0
    assert hosts.created == ["v2"]  # it was there
    assert [(s.target, s.sample) for s in current(served).shadows] == [("2", 0.5)]
    assert run("shadow", "m", "v2", "--off").exit_code == 0
    assert current(served).shadows == ()


def test_a_canary_from_its_start_to_its_end(served: Served, hosts: Hosts, run: Any) -> None:
    assert run("canary", "m", "v2", "--steps", "1,5%,100", "--hold", "2m", "--max-p99-ratio", "0").exit_code == 0
    made = current(served).canary
    assert made is not None
    assert (made.target, made.steps, made.hold_s, made.max_p99_ratio) == ("2", (0.01, 0.05, 1.0), 120.0, None)
    assert run("canary", "m", "v2", "--steps", "0.5%,1/20, 1/1").exit_code == 0
    again = current(served).canary
    assert again is not None
    assert again.steps == pytest.approx((0.005, 0.05, 1.0))
    for option, state in (("--pause", "paused"), ("--resume", "ramping"), ("--rollback", "rolled back")):
        done = run("canary", "m", option, role=Role.DEVELOPER)
        assert done.exit_code == 0, done.stderr
        assert f"canary      2 {state}" in done.stdout
    refused = run("canary", "m", "--pause")
    assert refused.exit_code == 1
    assert "the canary of m cannot be paused: it is rolled back" in refused.stderr
    shown = run("release", "m")
    assert "no host of the default alias answers" in shown.stdout
    assert "by developer-person" in shown.stdout
    listed = run("releases", "m", "--json")
    assert json.loads(listed.stdout)[0]["generation"] == current(served).generation
    assert run("releases", "m").exit_code == 0
    assert run("release", "m", "--clear").exit_code == 0
    assert current(served).canary is None


def test_what_is_not_permitted_starts_no_host(served: Served, hosts: Hosts) -> None:
    shares = {"champion": 1.0, "2": 1.0}
    refused = post(served, "release/split", Role.DEVELOPER, shares=shares)
    assert (refused.status_code, refused.json()["code"]) == (403, "Forbidden")
    assert "m@champion is protected" in refused.json()["error"]
    for path, body, status in (
        ("release/split", {"shares": {"champion": -1.0}}, 422),
        ("release/split", {"shares": {"absent": 1.0}}, 404),
        ("release/shadow", {"target": "2", "sample": 2.0}, 422),
        ("release/canary", {"target": "2", "steps": [0.5, 0.1]}, 422),
        ("release/canary", {"target": "champion"}, 422),
        ("release/canary/resume", {}, 409),
    ):
        assert post(served, path, **body).status_code == status, path
    assert post(served, "release/split", Role.VIEWER, shares=shares).status_code == 403
    assert hosts.created == []


def test_a_release_is_shown_with_its_variants(served: Served, hosts: Hosts) -> None:
    assert post(served, "release/split", shares={"champion": 3.0, "2": 1.0}).status_code == 200
    assert post(served, "release/canary", target="1", steps=[0.5]).status_code == 200
    with served.http(Role.VIEWER) as http:
        found = http.get("/api/v1/models/m/release").json()
    shares = {load["variant"]: (load["role"], load["version"], load["share"]) for load in found["variants"]}
    assert shares == {
        "champion": ("primary", 1, 0.375), "v2": ("split", 2, 0.125), "v1": ("canary", 1, 0.5)
    }  # fmt: skip
    assert (found["replicas"], found["obeying"]) == (0, 0)


def test_signals_come_in_and_are_read(served: Served, run: Any) -> None:
    done = run("signal", "m", "2", "--kind", "drift", "--bad", "--detail", "psi 0.4", role=Role.DEVELOPER)
    assert done.exit_code == 0, done.stderr
    assert post(served, "versions/9/signals", kind="drift", bad=True).status_code == 404
    listed = run("signals", "m", "--json")
    assert [(s["version"], s["kind"], s["bad"]) for s in json.loads(listed.stdout)] == [(2, "drift", True)]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("split", "m"), "give TARGET=WEIGHT"),
        (("split", "m", "champion"), "'champion' is no TARGET=WEIGHT"),
        (("split", "m", "a=1", "a=2"), "'a=2' is named twice"),
        (("split", "m", "a=much"), "'much' is no number"),
        (("canary", "m"), "name a target, or one of --pause"),
        (("canary", "m", "v2", "--pause"), "name a target, or one of --pause"),
        (("canary", "m", "v2", "--hold", "soon"), "'soon' is no time"),
        (("canary", "m", "v2", "--steps", "1,b"), "'b' is no number"),
        (("canary", "m", "v2", "--steps", "0.5,1"), "'0.5,1' can be read in two ways: say 0.5% or 50%"),
        (("canary", "m", "v2", "--steps", "1"), "'1' can be read in two ways"),
        (("canary", "m", "v2", "--steps", "0.5,5,100"), "can be read in two ways"),
        (("canary", "m", "v2", "--steps", "1/0"), "'1/0' is no fraction such as 1/20"),
        (("canary", "m", "v2", "--steps", "5%,200%"), "0.05, 2 is no ascending row of shares"),
    ],
)
def test_words_that_make_no_release(hosts: Hosts, run: Any, words: tuple[str, ...], said: str) -> None:
    done = run(*words)
    assert done.exit_code == 1
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_an_unknown_model_is_named(run: Any) -> None:
    done = run("release", "absent")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "model 'absent'" in done.stderr
