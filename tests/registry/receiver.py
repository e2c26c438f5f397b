"""A receiver of webhooks on this machine: a real HTTP server with several kinds of behaviour, and a check of what it
got that shares no code with the platform (https://www.standardwebhooks.com)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Message:
    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Receiver:
    """``answer`` decides what the n-th request (from 0) gets: a status, or what a mode does."""

    url: str = ""
    answer: Callable[[int], int | str] = lambda n: 200
    got: list[Message] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)
    extra: dict[str, str] = field(default_factory=dict)


def verified(message: Message, secret: str, tolerance_s: float = 300) -> bool:
    """Whether the signature fits, as a receiver in any language checks it."""
    sent_at = int(message.headers["webhook-timestamp"])
    signed = b".".join([message.id.encode(), str(sent_at).encode(), message.body])
    key = base64.b64decode(secret.split("_", 1)[1])
    expected = base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
    given = [part.split(",", 1) for part in message.headers["webhook-signature"].split(" ")]
    fits = any(version == "v1" and hmac.compare_digest(expected, found) for version, found in given)
    return fits and abs(time.time() - sent_at) <= tolerance_s


@contextmanager
def receiving(answer: Callable[[int], int | str] = lambda n: 200) -> Iterator[Receiver]:
    """A running receiver. Answers beside numbers: ``hang`` (until released), ``garbage``, ``slow`` (it trickles)."""
    receiver = Receiver(answer=answer)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            found = {name.lower(): value for name, value in self.headers.items()}
            wanted = receiver.answer(len(receiver.got))
            receiver.got.append(Message(found, body))
            if wanted == "hang":
                receiver.released.wait(20)
            elif wanted == "garbage":
                self.wfile.write(b"\x00\xff this is not HTTP\r\n\r\n")
            elif wanted == "slow":
                self._trickle()
            else:
                self.send_response(int(wanted))
                for name, value in receiver.extra.items():
                    self.send_header(name, value)
                self.end_headers()

        def do_GET(self) -> None:
            receiver.got.append(Message({"method": "GET"}, b""))

        def _trickle(self) -> None:
            try:
                while not receiver.released.wait(0.05):
                    self.wfile.write(b"H")
            except OSError:
                pass

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with _serving(Handler) as port:
        receiver.url = f"http://127.0.0.1:{port}/hook"
        try:
            yield receiver
        finally:
            receiver.released.set()


@contextmanager
def receiving_tls(cert: Path, key: Path) -> Iterator[int]:
    """A TLS server that answers 200 to whatever comes. Its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    with _serving(Handler, context) as port:
        yield port


@contextmanager
def _serving(handler: type[BaseHTTPRequestHandler], tls: ssl.SSLContext | None = None) -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
