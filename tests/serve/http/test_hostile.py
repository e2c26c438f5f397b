"""A host on a socket against models that misbehave and clients that attack: one clear error, and healthy afterwards."""

from __future__ import annotations

import contextlib
import gzip
import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from rayplat.errors import InvalidInput
from rayplat.serve.ports import Explanation, LoadedVersion
from rayplat.types import Signature, TensorSpec
from tests.serve.fakes import SPEC
from tests.serve.protocols.serving import of_function, served

ROUTE = f"/v2/models/{SPEC.model}"
INFER, EXPLAIN, STREAM, INVOKE = f"{ROUTE}/infer", f"{ROUTE}/explain", f"{ROUTE}/infer_stream", f"{ROUTE}/invocations"
SIGNATURE = Signature(inputs=(TensorSpec("x", "FP64"),), outputs=(TensorSpec("p", "FP64"),))
GOOD = b'{"inputs":[{"name":"x","datatype":"FP64","shape":[1],"data":[0.5]}]}'
GATE = threading.Event()


class Panic(BaseException):
    """What native code raises, beside Exception."""


class Unprintable(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")


def raising(error: BaseException) -> Callable[[int], Any]:
    def act(_: int) -> Any:
        raise error

    return act


ACTS: list[tuple[Callable[[int], Any], int, str]] = [
    (lambda n: {"p": np.zeros(n + 1)}, 500, "2 rows for 1 rows"),
    (lambda _: {"p": 5.0}, 500, "one value for 1 rows"),
    (lambda _: None, 500, "it gave no outputs by name but 'NoneType'"),
    (lambda _: [1, 2], 500, "it gave no outputs by name but 'list'"),
    (lambda n: {"q": np.zeros(n)}, 500, "no output 'p', only 'q'"),
    (lambda _: {}, 500, "no output 'p', only none"),
    (raising(SystemExit(1)), 500, "SystemExit"),
    (raising(Panic("thread 'main' panicked")), 500, "Panic"),
    (raising(MemoryError()), 500, "MemoryError"),
    (raising(StopIteration()), 500, "StopIteration"),
    (raising(ValueError("\udcff\ud800 bad \x00 text")), 500, "the model failed (ValueError), see the host's log"),
    (raising(Unprintable()), 500, "Unprintable"),
    (raising(InvalidInput("x", "half a character: \ud800")), 422, "half a character"),
    (lambda n: GATE.wait(20) and {"p": np.zeros(n)}, 504, "did not answer within 0."),
]
RAISE = 7  # the first of those that raise or hang, counted from 1


def predict(columns: Mapping[str, Any], _: Mapping[str, Any]) -> Any:
    """What ``x`` numbers in `ACTS`; itself where it is below 1."""
    x = np.asarray(columns["x"], dtype=np.float64)
    return {"p": x} if not x[0] >= 1 else ACTS[int(x[0]) - 1][0](len(x))


class Explains:
    def explain(self, columns: Mapping[str, Any], output: str, max_evaluations: int) -> Explanation:
        found = predict(columns, {})
        return Explanation(output, "exact", {"x": found["p"]}, np.zeros(len(found["p"])), max_evaluations)


def make(model: str, version: int, digest: str) -> LoadedVersion:
    loaded = of_function(SIGNATURE, predict)(model, version, digest)
    return replace(loaded, batchable=False, explainer=Explains())


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with served(make, max_body_bytes=1 << 20) as found:
        yield found
    GATE.set()


@pytest.fixture(autouse=True)
def healthy(address: str) -> Iterator[None]:
    """After each test the host is ready and answers."""
    yield
    for head in ("GET /v2/health/live", f"GET {ROUTE}/ready"):
        assert status(sent(address, f"{head} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())) == 200
    assert status(post(address, GOOD)) == 200


def sent(address: str, data: bytes, *, ends: bool = False) -> bytes:
    """All that comes back for ``data``; ``ends``: the client closes its side after it."""
    host, _, port = address.partition(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        answer = bytearray()
        with contextlib.suppress(ConnectionError):
            connection.sendall(data)
            if ends:
                connection.shutdown(socket.SHUT_WR)
            while piece := connection.recv(1 << 16):
                answer += piece
    assert b"Traceback" not in answer
    return bytes(answer)


def post(address: str, body: bytes, path: str = INFER, **headers: str) -> bytes:
    given = {"host": "x", "content-type": "application/json", "connection": "close", "content-length": str(len(body))}
    given |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = "".join(f"{name}: {value}\r\n" for name, value in given.items())
    return sent(address, f"POST {path} HTTP/1.1\r\n{lines}\r\n".encode() + body)


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def reason(answer: bytes) -> str:
    """The text of an error in the shape of the protocol that was spoken."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"content-type: application/json" in head
    said = json.loads(body)
    return str(said["error"] if "error" in said else said["message"])


def tensor(**change: Any) -> bytes:
    return json.dumps({"inputs": [{"name": "x", "datatype": "FP64", "shape": [1], "data": [0.5]} | change]}).encode()


@pytest.mark.parametrize("act", range(1, len(ACTS) + 1))
def test_a_model_that_misbehaves_fails_its_own_request(address: str, act: int) -> None:
    _, code, text = ACTS[act - 1]
    body = tensor(data=[act])
    for path, given in ((INFER, body), (INVOKE, json.dumps({"inputs": {"x": [act]}}).encode())):
        answer = post(address, given, path, x_request_timeout_seconds="0.3" if code == 504 else "10")
        # MLflow's protocol knows 400 for what does not fit
        assert status(answer) == (400 if path == INVOKE and code == 422 else code), answer
        assert text in reason(answer)


@pytest.mark.parametrize("act", range(RAISE, len(ACTS) + 1))
def test_explanations_and_streams_that_misbehave_fail_alone(address: str, act: int) -> None:
    _, code, _ = ACTS[act - 1]
    for path, kind in ((EXPLAIN, "explanation"), (STREAM, "stream")):
        answer = post(address, tensor(data=[act]), path, x_request_timeout_seconds="0.3" if code == 504 else "10")
        assert status(answer) == code, answer
        assert code != 500 or f"its {kind} failed" in reason(answer)
        assert status(post(address, GOOD, path)) == 200


def test_an_answer_that_is_no_number_is_null(address: str) -> None:
    binary = {"name": "x", "datatype": "FP64", "shape": [1], "parameters": {"binary_data_size": 8}}
    head = json.dumps({"inputs": [binary]}).encode()
    answer = post(address, head + struct.pack("<d", np.nan), inference_header_content_length=str(len(head)))
    assert status(answer) == 200
    assert answer.endswith(b'"data":[null]}]}')


HEAD = f"POST {INFER} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
CHUNK = f"{len(GOOD):x}\r\n{GOOD.decode()}\r\n0\r\n\r\n"


@pytest.mark.parametrize(
    "rest",
    [
        f"content-length: {len(GOOD)}\r\ntransfer-encoding: chunked\r\n\r\n{CHUNK}",
        f"transfer-encoding: chunked\r\ncontent-length: 4\r\n\r\n{CHUNK}",
        f"content-length: {len(GOOD)}\r\ncontent-length: {len(GOOD) + 1}\r\n\r\n{GOOD.decode()}",
        f"content-length: {len(GOOD)}, {len(GOOD)}\r\n\r\n{GOOD.decode()}",
        f"content-length: +{len(GOOD)}\r\n\r\n{GOOD.decode()}",
        f"content-length : {len(GOOD)}\r\n\r\n{GOOD.decode()}",
        "content-length: -1\r\n\r\n",
        "content-length: 0x10\r\n\r\n",
        f"content-length: {'9' * 30}\r\n\r\n",
        f"content-length: {2**63}\r\n\r\n",
        f"transfer-encoding: xchunked\r\n\r\n{CHUNK}",
        f"transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n\r\n{CHUNK}",
        f"transfer-encoding:\x0bchunked\r\n\r\n{CHUNK}",
        f"transfer-encoding: chunked\r\n\r\nZZ\r\n{GOOD.decode()}\r\n0\r\n\r\n",
        f"transfer-encoding: chunked\r\n\r\n-5\r\n{GOOD.decode()}\r\n0\r\n\r\n",
        f"transfer-encoding: chunked\r\n\r\n{'F' * 20}\r\n{GOOD.decode()}\r\n0\r\n\r\n",
        f"transfer-encoding: chunked\r\n\r\n3\r\n{GOOD.decode()}\r\n0\r\n\r\n",
        f"content-length:\r\n {len(GOOD)}\r\n\r\n{GOOD.decode()}",
        f"x-a: b\r\n c\r\ncontent-length: {len(GOOD)}\r\n\r\n{GOOD.decode()}",
        f"x-a: a\x00b\r\ncontent-length: {len(GOOD)}\r\n\r\n{GOOD.decode()}",
    ],
)
def test_heads_that_could_be_read_in_two_ways_are_refused_once(address: str, rest: str) -> None:
    answer = sent(address, (HEAD + rest).encode("latin-1"), ends=True)
    assert answer.count(b"HTTP/1.1 ") == 1
    assert status(answer) in (400, 413)


def test_a_body_that_is_cut_off_ends_its_connection_only(address: str) -> None:
    for rest in (b"content-length: 1000\r\n\r\n" + GOOD, b"transfer-encoding: chunked\r\n\r\nFF\r\n" + GOOD):
        for _ in range(10):
            answer = sent(address, HEAD.encode() + rest, ends=True)
            assert not answer or status(answer) == 400


def test_a_handshake_of_websockets_is_refused(address: str) -> None:
    asked = (
        f"GET {INFER} HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
        "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\r\n"
    )
    assert status(sent(address, asked.encode())) == 403


def test_a_bomb_is_refused_on_either_protocol(address: str) -> None:
    bomb = gzip.compress(b"\x00" * (100 << 20), 9)
    assert len(bomb) < 1 << 20
    for path in (INFER, INVOKE):
        answer = post(address, bomb, path, content_encoding="gzip")
        assert status(answer) == 413
        assert "the unpacked body has 1048577 bytes, the limit is 1048576" in reason(answer)


@pytest.mark.parametrize(
    ("body", "code", "text"),
    [
        (GOOD.replace(b"0.5", b"NaN"), 422, "inputs.x"),
        (GOOD.replace(b"0.5", b"-Infinity"), 422, "inputs.x"),
        (GOOD.replace(b"0.5", b"1e400"), 422, "inputs.x"),
        (GOOD.replace(b"0.5", b"1" + b"0" * 400), 422, "outside the range of FP64"),
        (GOOD.replace(b"0.5", b"1" + b"0" * 5000), 400, "too many digits"),
        (GOOD.replace(b"[1]", b"[1" + b"0" * 400 + b"]"), 422, "inputs.x.shape"),
        (GOOD.replace(b'"name":"x"', b'"name":"x","n\\u0061me":"x"'), 400, "'name' appears twice"),
        (GOOD.replace(b"[0.5]", b"[" * 10_000 + b"]" * 10_000), 400, "nests too deeply"),
        (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, 400, "nests too deeply"),
        (GOOD[:-2], 400, "not valid JSON"),
        (tensor(name="\uff58"), 422, "\\uff58"),
        (tensor(name="x\u0301"), 422, "x\\u0301"),
        (tensor(name="x\x00"), 422, "NUL"),
        (GOOD.replace(b'"x"', b'"\\ud800"'), 422, "surrogate"),
        (tensor(extra=1), 422, "unknown field"),
        (tensor(shape=[-1]), 422, "inputs.x.shape"),
        (tensor(shape=[2**62, 2]), 422, "inputs.x.shape"),
        (tensor(datatype="FP63"), 422, "no tensor datatype"),
    ],
)
def test_tensors_that_are_none(address: str, body: bytes, code: int, text: str) -> None:
    answer = post(address, body)
    assert (status(answer), text in reason(answer)) == (code, True), answer


@pytest.mark.parametrize(
    ("body", "media", "text"),
    [
        (b'{"dataframe_split":{"columns":["x"],"data":[[1],[1,2]]}}', "application/json", "1 columns passed"),
        (b'{"dataframe_split":{"columns":["x","x"],"data":[[1,2]]}}', "application/json", "given twice"),
        (b'{"dataframe_split":{"index":[1,2],"columns":["x"],"data":[[1]]}}', "application/json", "index has 2 values"),
        (b'x\n"1\n2\n', "text/csv", "must be valid CSV"),
        (b'"x\n1\n', "text/csv", "must be valid CSV"),
        (b"x\n\xff\n", "text/csv", "valid UTF-8"),
        (b"x\n\x00\n", "text/csv", "NUL"),
        (b"", "text/csv", "must be valid CSV"),
        ("\uff58\n1\n".encode(), "text/csv", "missing inputs ['x']"),
        (b"PAR1" + b"\xff" * 100 + b"PAR1", "application/vnd.apache.parquet", "must be valid Parquet"),
    ],
)
def test_frames_that_are_none(address: str, body: bytes, media: str, text: str) -> None:
    answer = post(address, body, INVOKE, content_type=media)
    assert (status(answer), text in reason(answer)) == (400, True), answer


@pytest.mark.parametrize(
    "path",
    [
        "/v2/models/flight%E2%80%90delay/infer",
        f"{ROUTE}/versions/%D9%A1/infer",
        f"{ROUTE}/versions/%EF%BC%91/infer",
        f"{ROUTE}/versions/{'9' * 30}/infer",
        f"{ROUTE}/versions/-1/infer",
        f"{ROUTE}/versions/%00/infer",
        f"{ROUTE}/versions/%ff/infer",
        f"{ROUTE}%2finfer",
        f"{ROUTE}/../{SPEC.model}/infer",
        f"{ROUTE}/%E2%80%AEinfer",
        f"{ROUTE}/{'a' * 5000}",
    ],
)
def test_names_that_look_like_others(address: str, path: str) -> None:
    answer = post(address, GOOD, path)
    assert status(answer) == 404
    assert "does not exist" in reason(answer)
