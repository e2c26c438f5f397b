"""The shorter way into the replica: what it writes, on a socket and piece by piece."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any, Literal

import pytest
import uvicorn

from rayplat.serve.http import ingress
from rayplat.serve.http.exchange import Receive, Scope, Send
from rayplat.serve.http.ingress import HeadWithBody, Shortcut


@contextlib.contextmanager
def listening(app: Any, http_parser: Literal["httptools", "h11"]) -> Iterator[int]:
    """The port of a server in a thread of its own."""
    config = uvicorn.Config(app, port=0, http=http_parser, lifespan="off", log_level="error", access_log=False)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(10)


class Written:
    """A transport that remembers each write."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.writes.append(data)

    def writelines(self, data: tuple[bytes, ...]) -> None:
        self.writes.append(b"".join(data))

    def is_closing(self) -> bool:
        return False


def test_the_head_leaves_with_the_first_of_the_body() -> None:
    seen = Written()
    transport = HeadWithBody(seen)
    for data in (b"HTTP/1.1 200 OK\r\n\r\n", b"one", b"HTTP/1.1 two"):
        transport.write(data)
    assert seen.writes == [b"HTTP/1.1 200 OK\r\n\r\none", b"HTTP/1.1 two"]
    assert not transport.is_closing()


def test_an_empty_body_sends_the_head() -> None:
    seen = Written()
    transport = HeadWithBody(seen)
    transport.write(b"HTTP/1.1 204 No Content\r\n\r\n")
    transport.write(b"")
    assert seen.writes == [b"HTTP/1.1 204 No Content\r\n\r\n"]


def test_a_client_that_asks_first_is_told_to_go_on() -> None:
    seen = Written()
    transport = HeadWithBody(seen)
    transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert seen.writes == [b"HTTP/1.1 100 Continue\r\n\r\n"]


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    body, more = b"", scope["method"] == "POST"
    while more:
        message = await receive()
        body, more = body + message["body"], message["more_body"]
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": 200, "headers": [length]})
    await send({"type": "http.response.body", "body": body})


@pytest.mark.parametrize("http_parser", ["httptools", "h11"])
def test_answers_are_whole_on_a_socket(http_parser: Literal["httptools", "h11"]) -> None:
    ingress.take("/m", echo)
    try:
        with listening(Shortcut(echo), http_parser) as port:
            client = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            for method, body in (
                ("POST", b"a" * 100_000),
                ("POST", b""),
                ("HEAD", None),
                ("GET", None),
                ("POST", b"b"),
            ):
                client.request(method, "/m/infer", body)
                answer = client.getresponse()
                assert (answer.status, answer.read()) == (200, body or b"")
            with socket.create_connection(("127.0.0.1", port), timeout=10) as asking:
                asking.sendall(
                    b"POST /m/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n"
                )
                assert asking.recv(100).startswith(b"HTTP/1.1 100")
                asking.sendall(b"hi")
                assert asking.recv(1000).endswith(b"\r\n\r\nhi")
    finally:
        ingress.give_back()
