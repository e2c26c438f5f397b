"""Content encodings gzip and deflate of bodies, bounded in what they unpack to."""

from __future__ import annotations

import zlib

from rayplat.errors import BadRequest, TooLarge, UnsupportedMediaType
from rayplat.serve.protocols.strict_json import short

_GZIP, _ZLIB, _RAW = 31, 15, -15  # zlib's names of the containers
_WORTH = 1024  # bytes from which on packing pays, unless a client asks for one encoding alone
_LEVEL = 1
_CODINGS = ("gzip", "deflate")


def unpacked(body: bytes, encoding: bytes, limit: int) -> bytes:
    """``body`` without its content encoding, at most ``limit`` bytes. Raises `TooLarge`, `BadRequest` for a body that
    is cut off or damaged, and `UnsupportedMediaType` for another encoding. ``deflate`` may lack its zlib header, as old
    clients send it."""
    name = str(encoding, "latin-1").strip().lower()
    if name in ("", "identity"):
        return body
    if name in ("gzip", "x-gzip"):
        return _inflated(body, _GZIP, "gzip", limit)
    if name != "deflate":
        raise UnsupportedMediaType(f"the content encoding {short(name)!r} is not taken; gzip, deflate and identity are")
    is_zlib = len(body) >= 2 and body[0] & 0x0F == 8 and (body[0] << 8 | body[1]) % 31 == 0
    return _inflated(body, _ZLIB if is_zlib else _RAW, "deflate", limit)


def choose(accepted: bytes, size: int) -> str | None:
    """The encoding for an answer of ``size`` bytes to a client with this ``accept-encoding``; None for none."""
    wanted: list[str] = []
    for part in str(accepted, "latin-1").lower().split(","):
        name, _, quality = part.partition(";")
        if quality.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000"):
            wanted.append(name.strip())
    if size < _WORTH and len(wanted) != 1:
        return None
    return next((name for name in _CODINGS if name in wanted), None)


def packed(body: bytes, coding: str) -> bytes:
    """``body`` in the content encoding ``coding`` of `choose`."""
    packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, _GZIP if coding == "gzip" else _ZLIB)
    return packer.compress(body) + packer.flush()


def _inflated(body: bytes, container: int, name: str, limit: int) -> bytes:
    reader = zlib.decompressobj(container)
    try:
        found = reader.decompress(body, limit + 1)
    except zlib.error:
        raise BadRequest(f"the body is not valid {name}, as its content encoding says") from None
    if len(found) > limit:
        raise TooLarge("the unpacked body", len(found), limit)
    if not reader.eof or reader.unused_data:
        raise BadRequest(f"the body is cut off, or has bytes behind its {name} data")
    return found
