"""From a key to a share, the same in every replica, process and release of the platform.

A key's position is the first 8 bytes (big endian) of sha256(salt + NUL + key), a whole number in [0, 2**64); shares
are laid out in the order given. Whole numbers all the way: no rounding, and no position that falls off the end.
"""

from __future__ import annotations

import hashlib
import struct
from bisect import bisect_right
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from rayplat.serve.request import Call, InferRequest
from rayplat.types import Share

WHOLE = 1 << 64
_sha256 = hashlib.sha256
_first_8 = struct.Struct(">Q").unpack_from

Key = Callable[[InferRequest, Call], str]


def encoded(key: str) -> bytes:
    """A key or a salt as it is hashed. Any text has one, also with half a character in it."""
    return key.encode("utf-8", "surrogatepass")


def prefix(salt: str) -> bytes:
    """What is hashed before the key."""
    return encoded(salt) + b"\x00"


def position(salt: str, key: str) -> int:
    """Where ``key`` falls in [0, 2**64)."""
    return position_after(prefix(salt), encoded(key))


def position_after(prefixed: bytes, key: bytes) -> int:
    """The same for a salt that `prefix` and a key that `encoded` has seen: what a request pays."""
    found: int = _first_8(_sha256(prefixed + key).digest())[0]
    return found


def unit(salt: str, key: str) -> float:
    """`position` as a number in [0, 1), for people and reports; decisions compare whole numbers."""
    return (position(salt, key) >> 11) / (1 << 53)


def threshold(share: float) -> int:
    """Positions below it belong to the first ``share`` (0 to 1) of all keys."""
    return int(Fraction(share) * WHOLE)


def sampled(salt: str, key: str, share: float) -> bool:
    """Whether ``key`` is among the ``share`` that is sampled. A larger share keeps every key of a smaller one."""
    return position(salt, key) < threshold(share)


class Shares:
    """Targets by position. Only the ratio of weights counts; a weight must be finite and above 0."""

    __slots__ = ("ends", "prefix", "targets")

    def __init__(self, shares: Sequence[Share], salt: str) -> None:
        total = sum(Fraction(s.weight) for s in shares)
        below, self.ends = Fraction(0), list[int]()
        for share in shares:
            below += Fraction(share.weight)
            self.ends.append(int(below * WHOLE / total))
        self.targets = tuple(s.target for s in shares)
        self.prefix = prefix(salt)

    def index(self, key: bytes) -> int:
        """Which of the shares the `encoded` key belongs to."""
        return bisect_right(self.ends, position_after(self.prefix, key))

    def target(self, key: str) -> str:
        return self.targets[self.index(encoded(key))]


def sticky_key(rule: str) -> Key:
    """What reads the key that a request is assigned by: ``request_id``, ``entity``, ``header:<name>``, ``input:<name>``
    or ``parameter:<name>``. Of several rows the first one's counts; a request that lacks it goes by its id."""
    kind, _, name = rule.partition(":")
    if kind == "request_id":
        return lambda request, call: call.request_id
    if kind == "header":
        lower = name.lower()
        return lambda request, call: call.headers.get(lower) or call.request_id
    if kind == "entity":
        return lambda request, call: _text(request.entity[0] if request.entity else None, call)
    if kind == "input":
        return lambda request, call: _text(_first(request.inputs.get(name)), call)
    return lambda request, call: _text(request.params.get(name), call)


def header_of(rule: str) -> str | None:
    """The header, in lower case, that a rule goes by."""
    kind, _, name = rule.partition(":")
    return name.lower() if kind == "header" else None


def _first(values: Any) -> Any:
    if values is None or len(values) == 0:
        return None
    return values[0] if isinstance(values, list) else np.asarray(values).flat[0]


def _text(value: Any, call: Call) -> str:
    """One text for one value, whichever protocol it came by: a list's 7 and an array's alike."""
    if type(value) is str:
        return value
    if value is None:
        return call.request_id
    if isinstance(value, tuple):
        return "\x1f".join(_text(part, call) for part in value)
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, np.generic):
        value = value.item()
    return value if isinstance(value, str) else repr(value)
