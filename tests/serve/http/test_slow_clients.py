"""A real HTTP server in front of a host: clients that are slow, send too much, or say nothing at all."""

from __future__ import annotations

import asyncio
import contextlib
import resource
from collections.abc import Awaitable, Callable

import pytest
import uvicorn

from rayplat.serve.http import exchange
from tests.serve.fakes import SPEC, Bench, bench

BODY = b'{"inputs": [{"name": "flight", "datatype": "BYTES", "shape": [1], "data": ["F1"]}]}'


class Mounted:
    """The host where its ingress puts it: below its model's route."""

    def __init__(self, b: Bench) -> None:
        self._host = b.host

    async def __call__(self, scope, receive, send) -> None:  # type: ignore[no-untyped-def]
        scope["root_path"] = f"/v2/models/{SPEC.model}"
        await self._host(scope, receive, send)


def served(test: Callable[[Bench, int], Awaitable[None]]) -> None:
    async def go() -> None:
        b = await bench()
        config = uvicorn.Config(Mounted(b), port=0, lifespan="off", log_level="error", access_log=False)
        server = uvicorn.Server(config)
        task = asyncio.create_task(server.serve())
        try:
            while not server.started:
                await asyncio.sleep(0.01)
            port = server.servers[0].sockets[0].getsockname()[1]
            await asyncio.wait_for(test(b, port), 60)
        finally:
            server.should_exit = True
            server.force_exit = True
            await task
            await b.host.stop()

    asyncio.run(go())


def head(b: Bench, *more: str) -> bytes:
    lines = [
        f"POST /v2/models/{SPEC.model}/infer HTTP/1.1",
        "host: x",
        "content-type: application/json",
        f"authorization: Bearer {b.client.token}",
        *more,
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


async def asked(b: Bench, port: int) -> bytes:
    """The status line of an ordinary request."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(head(b, f"content-length: {len(BODY)}", "connection: close") + BODY)
    answer = await reader.read()
    writer.close()
    return answer.split(b"\r\n", 1)[0]


def test_a_body_that_trickles_in_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "_BODY_S", 0.3)

    async def test(b: Bench, port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head(b, "content-length: 1000"))
        began = asyncio.get_running_loop().time()
        trickle = asyncio.create_task(_trickle(writer))
        answer = await reader.readline()
        trickle.cancel()
        assert b" 400 " in answer or b" 408 " in answer
        assert asyncio.get_running_loop().time() - began < 5
        writer.close()
        assert b" 200 " in await asked(b, port)

    served(test)


async def _trickle(writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while True:
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0.02)


def test_a_body_of_100_mb_is_refused_before_it_is_sent_or_kept() -> None:
    async def test(b: Bench, port: int) -> None:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head(b, "content-length: 104857600"))
        assert b" 413 " in await reader.readline()
        writer.close()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head(b, "transfer-encoding: chunked"))
        answer = asyncio.create_task(reader.readline())
        piece = b"100000\r\n" + b"x" * 0x100000 + b"\r\n"
        sent = 0
        with contextlib.suppress(ConnectionError):
            while not answer.done() and sent < 100:
                writer.write(piece)
                await writer.drain()
                sent += 1
                await asyncio.sleep(0)
        assert b" 413 " in await answer
        writer.close()
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 60_000  # kilobytes
        assert b" 200 " in await asked(b, port)

    served(test)


def test_thousands_of_idle_connections_do_not_stop_the_host() -> None:
    async def test(b: Bench, port: int) -> None:
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(min(3000, (soft - 200) // 2))]
        for _, writer in idle[::2]:
            writer.write(b"POST /v2/models/x HTTP/1.1\r\nhost:")  # headers that never end
        for _ in range(5):
            assert b" 200 " in await asked(b, port)
        for _, writer in idle:
            writer.transport.abort()

    served(test)


@pytest.mark.parametrize(
    "raw",
    [
        "POST /v2/models/flight-delay/infer HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello",
        "POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n0\r\n\r\nGET /x",
        "NONSENSE\r\n\r\n",
    ],
)
def test_smuggled_or_broken_heads_end_the_connection_without_a_second_answer(raw: str) -> None:
    async def test(b: Bench, port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(raw.encode())
        writer.write_eof()
        answer = await asyncio.wait_for(reader.read(), 10)
        assert answer.count(b"HTTP/1.1 ") <= 1
        assert b" 200 " not in answer
        assert b"Traceback" not in answer
        writer.close()
        assert b" 200 " in await asked(b, port)

    served(test)
