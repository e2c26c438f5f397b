"""Requests on their way to another variant's host, and answers on their way back: bytes and what they mean.

Pickle of plain tuples, because each object has its price: 30 columns of one request take twenty times as long as its
part of 30 columns of many requests, which is how copies for shadows go. What a caller knows of the version that answers
is not sent again. Time left travels as seconds: clocks of two machines have nothing in common.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from rayplat.errors import RayplatError
from rayplat.serve.ports import LoadedVersion
from rayplat.serve.request import Answer, Call, InferRequest, Values

Copy = tuple[InferRequest, Call]
COPIES_EVERY_S = 0.1  # how often a host sends its shadows what has gathered
Named = tuple[int, str]
"""Version and digest: which version exactly."""

_PROTOCOL = 5


def pack_request(request: InferRequest, call: Call, role: str, known: Named | None) -> bytes:
    """A request for another host. ``known`` is the version whose description the caller has."""
    sent = (_request(request), request.inputs, _call(call), _left_s(call), role, known)
    return pickle.dumps(sent, _PROTOCOL)


def unpack_request(packed: bytes) -> tuple[InferRequest, Call, str, Named | None]:
    """The same in the other host, its deadline by this machine's clock."""
    request, inputs, call, left_s, role, known = pickle.loads(packed)
    deadline = None if left_s is None else time.monotonic() + left_s
    return _as_request(request, inputs), _as_call(call, deadline), role, known


def pack_answer(answer: Answer, known: Named | None) -> bytes:
    """An answer, with its version's description where the caller does not know it."""
    loaded = answer.loaded
    named = (loaded.version, loaded.digest)
    described = None if named == known else loaded.described()
    body = (answer.request_id, answer.head, answer.variant, answer.outputs, answer.latency_ms)
    return pickle.dumps((True, body, named, described), _PROTOCOL)


def pack_error(error: RayplatError) -> bytes:
    return pickle.dumps((False, error.with_traceback(None), None, None), _PROTOCOL)


def unpack_answer(packed: bytes, known: LoadedVersion | None) -> Answer:
    """The answer, or the other host's error raised. ``known`` is the description that the request named."""
    went_well, body, _, described = pickle.loads(packed)
    if not went_well:
        raise body
    loaded = described if described is not None else known
    assert loaded is not None  # the other host leaves out only what it was told is known
    request_id, head, variant, outputs, latency_ms = body
    return Answer(request_id, head, loaded, variant, outputs, latency_ms)


# --- copies ---------------------------------------------------------------------------------------


def pack_copies(copies: Sequence[Copy], pause: Callable[[], None] = lambda: None) -> bytes:
    """Many requests at once. ``pause`` is called after each piece of work, so that other threads get their turn."""
    return pickle.dumps([_pack_group(group, pause) for group in _groups(copies)], _PROTOCOL)


def unpack_copies(packed: bytes) -> list[Copy]:
    """The copies, those with the same inputs next to each other. They have no deadline: it is the shadow's to set."""
    return [copy for group in pickle.loads(packed) for copy in _unpack_group(*group)]


def _groups(copies: Sequence[Copy]) -> Iterator[list[Copy]]:
    """Copies that have the same inputs, of the same types and shapes but for the number of rows."""
    found: dict[tuple[Any, ...], list[Copy]] = {}
    for copy in copies:
        inputs = copy[0].inputs
        alike = tuple([(name, *_kind(values)) for name, values in inputs.items()])
        found.setdefault(alike, []).append(copy)
    yield from found.values()


def _kind(values: Values) -> tuple[Any, ...]:
    return ("list",) if isinstance(values, list) else (values.dtype, values.shape[1:])


def _pack_group(copies: list[Copy], pause: Callable[[], None]) -> tuple[Any, ...]:
    columns = {}
    for name, first in copies[0][0].inputs.items():
        parts = [request.inputs[name] for request, _ in copies]
        together = [value for part in parts for value in part] if isinstance(first, list) else np.concatenate(parts)
        columns[name] = together
        pause()
    return columns, [(_request(request), _call(call)) for request, call in copies]


def _unpack_group(columns: dict[str, Values], told: list[tuple[Any, Any]]) -> Iterator[Copy]:
    start = 0
    for request, call in told:
        end = start + request[0]
        inputs = {name: values[start:end] for name, values in columns.items()}
        yield _as_request(request, inputs), _as_call(call, None)
        start = end


# --- parts ----------------------------------------------------------------------------------------


def _request(r: InferRequest) -> tuple[Any, ...]:
    return r.rows, r.outputs, r.id, r.entity, r.event_time, dict(r.columns), dict(r.params)


def _as_request(sent: tuple[Any, ...], inputs: dict[str, Values]) -> InferRequest:
    rows, outputs, its_id, entity, event_time, columns, params = sent
    return InferRequest(rows, inputs, outputs, its_id, entity, event_time, columns, params)


def _call(call: Call) -> tuple[Any, ...]:
    """Who asks was checked where the request came in, and headers have done their part there."""
    return call.request_id, call.received_at, call.traceparent


def _as_call(sent: tuple[Any, ...], deadline: float | None) -> Call:
    request_id, received_at, traceparent = sent
    return Call(request_id, received_at, deadline=deadline, traceparent=traceparent)


def _left_s(call: Call) -> float | None:
    return None if call.deadline is None else call.deadline - time.monotonic()


def within(call: Call, limit_s: float) -> Call:
    """``call`` with at most ``limit_s`` seconds left."""
    latest = time.monotonic() + limit_s
    return call if call.deadline is not None and call.deadline < latest else replace(call, deadline=latest)
