"""What the store needs of the medium its objects lie on, and the names it uses there.

::

    objects/sha256/ab/<64 hex>      an object: written once, never changed
    leases/<id>  sweeps/<id>        who is uploading, who is collecting garbage (see `leases`)
    uploads/<64 hex>                when something was published
    condemned.json                  what garbage collection has found unreachable, and when
    refs/**                         what MLflow's runs refer to, written by its plug-in
    tmp/                            what is being written

A place knows nothing of manifests and trees.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from rayplat.errors import InvalidInput

Source = bytes | Path
"""What is added: bytes in memory, or a regular file."""

CHUNK = 1 << 20
SMALL = 4 << 20
"""Up to this many bytes are held in memory as a whole."""

OBJECTS = "objects/sha256/"
LEASES, SWEEPS, UPLOADS, REFS, TEMPORARY = "leases/", "sweeps/", "uploads/", "refs/", "tmp/"
CONDEMNED = "condemned.json"
_OBJECT = re.compile(r"objects/sha256/([0-9a-f]{2})/(\1[0-9a-f]{62})")


@dataclass(frozen=True)
class Added:
    """An object that is there now. ``written`` is 0 where it was there before, else its payload bytes."""

    digest: str
    size: int
    executable: bool
    written: int


@dataclass(frozen=True)
class Found:
    """What a listing shows. ``size`` is -1 for what is no regular file; ``modified`` is in seconds since 1970."""

    name: str
    size: int
    modified: float


class Stream(Protocol):
    """Bytes to read in order."""

    def read(self, size: int = -1, /) -> bytes: ...

    def close(self) -> None: ...


class Place(Protocol):
    """A medium that shows what was written to every reader at once, in listings too.

    All methods raise `Unavailable`, saying what to do, where the medium fails. ``parallel`` says how many calls at
    once are worth while.
    """

    parallel: int

    def add(self, sources: Iterable[Source], keep: Callable[[], None]) -> list[Added]:
        """Put each source under the digest of its bytes unless it is there; all are durable when this returns.

        ``keep`` is called often, in this thread; what it raises ends the call. What was added until then stays.
        Raises `NotFound` for an absent file, `InvalidInput` for a link or a device.
        """
        ...

    def write(self, name: str, content: bytes, durable: bool = True) -> None:
        """Put a few bytes under ``name``, in place of what was there, whole or not at all."""
        ...

    def open(self, name: str) -> Stream:
        """Read from the start. Raises `NotFound`, or `Corrupt` for what is no regular file."""
        ...

    def size(self, name: str) -> int | None:
        """Bytes under ``name``; None where there is nothing, or no regular file."""
        ...

    def list(self, prefix: str) -> Iterator[Found]:
        """All names that begin with ``prefix`` (which ends with ``/``), in any order."""
        ...

    def delete(self, name: str) -> None:
        """Remove it; nothing happens where it is absent."""
        ...


def object_name(digest: str) -> str:
    """Where an object lies."""
    name = digest.removeprefix("sha256:")
    return f"{OBJECTS}{name[:2]}/{name}"


def digest_at(name: str) -> str | None:
    """The digest of the object that belongs at ``name``; None where no object does."""
    found = _OBJECT.fullmatch(name)
    return "sha256:" + found[2] if found else None


def place_at(root: str | Path, options: Mapping[str, str] | None = None) -> Place:
    """The place behind a path, a ``file://`` URL or ``s3://bucket/prefix``. ``options`` are those of `S3Place`.

    Raises `InvalidInput` for other addresses, `Unavailable` where a folder cannot be made.
    """
    text = str(root)
    if isinstance(root, str) and "://" in text:
        url = urlsplit(text)
        if url.scheme == "s3" and url.netloc and not (url.query or url.fragment or "@" in url.netloc):
            from rayplat.artifacts.places.s3 import S3Place

            return S3Place(url.netloc, url.path, options or {})
        if url.scheme != "file" or url.netloc not in ("", "localhost") or not url.path:
            raise InvalidInput("artifacts.root", f"{text!r} is neither a path nor file:///path nor s3://bucket/prefix")
        text = unquote(url.path)
    from rayplat.artifacts.places.folder import FolderPlace

    return FolderPlace(Path(text))
