"""From a key to a share, the same in every replica, process and release of the platform.

A key's position is the first 8 bytes (big endian) of sha256(salt + NUL + key), a whole number in [0, 2**64); shares
are laid out in the order given. Whole numbers all the way: no rounding, and no position that falls off the end.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from rayplat.serve.request import Call, InferRequest
from rayplat.types import Share

WHOLE = 1 << 64
_sha256, _int = hashlib.sha256, int.from_bytes


def prefix(salt: str) -> bytes:
    """What is hashed before the key."""
    return salt.encode("utf-8", "surrogatepass") + b"\x00"


def position(salt: str, key: str) -> int:
    """Where ``key`` falls in [0, 2**64)."""
    return position_after(prefix(salt), key)


def position_after(prefixed: bytes, key: str) -> int:
    """The same for a salt that `prefix` has seen: what a request pays."""
    return _int(_sha256(prefixed + key.encode("utf-8", "surrogatepass")).digest()[:8])


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

    def __init__(self, shares: Sequence[Share], salt: str) -> None:
        total = sum(Fraction(s.weight) for s in shares)
        below, self._ends = Fraction(0), list[int]()
        for share in shares:
            below += Fraction(share.weight)
            self._ends.append(int(below * WHOLE / total))
        self._targets = tuple(s.target for s in shares)
        self._prefix = prefix(salt)

    def index(self, key: str) -> int:
        """Which of the shares ``key`` belongs to."""
        return bisect_right(self._ends, position_after(self._prefix, key))

    def target(self, key: str) -> str:
        return self._targets[self.index(key)]


class StickyKey:
    """What a request is assigned by: ``request_id``, ``entity``, ``header:<name>``, ``input:<name>`` or
    ``parameter:<name>``. A request that lacks it goes by its id."""

    KINDS = ("request_id", "entity", "header:<name>", "input:<name>", "parameter:<name>")

    def __init__(self, rule: str) -> None:
        self.kind, _, self.name = rule.partition(":")
        if self.kind == "header":
            self.name = self.name.lower()

    def of(self, request: InferRequest, call: Call) -> str:
        """The key. Of several rows the first one's counts."""
        kind, found = self.kind, None
        if kind == "request_id":
            return call.request_id
        if kind == "entity":
            found = request.entity[0] if request.entity else None
        elif kind == "header":
            found = call.headers.get(self.name)
        elif kind == "input":
            found = _first(request.inputs.get(self.name))
        else:
            found = request.params.get(self.name)
        return call.request_id if found is None else _text(found)


def _first(values: Any) -> Any:
    if values is None or len(values) == 0:
        return None
    return values[0] if isinstance(values, list) else np.asarray(values).flat[0]


def _text(value: Any) -> str:
    """One text for one value, whichever protocol it came by: 7, 7.0 of a whole number's type, and numpy's 7 alike."""
    if isinstance(value, str):
        return value
    if isinstance(value, tuple):
        return "\x1f".join(map(_text, value))
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, np.generic):
        value = value.item()
    return repr(value)
