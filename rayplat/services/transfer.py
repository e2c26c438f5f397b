"""Artifacts over HTTP: what the platform lacks is sent in parts, what it has is fetched and checked here.

A transfer that was cut off goes on: the platform says how far an upload came, a download begins where its file ends.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rayplat.artifacts import manifest as manifests
from rayplat.artifacts.manifest import Entry
from rayplat.artifacts.sources import regular, walk
from rayplat.errors import AlreadyExists, Corrupt, InvalidInput, Unavailable
from rayplat.services.artifacts import Artifacts, Transfer
from rayplat.services.http import request, streamed
from rayplat.services.spool import PART_BYTES
from rayplat.types import ArtifactInfo

if TYPE_CHECKING:
    import httpx

R = TypeVar("R")
_ATTEMPTS = 5
_ASKED = 5_000


class RemoteArtifacts(Artifacts):
    """`put` and `get` by requests; the verbs are made by `rayplat.services.remote`."""

    _http: httpx.Client

    def put(self, path: Path | str, kind: str = "file", run_id: str | None = None) -> ArtifactInfo:
        """Send what the platform lacks of a file or folder, and store it under the digest of its content."""
        path = Path(path)
        if not path.is_dir() or path.is_symlink():
            entry = _entry(path, path.name)
            self._send_missing({entry.digest: (path, entry)})
            return self.add_file(entry.digest, kind, run_id)
        names = sorted(walk(path)[0])
        for name in names:
            manifests.check_path(name)
        entries = [_entry(path / name, name) for name in names]
        tree = manifests.build(kind, entries)
        self._send_missing({entry.digest: (path / entry.path, entry) for entry in tree.entries})
        return self.add_tree(kind, tree.entries, run_id)

    def get(self, digest: str, into: Path | str) -> Path:
        """Fetch an artifact into the new file or folder ``into``; it appears once all bytes were checked."""
        into, found = Path(into), self.show(digest)
        if into.exists():
            raise AlreadyExists(f"{into} exists: choose another path")
        part = into.with_name(f".{into.name}.{digest[7:19]}.part")
        if not found.files:
            part.parent.mkdir(parents=True, exist_ok=True)
            self._fetch(digest, part)
        for entry in found.files:
            file = part / manifests.check_path(entry.path)
            file.parent.mkdir(parents=True, exist_ok=True)
            self._fetch(entry.digest, file)
            file.chmod(0o555 if entry.executable else 0o444)
        part.rename(into)
        return into

    def _send_missing(self, files: dict[str, tuple[Path, Entry]]) -> None:
        digests = list(files)
        for first in range(0, len(digests), _ASKED):
            for digest in self.missing(tuple(digests[first : first + _ASKED])):
                _patiently(lambda digest=digest: self._send(digest, *files[digest]))  # type: ignore[misc]

    def _send(self, digest: str, path: Path, entry: Entry) -> None:
        def ask(method: str, **kwargs: Any) -> Transfer:
            return Transfer(**request(self._http, method, f"/transfers/{digest}", **kwargs).json())

        at = ask("GET")
        with regular(path) as file:
            while not at.stored:
                file.seek(at.received)
                part = file.read(min(PART_BYTES, entry.size - at.received))
                if not part and entry.size:
                    raise InvalidInput("file", f"{str(path)!r} became shorter while it was sent: send it again")
                where = {"offset": at.received, "size": entry.size}
                at = ask("PUT", params=where, content=part, headers={"Content-Type": "application/octet-stream"})

    def _fetch(self, digest: str, file: Path) -> None:
        _patiently(lambda: self._download(digest, file))
        with file.open("rb") as content:
            actual = "sha256:" + hashlib.file_digest(content, "sha256").hexdigest()
        if actual != digest:
            file.unlink()
            raise Corrupt(f"artifact {digest}", digest, actual)

    def _download(self, digest: str, file: Path) -> None:
        if file.exists() and not os.access(file, os.W_OK):
            return  # it was whole before an interruption; its digest is checked anyhow
        with file.open("ab") as out:
            for chunk in streamed(self._http, f"/transfers/{digest}/bytes", {"offset": out.tell()}):
                out.write(chunk)


def _entry(path: Path, name: str) -> Entry:
    with regular(path) as file:
        about = os.fstat(file.fileno())
        digest = "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
        return Entry(name, file.tell(), digest, bool(about.st_mode & 0o100))


def _patiently(work: Callable[[], R]) -> R:
    """``work()``, again where the platform could not be reached: it goes on where it ended."""
    for n in range(1, _ATTEMPTS):
        try:
            return work()
        except Unavailable:
            time.sleep(0.2 * 2**n)
    return work()
