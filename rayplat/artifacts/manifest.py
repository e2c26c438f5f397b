"""What a tree of files is, as bytes: the canonical manifest whose sha256 is the tree's identity.

Canonical JSON is that of RFC 8785: finite numbers, integers within 2**53, keys in the order of their UTF-16 code
units. This module reads and writes no files.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from json.encoder import encode_basestring
from typing import Any

from rayplat.errors import InvalidInput

VERSION = 1
PREFIX = b'{"entries":[{"'
"""What every encoded manifest begins with."""
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_CONTROL = re.compile(r"[\\\x00-\x1f\x7f]")
_SURROGATE = re.compile("[\ud800-\udfff]")


def sha256(content: bytes) -> str:
    """The digest string of ``content``."""
    return "sha256:" + hashlib.sha256(content).hexdigest()


def check_digest(field: str, digest: str) -> str:
    """``digest`` itself, or `InvalidInput` where it is not ``sha256:`` and 64 lower-case hex digits."""
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise InvalidInput(field, f"{str(digest)[:80]!r} is no digest: 'sha256:' and 64 lower-case hex digits")
    return digest


def canonical(value: Any) -> bytes:
    """RFC 8785 bytes of ``value``. Raises `InvalidInput` for NaN, infinity, large integers, other types and keys."""
    try:
        return _encode(value).encode("utf-8")
    except UnicodeEncodeError:
        raise InvalidInput("canonical JSON", "a string holds a lone surrogate and is no Unicode text") from None


def _encode(value: Any) -> str:
    match value:
        case str():
            return encode_basestring(value)
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case int():
            if abs(value) > 2**53:
                raise InvalidInput("canonical JSON", f"{value} does not fit a double exactly; use a string")
            return str(value)
        case float():
            return _number(value)
        case list() | tuple():
            return "[" + ",".join(_encode(v) for v in value) + "]"
        case Mapping():
            if not all(isinstance(k, str) for k in value):
                raise InvalidInput("canonical JSON", "the keys of an object must be strings")
            keys = sorted(value, key=lambda k: k.encode("utf-16-be", "surrogatepass"))
            return "{" + ",".join(f"{encode_basestring(k)}:{_encode(value[k])}" for k in keys) + "}"
    raise InvalidInput("canonical JSON", f"a {type(value).__name__} cannot be encoded")


def _number(value: float) -> str:
    """ECMAScript's Number::toString: Python's shortest digits, laid out by its rules."""
    if not math.isfinite(value):
        raise InvalidInput("canonical JSON", f"{value} is no JSON number")
    if value == 0:
        return "0"
    mantissa, exponent = f"{abs(float(value))!r}e0".split("e")[:2]
    whole, _, fraction = mantissa.partition(".")
    digits = (whole + fraction).lstrip("0")
    point = len(whole) + int(exponent) - (len(whole + fraction) - len(digits))  # value = 0.digits * 10**point
    digits = digits.rstrip("0")
    sign, n = "-" if value < 0 else "", len(digits)
    if n <= point <= 21:
        return sign + digits + "0" * (point - n)
    if 0 < point <= 21:
        return f"{sign}{digits[:point]}.{digits[point:]}"
    if -6 < point <= 0:
        return f"{sign}0.{'0' * -point}{digits}"
    return f"{sign}{digits[0]}{'.' if n > 1 else ''}{digits[1:]}e{'+' if point > 0 else '-'}{abs(point - 1)}"


@dataclass(frozen=True)
class Entry:
    """One file of a tree. ``path`` is relative with ``/``; of its mode only the executable bit counts."""

    path: str
    size: int
    digest: str
    executable: bool = False


@dataclass(frozen=True)
class Manifest:
    """A tree: what ``kind`` of thing it is, and its files sorted by the UTF-8 bytes of their paths."""

    kind: str
    entries: tuple[Entry, ...]

    @property
    def size_bytes(self) -> int:
        return sum(e.size for e in self.entries)

    def encode(self) -> bytes:
        """The canonical bytes; their sha256 is the tree's digest."""
        entries = ",".join(
            f'{{"digest":"{e.digest}","executable":{"true" if e.executable else "false"},'
            f'"path":{encode_basestring(e.path)},"size":{e.size}}}'
            for e in self.entries
        )  # what `canonical` makes of them, faster
        return f'{{"entries":[{entries}],"kind":{encode_basestring(self.kind)},"v":{VERSION}}}'.encode()


def build(kind: str, entries: Iterable[Entry]) -> Manifest:
    """The manifest of ``entries``, sorted. Raises `InvalidInput` for an empty tree or a path no tree may hold."""
    if not isinstance(kind, str) or not kind:
        raise InvalidInput("kind", "say what kind of thing the tree is, such as 'model'")
    ordered = tuple(sorted(entries, key=lambda e: e.path.encode("utf-8", "surrogatepass")))
    if not ordered:
        raise InvalidInput("tree", "it holds no file")
    for entry in ordered:
        check_path(entry.path)
        check_digest(entry.path, entry.digest)
        if type(entry.size) is not int or not 0 <= entry.size <= 2**53 or type(entry.executable) is not bool:
            raise InvalidInput(entry.path, f"size {entry.size!r} or mode {entry.executable!r} is none of a file")
    check_clashes([e.path for e in ordered])
    return Manifest(kind, ordered)


def decode(content: bytes) -> Manifest:
    """The manifest in ``content``, checked like a new one: bytes that were forged or are no manifest are refused."""
    try:
        tree = json.loads(content)
        if tree["v"] != VERSION:
            raise InvalidInput("tree manifest", f"version {tree['v']!r} is not known to this release")
        found = build(tree["kind"], [Entry(**e) for e in tree["entries"]])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
        raise InvalidInput("tree manifest", f"the object is no tree manifest ({type(e).__name__})") from e
    if found.encode() != content:
        raise InvalidInput("tree manifest", "it is not in canonical form")
    return found


def check_path(path: str) -> str:
    """``path`` itself, or `InvalidInput`: relative, ``/`` between names, no ``.`` or ``..``, NFC, no controls."""
    problem = None
    if not path or path.startswith("/"):
        problem = "it must be relative and not empty"
    elif any(part in ("", ".", "..") for part in path.split("/")):
        problem = "it has an empty, '.' or '..' part"
    elif _CONTROL.search(path):
        problem = "it holds a backslash or a control character"
    elif _SURROGATE.search(path):
        problem = "its name is not UTF-8"
    elif unicodedata.normalize("NFC", path) != path:
        problem = "its name is not in Unicode normal form NFC; rename it"
    if problem:
        raise InvalidInput("path in tree", f"{path!r}: {problem}")
    return path


def check_clashes(paths: list[str]) -> None:
    """Refuse two paths that are one file where case does not count, and a file that is also a folder."""
    if len(set(paths)) != len(paths):
        raise InvalidInput("path in tree", "one path is listed twice")
    seen: dict[str, tuple[str, bool]] = {}
    for path in paths:
        parts = path.split("/")
        for depth in range(1, len(parts) + 1):
            here = ("/".join(parts[:depth]), depth == len(parts))
            other = seen.setdefault(here[0].casefold(), here)
            if other != here:
                raise InvalidInput("path in tree", f"{path!r} clashes with {other[0]!r}: one file on some disks")
