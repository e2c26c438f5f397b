"""The corpus of what may be done to artifacts behind the store's back; each must be refused whenever it is met.

Three tables by name: of a stored tree, of a folder it was checked out to, and of manifests that were made up.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rayplat.artifacts.manifest import sha256
from rayplat.artifacts.places.place import object_name
from rayplat.artifacts.store import ArtifactStore
from rayplat.errors import AlreadyExists, Corrupt, InvalidInput, NotFound, RayplatError

BIG, SMALL = bytes(range(256)) * 12, b'{"a":1}'
REFUSALS = (Corrupt, InvalidInput, NotFound, AlreadyExists)


class Stored:
    """A store in ``work`` with one tree: ``big`` and ``below/small``."""

    def __init__(self, work: Path) -> None:
        self.work, self.root = work, work / "store"
        self.store = ArtifactStore(self.root)
        source = work / "source"
        (source / "below").mkdir(parents=True)
        (source / "big").write_bytes(BIG)
        (source / "below" / "small").write_bytes(SMALL)
        self.digest = self.store.put_tree(source, "model").digest

    def object(self, digest: str) -> Path:
        return self.root / object_name(digest)

    @property
    def big(self) -> Path:
        return self.object(sha256(BIG))

    @property
    def small(self) -> Path:
        return self.object(sha256(SMALL))


def _write(path: Path, content: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(content)


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    _write(path, bytes(content))


def _swap(one: Path, other: Path) -> None:
    first, second = one.read_bytes(), other.read_bytes()
    _write(one, second)
    _write(other, first)


def _link(path: Path, aside: Path) -> None:
    path.rename(aside)
    path.symlink_to(aside)


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _second_name(path: Path, aside: Path) -> None:
    os.link(path, aside)
    _flip(aside)


def _other_manifest(stored: Stored) -> None:
    """A sound manifest of other names in the place of the true one."""
    content = stored.object(stored.digest).read_bytes().replace(b'"big"', b'"bag"')
    _write(stored.object(stored.digest), content)


STORED: dict[str, Callable[[Stored], object]] = {
    "bit flip": lambda s: _flip(s.big),
    "truncation": lambda s: _write(s.big, BIG[:-1]),
    "emptied": lambda s: _write(s.big, b""),
    "bytes added": lambda s: _write(s.big, BIG + b"\0"),
    "missing": lambda s: s.big.unlink(),
    "renamed": lambda s: s.big.rename(s.big.with_name("0" * 64)),
    "swapped": lambda s: _swap(s.big, s.small),
    "symlink to the same bytes": lambda s: _link(s.big, s.work / "aside"),
    "dangling symlink": lambda s: (s.big.unlink(), s.big.symlink_to(s.work / "nowhere")),
    "symlink to a device": lambda s: (s.big.unlink(), s.big.symlink_to("/dev/zero")),
    "symlinked folder": lambda s: _link(s.big.parent, s.work / "aside"),
    "symlinked folder above": lambda s: _link(s.big.parent.parent, s.work / "aside"),
    "symlinked objects": lambda s: _link(s.root / "objects", s.work / "aside"),
    "pipe": lambda s: _fifo(s.big),
    "folder": lambda s: _folder(s.big),
    "changed by a second name": lambda s: _second_name(s.big, s.work / "aside"),
    "manifest: bit flip": lambda s: _flip(s.object(s.digest)),
    "manifest: truncation": lambda s: _write(s.object(s.digest), s.object(s.digest).read_bytes()[:-1]),
    "manifest: missing": lambda s: s.object(s.digest).unlink(),
    "manifest: another one": _other_manifest,
    "manifest: symlink": lambda s: _link(s.object(s.digest), s.work / "aside"),
}

CHECKED_OUT: dict[str, Callable[[Path, Path], object]] = {
    "bit flip": lambda out, aside: _flip(out / "big"),
    "truncation": lambda out, aside: _write(out / "big", BIG[:-1]),
    "extra file": lambda out, aside: (out / "below" / "extra").write_bytes(b""),
    "extra folder": lambda out, aside: (out / "below" / "extra").mkdir(),
    "extra link": lambda out, aside: (out / "extra").symlink_to("big"),
    "missing": lambda out, aside: (out / "big").unlink(),
    "renamed": lambda out, aside: (out / "big").rename(out / "BIG"),
    "swapped": lambda out, aside: _swap(out / "big", out / "below" / "small"),
    "moved": lambda out, aside: (out / "big").rename(out / "below" / "big"),
    "symlink to the same bytes": lambda out, aside: _link(out / "big", aside),
    "dangling symlink": lambda out, aside: ((out / "big").unlink(), (out / "big").symlink_to(aside)),
    "symlinked folder": lambda out, aside: _link(out / "below", aside),
    "the whole a symlink": _link,
    "pipe": lambda out, aside: _fifo(out / "big"),
    "a second name outside": lambda out, aside: os.link(out / "big", aside),
    "executable": lambda out, aside: (out / "big").chmod(0o755),
    "a file in its place": lambda out, aside: (out.rename(aside), out.write_bytes(b"")),
}


def _manifest(*paths: str, **change: Any) -> bytes:
    """A made-up manifest whose objects are there; ``change`` goes into each entry, keys with ``top_`` beside them."""
    top = {key.removeprefix("top_"): value for key, value in change.items() if key.startswith("top_")}
    entry = {"digest": sha256(SMALL), "executable": False, "size": len(SMALL)}
    entry |= {key: value for key, value in change.items() if not key.startswith("top_")}
    entries = sorted(({**entry, "path": path} for path in paths), key=lambda e: str(e["path"]).encode(errors="replace"))
    made = {"entries": entries, "kind": "model", "v": 1, **top}
    return json.dumps(made, separators=(",", ":"), sort_keys=True, ensure_ascii=False).encode()


FORGED: dict[str, bytes] = {
    "..": _manifest("../x"),
    ".. inside": _manifest("a/../../x"),
    "absolute": _manifest("/tmp/x"),
    "backslash": _manifest("a\\x"),
    "NUL": _manifest("a\x00x"),
    "newline": _manifest("a\nx"),
    "empty part": _manifest("a//x"),
    "dot": _manifest("./x"),
    "empty path": _manifest(""),
    "case clash": _manifest("Model", "model"),
    "folders that clash": _manifest("A/x", "a/y"),
    "not NFC": _manifest("e\u0301"),
    "a path twice": _manifest("a", "a"),
    "a file that is a folder": _manifest("a", "a/x"),
    "negative size": _manifest("a", size=-1),
    "huge size": _manifest("a", size=2**60),
    "bool as size": _manifest("a", size=True),
    "a wrong size": _manifest("a", size=len(SMALL) + 1),
    "a number as mode": _manifest("a", executable=1),
    "an extra key": _manifest("a", setuid=True),
    "an extra key beside": _manifest("a", top_extra=1),
    "an unknown version": _manifest("a", top_v=2),
    "no version": _manifest("a").replace(b',"v":1', b""),
    "no entries": _manifest(),
    "an object that is not there": _manifest("a", digest="sha256:" + "0" * 64),
    "a digest that is a path": _manifest("a", digest="sha256:" + "../" * 21 + "x"),
    "not canonical": _manifest("a") + b" ",
    "keys in another order": _manifest("a").replace(b'"kind":"model","v":1', b'"v":1,"kind":"model"'),
    "nested too deep": b'{"entries":[{"' + b"[" * 100_000,
    "not sorted": _manifest("a", "b").replace(b'"path":"a"', b'"path":"c"'),
}

PUT: dict[str, Callable[[Path], object]] = {
    "symlink to a file": lambda tree: (tree / "x").symlink_to(tree / "big"),
    "symlink to a folder": lambda tree: (tree / "x").symlink_to(tree / "below"),
    "symlink out": lambda tree: (tree / "x").symlink_to("/etc/passwd"),
    "dangling symlink": lambda tree: (tree / "x").symlink_to("nowhere"),
    "pipe": lambda tree: os.mkfifo(tree / "x"),
    "socket": lambda tree: _bind(tree / "x"),
    "backslash": lambda tree: (tree / "a\\b").write_bytes(b""),
    "newline": lambda tree: (tree / "a\nb").write_bytes(b""),
    "no UTF-8": lambda tree: Path(os.fsdecode(os.fsencode(tree) + b"/\xff")).write_bytes(b""),
    "case clash": lambda tree: (tree / "BIG").write_bytes(b""),
    "not NFC": lambda tree: (tree / "e\u0301").write_bytes(b""),
}


def _bind(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # an address of a socket is short
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.chdir(here)


def refused(ask: Callable[[], object]) -> str | None:
    """Which error refused it; None when nothing did."""
    try:
        ask()
    except REFUSALS as e:
        return type(e).__name__
    except RayplatError:
        return None
    return None


def unrefused(work: Path) -> list[str]:
    """Every tampering of the corpus that got through: none must."""
    through = []
    for n, (name, tamper) in enumerate(STORED.items()):
        stored = Stored(work / f"stored-{n}")
        tamper(stored)
        out = stored.work / "out"
        if refused(lambda s=stored, o=out: s.store.checkout(s.digest, o)) is None or out.exists():  # type: ignore[misc]
            through.append(f"stored: {name}")
    for n, (name, damage) in enumerate(CHECKED_OUT.items()):
        stored = Stored(work / f"out-{n}")
        out = stored.store.checkout(stored.digest, stored.work / "out")
        damage(out, stored.work / "aside")
        if refused(lambda s=stored, o=out: s.store.checkout(s.digest, o)) is None:  # type: ignore[misc]
            through.append(f"checked out: {name}")
    stored = Stored(work / "forged")
    for name, content in FORGED.items():
        digest, out = stored.store.put_bytes(content, "model").digest, stored.work / "out"
        if refused(lambda d=digest, o=out: stored.store.checkout(d, o)) is None or out.exists():  # type: ignore[misc]
            through.append(f"forged: {name}")
    for n, (name, add) in enumerate(PUT.items()):
        stored = Stored(work / f"put-{n}")
        add(stored.work / "source")
        if refused(lambda s=stored: s.store.put_tree(s.work / "source", "model")) is None:  # type: ignore[misc]
            through.append(f"put: {name}")
    return through


def size() -> int:
    """How many there are."""
    return len(STORED) + len(CHECKED_OUT) + len(FORGED) + len(PUT)
