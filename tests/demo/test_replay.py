"""The replay counts what it is answered, on a real socket."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from rayplat.demo.replay import Ask, Replay
from rayplat.errors import Conflict, InvalidInput

NOON = datetime(2013, 11, 1, 12, tzinfo=UTC)


class Endpoint(BaseHTTPRequestHandler):
    """Answers with the server's version; a key that begins with ``bad`` is refused, ``mute`` names no version."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        server: Any = self.server
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        key = request["inputs"][0]["data"][0]
        server.seen.append((key, request["parameters"]["event_time"], server.clock))
        body = {"id": request["id"], "model_name": "m", "model_version": str(server.version), "outputs": []}
        if key.startswith("mute"):
            del body["model_version"]
        status = 422 if key.startswith("bad") else 200
        data = json.dumps(body if status == 200 else {"error": "no such flight"}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Silent."""


@pytest.fixture
def server() -> Iterator[Any]:
    made: Any = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    made.version, made.clock, made.seen = 1, None, []
    thread = threading.Thread(target=made.serve_forever)
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


def replay(server: Any, swap: Any) -> Replay:
    def advance(moment: datetime) -> None:
        server.clock = moment

    return Replay(f"http://127.0.0.1:{server.server_port}", "rpt_x", "m", "flight", advance, swap, "t")


def asks(count: int, *special: str) -> list[Ask]:
    keys = [f"f{i}" for i in range(count)]
    keys[3 : 3 + len(special)] = special
    return [Ask(key, NOON + timedelta(minutes=i)) for i, key in enumerate(keys)]


def test_counts_answers_by_version_and_never_sees_the_future(server: Any) -> None:
    def swap() -> int:
        server.version = 2
        return 2

    report = replay(server, swap).run(asks(500), requests=100)
    assert report.failed == report.unnamed == 0
    assert report.answered == report.requests == sum(report.by_version.values()) >= 100
    assert report.by_version["1"] >= 50
    assert report.by_version["2"] >= 50
    assert all(clock <= datetime.fromisoformat(at) < clock + timedelta(minutes=30) for _, at, clock in server.seen)


def test_failures_and_missing_versions_are_counted(server: Any) -> None:
    report = replay(server, lambda: None).run(asks(60, "bad1", "mute1"), requests=60)
    assert (report.requests, report.answered, report.failed, report.unnamed) == (60, 59, 1, 1)
    assert "bad1: 422" in report.failures[0]


def test_stops_after_three_times_the_requests_when_the_new_version_never_answers(server: Any) -> None:
    report = replay(server, lambda: 2).run(asks(1000), requests=20)
    assert report.requests == 60
    assert report.by_version == {"1": 60}


def test_a_move_that_fails_is_no_success(server: Any) -> None:
    def swap() -> int:
        raise Conflict("the promotion is closed")

    with pytest.raises(Conflict, match="closed"):
        replay(server, swap).run(asks(60), requests=20)


def test_nothing_to_replay_is_said(server: Any) -> None:
    with pytest.raises(InvalidInput, match="nothing to replay"):
        replay(server, lambda: None).run([], requests=20)
