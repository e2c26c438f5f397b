"""Errors of our tree as gRPC statuses: the code, the text, and details that a program can read.

Details follow google.rpc (`ErrorInfo` with the error's class and arguments, `RetryInfo` where trying again can help),
sent as ``grpc-status-details-bin``; ``grpc-retry-pushback-ms`` tells gRPC's own retries the same.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

import grpc

from rayplat.errors import AlreadyExists, Overloaded, RayplatError, StaleGeneration
from rayplat.serve.grpc import definition

_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    409: grpc.StatusCode.FAILED_PRECONDITION,
    413: grpc.StatusCode.INVALID_ARGUMENT,
    422: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
_MAX_TEXT = 1500  # metadata above 8 KB is refused by many clients
_RETRY_S = 1.0

Metadata = tuple[tuple[str, str | bytes], ...]


@dataclass(frozen=True)
class Status:
    """How a call ends that failed."""

    code: grpc.StatusCode
    text: str
    metadata: Metadata


def code_of(error: RayplatError) -> grpc.StatusCode:
    """The status code of an error's class."""
    if isinstance(error, AlreadyExists):
        return grpc.StatusCode.ALREADY_EXISTS
    if isinstance(error, StaleGeneration):
        return grpc.StatusCode.ABORTED
    return _CODES.get(error.http_status, grpc.StatusCode.INTERNAL)


def status_of(error: RayplatError) -> Status:
    """Code, text and trailing metadata of an error."""
    code, text = code_of(error), _short(str(error))
    number = code.value[0]
    told = definition.message("google.rpc.Status")(code=number, message=text)
    info = definition.message("google.rpc.ErrorInfo")(reason=error.code, domain="rayplat")
    given = json.dumps(list(error.args), default=str)
    if len(given) <= _MAX_TEXT:
        info.metadata["args"] = given
    told.details.add().Pack(info)
    metadata: Metadata = ()
    if error.retryable:
        wait_s = error.retry_after_s if isinstance(error, Overloaded) else _RETRY_S
        retry = definition.message("google.rpc.RetryInfo")()
        whole = math.floor(wait_s)
        retry.retry_delay.seconds, retry.retry_delay.nanos = whole, round((wait_s - whole) * 1e9)
        told.details.add().Pack(retry)
        metadata = (("grpc-retry-pushback-ms", str(math.ceil(wait_s * 1000))),)
    return Status(code, text, (*metadata, ("grpc-status-details-bin", told.SerializeToString())))


def _short(text: str) -> str:
    return text if len(text) <= _MAX_TEXT else text[: _MAX_TEXT - 1] + "…"
