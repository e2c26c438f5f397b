from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import httpx
import pytest

from rayplat import identity
from rayplat.errors import Unavailable
from rayplat.serve.access import Access
from rayplat.serve.http import relay, routes
from rayplat.serve.pool import names, placement
from rayplat.serve.pool.front import PoolFront
from rayplat.serve.pool.table import EndpointTable
from rayplat.types import EndpointSpec, Principal, Role
from tests.serve.pool.hosts import Workshop
from tests.serve.pool.reach import FakeReach

SECRET, _ = identity.new_token()
WORKERS = names.workers(2)
SPECS = (
    EndpointSpec("own"),
    EndpointSpec("own", "challenger"),
    EndpointSpec("own", "v7"),
    EndpointSpec("tail", placement="pooled", default=True),
    EndpointSpec("tail", "nightly", placement="pooled"),
    EndpointSpec("open.one", placement="pooled", public=True),
)
TAIL, OPEN = placement.worker_of("tail", WORKERS), placement.worker_of("open.one", WORKERS)


class Tokens:
    async def authenticate(self, token_hash: str) -> Principal | None:
        return Principal("ann", Role.VIEWER) if token_hash == identity.hash_token(SECRET) else None


class Stage:
    def __init__(self, *specs: EndpointSpec) -> None:
        self.shop, self.reach, self.now = Workshop(*specs), FakeReach(), 0.0
        table = EndpointTable(self.shop, 5.0, clock=lambda: self.now)
        self.front = PoolFront(table, Access(Tokens(), 5.0), self.reach, WORKERS, max_body_bytes=1000)
        transport = httpx.ASGITransport(self.front, raise_app_exceptions=True)
        self.http = httpx.AsyncClient(transport=transport, base_url="http://x")

    async def ask(
        self,
        method: str,
        path: str,
        content: bytes = b"",
        token: str | None = SECRET,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        said = {"content-type": "application/json", **(headers or {})}
        if token is not None:
            said["authorization"] = f"Bearer {token}"
        return await self.http.request(method, path, content=content, headers=said)


def play(story: Callable[[Stage], Awaitable[None]], *specs: EndpointSpec) -> None:
    asyncio.run(asyncio.wait_for(story(Stage(*(specs or SPECS))), 20))


@pytest.mark.parametrize(
    ("method", "path", "said"),
    [
        ("POST", "/v2/models/tail/infer", f"{TAIL} POST /v2/models/tail /infer"),
        ("GET", "/v2/models/tail", f"{TAIL} GET /v2/models/tail"),
        ("POST", "/v2/models/tail/versions/7/infer", f"{TAIL} POST /v2/models/tail /versions/7/infer"),
        ("POST", "/v2/models/tail/versions/nightly/infer", f"{TAIL} POST /v2/models/tail/versions/nightly /infer"),
        ("POST", "/v2/models/tail/versions/champion/infer", f"{TAIL} POST /v2/models/tail /versions/champion/infer"),
        ("POST", "/v2/models/t%61il/infer", f"{TAIL} POST /v2/models/tail /infer"),
        ("POST", "/v2/models/open%2Eone/infer", f"{OPEN} POST /v2/models/open.one /infer"),
        ("POST", "/v2/models/%6fwn/infer", "own--champion POST /v2/models/own /infer"),
        ("POST", "/v2/models/own/versions/v7/infer", "own--v7 POST /v2/models/own/versions/v7 /infer"),
        ("GET", "/v2/models/own/versions/ch%61llenger", "own--challenger GET /v2/models/own/versions/challenger"),
        ("POST", "/invocations", f"{TAIL} POST /v2/models/tail /invocations"),
        ("GET", "/ping", f"{TAIL} GET /v2/models/tail /ping"),
        ("GET", "/version", f"{TAIL} GET /v2/models/tail /version"),
    ],
)
def test_a_request_goes_to_whoever_has_the_model(method: str, path: str, said: str) -> None:
    async def story(stage: Stage) -> None:
        answer = await stage.ask(method, path, b"{}" if method == "POST" else b"")
        assert (answer.status_code, answer.text.split()) == (
            200,
            [*said.split(), *(["{}"] if method == "POST" else [])],
        )
        ((_, _, (packed,)),) = stage.reach.calls
        sent = relay.unpack_request(packed)
        assert sent.root == routes.prefix(sent.model, sent.alias)

    play(story)


def test_who_has_no_token_is_told_so_and_not_what_is_served() -> None:
    async def story(stage: Stage) -> None:
        for path in ("/v2/models/tail/infer", "/v2/models/absent/infer", "/v2/models/own/infer", "/v2/models", "/nope"):
            for token in (None, identity.new_token()[0]):
                answer = await stage.ask("POST", path, b"{}", token=token)
                assert answer.status_code == 401, path
        assert stage.reach.calls == []
        wrong = identity.new_token()[0]  # is refused also where none is needed
        assert (await stage.ask("POST", "/v2/models/open.one/infer", b"{}", token=wrong)).status_code == 401
        assert stage.reach.calls == []
        assert (await stage.ask("POST", "/v2/models/open.one/infer", b"{}", token=None)).status_code == 200
        assert (await stage.ask("GET", "/v2/models/tail/ready", token=None)).status_code == 200

    play(story)


def test_what_is_not_served_is_refused_with_what_to_do() -> None:
    async def story(stage: Stage) -> None:
        answer = await stage.ask("POST", "/v2/models/absent/infer", b"{}")
        assert answer.status_code == 404
        assert "`rayplat serve create absent champion`" in answer.json()["error"]
        answer = await stage.ask("POST", "/v2/models/tail/versions/other/infer", b"{}")
        assert answer.json()["error"] == "endpoint 'tail/other' does not exist; served are champion, nightly"
        answer = await stage.ask("POST", "/v2/models/%ff%fe/infer", b"{}")
        assert answer.status_code == 404

    play(story)


def test_without_a_default_model_the_root_says_how_to_make_one() -> None:
    async def story(stage: Stage) -> None:
        answer = await stage.ask("POST", "/invocations", b"{}")
        assert answer.status_code == 404
        assert "--default" in answer.json()["message"]
        assert "error_code" in answer.json()  # MLflow's own shape
        assert (await stage.ask("GET", "/ping")).status_code == 404

    play(story, EndpointSpec("own"))


def test_bodies_are_bounded_before_they_are_sent_on() -> None:
    async def story(stage: Stage) -> None:
        answer = await stage.ask("POST", "/v2/models/tail/infer", b"x" * 1001)
        assert answer.status_code == 413
        assert stage.reach.calls == []

    play(story)


def test_a_worker_that_is_gone_or_refuses_is_an_error_in_our_shape() -> None:
    async def story(stage: Stage) -> None:
        stage.reach.absent.add(TAIL)
        answer = await stage.ask("POST", "/v2/models/tail/infer", b"{}")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        answer = await stage.ask("POST", "/invocations", b"{}")
        assert (answer.status_code, "error_code" in answer.json()) == (503, True)
        stage.reach.absent.clear()
        stage.reach.refusals[TAIL] = Unavailable("model 'tail'", "it did not load: the bundle is damaged")
        for path in ("/v2/models/tail/infer", "/v2/models/tail/infer_stream"):
            answer = await stage.ask("POST", path, b"{}")
            assert answer.status_code == 503
            assert "the bundle is damaged" in answer.json()["error"]

    play(story)


def test_answers_that_come_in_pieces_are_sent_on() -> None:
    async def story(stage: Stage) -> None:
        for path, headers in (
            ("/v2/models/tail/generate_stream", {}),
            ("/v2/models/tail/infer", {"accept": "text/event-stream"}),
        ):
            answer = await stage.ask("POST", path, b"{}", headers=headers)
            assert answer.headers["content-type"] == "text/event-stream"
            assert answer.text == "data: 0\n\ndata: 1\n\ndata: 2\n\n"
            assert stage.reach.calls[-1][:2] == (TAIL, "http_stream")

    play(story)


def test_what_is_served_anew_is_found_and_a_registry_that_is_down_costs_nothing() -> None:
    async def story(stage: Stage) -> None:
        assert (await stage.ask("POST", "/v2/models/new/infer", b"{}")).status_code == 404
        stage.shop.specs["new", "champion"] = EndpointSpec("new", placement="pooled")
        stage.now += 1.1
        assert (await stage.ask("POST", "/v2/models/new/infer", b"{}")).status_code == 200
        stage.shop.down = True
        stage.now += 60
        assert (await stage.ask("POST", "/v2/models/new/infer", b"{}")).status_code == 200
        assert (await stage.ask("POST", "/v2/models/absent/infer", b"{}")).status_code == 404

    play(story)


def test_before_the_registry_was_reached_nothing_is_said_to_be_absent() -> None:
    async def story(stage: Stage) -> None:
        stage.shop.down = True
        answer = await stage.ask("POST", "/v2/models/tail/infer", b"{}")
        assert answer.status_code == 503
        assert "has not been reached yet" in answer.json()["error"]
        stage.shop.down = False
        assert (await stage.ask("POST", "/v2/models/tail/infer", b"{}")).status_code == 200

    play(story)


def test_what_is_served_is_listed() -> None:
    async def story(stage: Stage) -> None:
        found = (await stage.ask("GET", "/v2/models")).json()["models"]
        assert [(m["name"], m["alias"]) for m in found][:2] == [("open.one", "champion"), ("own", "challenger")]
        assert {
            "name": "tail",
            "alias": "nightly",
            "placement": "pooled",
            "path": "/v2/models/tail/versions/nightly",
        } in found

    play(story)


def test_other_processes_call_by_the_models_name() -> None:
    async def story(stage: Stage) -> None:
        assert await stage.front.call("tail", "nightly", "describe", None) == f"{TAIL} describe".encode()
        assert await stage.front.call("own", "champion", "infer_remote", b"x") == b"own--champion infer_remote"
        assert stage.reach.calls == [
            (TAIL, "describe", ("tail", "nightly", None)),
            ("own--champion", "infer_remote", (b"x",)),
        ]

    play(story)
