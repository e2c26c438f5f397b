"""Server-sent events: a message of an event stream as bytes (WHATWG HTML, section 9.2)."""

from __future__ import annotations


def event(data: bytes) -> bytes:
    """One event that carries ``data``, which has no line breaks (compact JSON)."""
    return b"data: " + data + b"\n\n"


def error(data: bytes) -> bytes:
    """The last event of a stream that failed."""
    return b"event: error\ndata: " + data + b"\n\n"
