from __future__ import annotations

import asyncio
from typing import Any

import pytest

from rayplat.errors import Unavailable
from rayplat.serve.http import relay
from rayplat.serve.http.exchange import Receive, Scope, Send

SENT = relay.HttpRequest("POST", "/v2/models/m", "/in%66er", b"a=1", [(b"x-a", b"1")], b"body")


async def telling(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with what it was asked, in two pieces."""
    message = await receive()
    said = (
        scope["method"],
        scope["path"],
        scope["raw_path"],
        scope["root_path"],
        scope["query_string"],
        message["body"],
    )
    await send(
        {"type": "http.response.start", "status": 201, "headers": [(b"x-direct", b"%d" % ("rayplat.direct" in scope))]}
    )
    await send({"type": "http.response.body", "body": repr(said).encode(), "more_body": True})
    await send({"type": "http.response.body", "body": b"!"})


async def failing(scope: Scope, receive: Receive, send: Send) -> None:
    raise ValueError("no answer")


def test_an_application_sees_the_request_as_it_was() -> None:
    async def run() -> None:
        answered = relay.unpack(await relay.answer(telling, relay.unpack_request(relay.pack(SENT))))
        said = ("POST", "/v2/models/m/infer", b"/v2/models/m/in%66er", "/v2/models/m", b"a=1", b"body")
        assert answered.body == repr(said).encode() + b"!"
        assert (answered.status, answered.headers) == (201, [(b"x-direct", b"1")])

    asyncio.run(run())


def test_what_is_sent_on_carries_the_id_and_the_body_as_it_is_now() -> None:
    headers = [(b"content-length", b"99"), (b"content-encoding", b"gzip"), (b"connection", b"close"), (b"accept", b"*")]
    scope: Scope = {"method": "POST", "headers": headers, "query_string": b"q"}
    sent = relay.request(scope, ("/v2/models/m", "/infer"), "id-1", b"unpacked")
    assert sent.headers == [(b"accept", b"*"), (b"content-length", b"8"), (b"x-request-id", b"id-1")]
    assert not sent.direct


@pytest.mark.parametrize(("left_s", "said"), [(None, b"9"), (2.5, b"2.500000"), (-1.0, b"0.001000")])
def test_of_a_client_s_time_limit_what_is_left_is_sent_on(left_s: float | None, said: bytes) -> None:
    scope: Scope = {"method": "POST", "headers": [(b"x-request-timeout-seconds", b"9")]}
    sent = relay.request(scope, ("/v2/models/m", "/infer"), "id-1", b"", left_s)
    assert [value for name, value in sent.headers if name == b"x-request-timeout-seconds"] == [said]


def test_a_process_without_an_answer_is_its_error() -> None:
    packed = relay.failed(Unavailable("model 'm'", "it did not load"))
    with pytest.raises(Unavailable, match="did not load"):
        relay.unpack(packed)


def test_an_answer_in_pieces_arrives_in_pieces_and_an_error_before_it_is_raised() -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def refusing() -> Any:
        yield relay.failed(Unavailable("model 'm'", "it did not load"))

    async def run() -> None:
        assert await relay.send_pieces(relay.pieces(telling, SENT), send) == 201
        assert [m.get("body", b"")[-1:] for m in sent] == [b"", b")", b"!", b""]
        with pytest.raises(Unavailable):
            await relay.send_pieces(refusing(), send)
        with pytest.raises(ValueError, match="no answer"):
            await anext(relay.pieces(failing, SENT))

    asyncio.run(run())


def test_a_reader_that_leaves_ends_the_work() -> None:
    ended: list[str] = []

    async def endless(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        try:
            while True:
                await send({"type": "http.response.body", "body": b"x", "more_body": True})
                await asyncio.sleep(0)
        except asyncio.CancelledError:
            ended.append("ended")
            raise

    async def run() -> None:
        found = relay.pieces(endless, SENT)
        assert await anext(found)
        assert await anext(found) == b"x"
        await found.aclose()
        while not ended:
            await asyncio.sleep(0)

    asyncio.run(asyncio.wait_for(run(), 10))
