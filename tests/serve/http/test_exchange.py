"""Bodies and headers of one exchange: bounded, unpacked, unambiguous; events that end with their reader."""

from __future__ import annotations

import asyncio
import functools
import gzip
import json
import pickle
import zlib
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest

from rayplat.errors import BadRequest, InvalidInput, Overloaded, TooLarge, UnsupportedMediaType
from rayplat.serve.http import compression
from rayplat.serve.http.exchange import ClientGoneError, Exchange, forwarded, path_of

LIMIT = 1000


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """The asynchronous ``test`` in a loop of its own."""

    @functools.wraps(test)
    def wrapped() -> None:
        asyncio.run(asyncio.wait_for(test(), 10))

    return wrapped


class Wire:
    """An ASGI server's end of one exchange: what it has received, and what it was sent."""

    def __init__(self, *chunks: bytes, **scope: Any) -> None:
        self.coming = [
            {"type": "http.request", "body": c, "more_body": i < len(chunks) - 1} for i, c in enumerate(chunks)
        ]
        self.sent: list[Any] = []
        self.leaves = asyncio.Event()
        self.scope = {"type": "http", "method": "POST", "path": "/infer", "headers": []} | scope

    async def receive(self) -> Any:
        if self.coming:
            return self.coming.pop(0)
        await self.leaves.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        self.sent.append(message)

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)

    @property
    def headers(self) -> dict[bytes, bytes]:
        return dict(self.sent[0]["headers"])

    def exchange(self) -> Exchange:
        return Exchange(self.scope, self.receive, self.send)


def read(body: bytes, **headers: str) -> bytes:
    given = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return asyncio.run(Wire(body, headers=given).exchange().read(LIMIT))


def test_packed_bodies_are_unpacked() -> None:
    plain = b'{"a": 1}'
    raw = zlib.compressobj(wbits=-15)
    for body, encoding in (
        (plain, "identity"),
        (gzip.compress(plain), "gzip"),
        (zlib.compress(plain), "deflate"),
        (raw.compress(plain) + raw.flush(), "deflate"),
    ):
        assert read(body, content_encoding=encoding) == plain


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress])
def test_a_bomb_is_refused_before_it_is_unpacked(pack: Any) -> None:
    bomb = pack(b"\x00" * 800_000)
    assert len(bomb) < LIMIT
    with pytest.raises(TooLarge, match="the unpacked body has 1001 bytes, the limit is 1000"):
        read(bomb, content_encoding="gzip" if pack is gzip.compress else "deflate")


def test_packed_bodies_that_are_none() -> None:
    whole = gzip.compress(b"a" * 100)
    with pytest.raises(BadRequest, match="cut off"):
        read(whole[:-9], content_encoding="gzip")
    with pytest.raises(BadRequest, match="behind its gzip data"):
        read(whole + b"x", content_encoding="gzip")
    with pytest.raises(BadRequest, match="not valid gzip"):
        read(b"{}", content_encoding="gzip")
    with pytest.raises(UnsupportedMediaType, match="'br' is not taken"):
        read(b"{}", content_encoding="br")


def test_headers_that_contradict_each_other() -> None:
    def given(*headers: tuple[bytes, bytes]) -> Any:
        return asyncio.run(Wire(b"{}", headers=list(headers)).exchange().read(LIMIT))

    with pytest.raises(BadRequest, match="content-length is given twice and differently"):
        given((b"content-length", b"2"), (b"content-length", b"3"))
    assert given((b"content-length", b"2"), (b"content-length", b"2")) == b"{}"
    with pytest.raises(BadRequest, match="inference-header-content-length is given twice"):
        given((b"inference-header-content-length", b"2"), (b"inference-header-content-length", b"1"))
    with pytest.raises(BadRequest, match="contradict each other"):
        given((b"content-length", b"2"), (b"transfer-encoding", b"chunked"))
    with pytest.raises(BadRequest, match="the body has 2 bytes, content-length says 9"):
        given((b"content-length", b"9"))
    for wrong in (b"-1", b"+2", b"2, 3", b"0x2"):
        with pytest.raises(BadRequest, match="content-length must be a number of bytes"):
            given((b"content-length", wrong))
    with pytest.raises(TooLarge):
        given((b"content-length", b"9" * 40))


@pytest.mark.parametrize("value", ["-1", "1.5", "1e3", "", "٣", "9" * 19])
def test_a_header_length_is_a_number(value: str) -> None:
    given = [(b"inference-header-content-length", value.encode())]
    with pytest.raises(BadRequest, match="must be a number of bytes"):
        _ = Wire(headers=given).exchange().header_length


def test_a_body_above_the_limit_is_not_buffered() -> None:
    with pytest.raises(TooLarge):
        asyncio.run(Wire(b"a" * 600, b"b" * 600, b"c" * 600).exchange().read(LIMIT))
    with pytest.raises(TooLarge):
        asyncio.run(Wire(b"a" * 1001).exchange().read(LIMIT))


@pytest.mark.parametrize(
    "media", ["application/json", "application/json; charset=utf-8", "application/octet-stream", ""]
)
def test_content_types_of_real_clients(media: str) -> None:
    Wire(headers=[(b"content-type", media.encode())]).exchange().check_json()


def test_curls_form_is_refused_with_what_to_say_instead() -> None:
    given = [(b"content-type", b"application/x-www-form-urlencoded")]
    with pytest.raises(UnsupportedMediaType, match="curl -d needs -H 'content-type: application/json'"):
        Wire(headers=given).exchange().check_json()


@pytest.mark.parametrize(
    ("accepted", "size", "chosen"),
    [
        (b"gzip", 10, "gzip"),
        (b"deflate", 10, "deflate"),
        (b"gzip, deflate, br", 10, None),
        (b"gzip, deflate, br", 5000, "gzip"),
        (b"deflate;q=0.5, gzip;q=0", 5000, "deflate"),
        (b"br", 5000, None),
        (b"identity", 5000, None),
    ],
)
def test_which_answers_are_packed(accepted: bytes, size: int, chosen: str | None) -> None:
    assert compression.choose(accepted, size) == chosen


@run
async def test_an_answer_is_packed_as_asked() -> None:
    wire = Wire(headers=[(b"accept-encoding", b"gzip")])
    await wire.exchange().answer(200, b"{}")
    assert gzip.decompress(wire.body) == b"{}"
    assert wire.headers[b"content-encoding"] == b"gzip"
    assert int(wire.headers[b"content-length"]) == len(wire.body)


@run
async def test_an_error_says_when_to_come_again() -> None:
    wire = Wire()
    await wire.exchange().answer_error(Overloaded("the model", "50 requests wait", 2.4))
    assert (wire.sent[0]["status"], wire.headers[b"retry-after"]) == (429, b"3")
    assert json.loads(wire.body)["code"] == "Overloaded"
    half = Wire()
    await half.exchange().answer_error(InvalidInput("id", "\ud800"))
    assert json.loads(half.body)["code"] == "InvalidInput"


@run
async def test_events_one_by_one_and_an_error_among_them() -> None:
    async def events(fails_at: int) -> AsyncIterator[bytes]:
        for i in range(3):
            if i == fails_at:
                raise InvalidInput("x", "no more")
            yield b"%d" % i

    wire = Wire(b"{}")
    exchange = wire.exchange()
    await exchange.read(LIMIT)
    assert await exchange.answer_events(events(9)) == 200
    assert wire.body == b"data: 0\n\ndata: 1\n\ndata: 2\n\n"
    assert wire.headers[b"content-type"] == b"text/event-stream"
    broken = Wire(b"{}")
    exchange = broken.exchange()
    await exchange.read(LIMIT)
    await exchange.answer_events(events(1))
    assert broken.body.startswith(b"data: 0\n\nevent: error\ndata: {")
    assert broken.sent[-1] == {"type": "http.response.body", "body": b""}
    with pytest.raises(InvalidInput):
        await Wire().exchange().answer_events(events(0))


@run
async def test_a_client_that_leaves_ends_the_events() -> None:
    ended = asyncio.Event()

    async def events() -> AsyncIterator[bytes]:
        try:
            yield b"0"
            await asyncio.Event().wait()
        finally:
            ended.set()

    wire = Wire(b"{}")
    exchange = wire.exchange()
    await exchange.read(LIMIT)
    answering = asyncio.create_task(exchange.answer_events(events()))
    while not wire.body:
        await asyncio.sleep(0)
    wire.leaves.set()
    assert await answering == 499
    assert ended.is_set()
    assert exchange.gone


@run
async def test_work_is_given_up_when_its_client_leaves() -> None:
    wire = Wire(b"{}")
    exchange = wire.exchange()
    await exchange.read(LIMIT)
    wire.leaves.set()
    with pytest.raises(asyncio.CancelledError), exchange.watched(0.001):
        await asyncio.Event().wait()
    assert exchange.gone


@run
async def test_a_client_that_leaves_while_it_sends() -> None:
    wire = Wire(b"{")
    wire.coming[0]["more_body"] = True
    wire.leaves.set()
    with pytest.raises(ClientGoneError):
        await wire.exchange().read(LIMIT)


def test_paths_stay_as_they_were_written() -> None:
    scope = {"path": "/v2/models/m/a/b", "raw_path": b"/v2/models/m/a%2Fb?x=1", "root_path": "/v2/models/m"}
    assert path_of(scope) == "/a%2Fb"
    assert path_of({"path": "/v2/models/m/infer", "root_path": "/v2/models/m"}) == "/infer"


@run
async def test_a_whole_request_goes_through_by_handle() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        exchange = Exchange(scope, receive, send)
        body = await exchange.read(LIMIT)
        await exchange.answer(201, exchange.path.encode() + body, (b"x-a", b"b"))

    packed = pickle.dumps(("POST", "/invocations", [(b"content-length", b"2")], b"{}"))
    status, headers, body = pickle.loads(await forwarded(app, packed))
    assert (status, body, dict(headers)[b"x-a"]) == (201, b"/invocations{}", b"b")
