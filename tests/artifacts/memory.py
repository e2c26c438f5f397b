"""A place in memory: what `FolderPlace` and `S3Place` are to the store, kept honest by the same contract suite."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from rayplat.artifacts.places.place import Added, Found, Source, Stream, object_name
from rayplat.artifacts.sources import regular
from rayplat.errors import NotFound


class MemoryPlace:
    """``step(what)`` is called behind every change and every look, as the moment at which others may act."""

    parallel = 1

    def __init__(self, now: Callable[[], float] = time.time, step: Callable[[str], None] = lambda _: None) -> None:
        self.held: dict[str, tuple[bytes, float]] = {}
        self._now, self._step = now, step

    def add(self, sources: Iterable[Source], keep: Callable[[], None]) -> list[Added]:
        return [self._add(source, keep) for source in sources]

    def write(self, name: str, content: bytes, durable: bool = True) -> None:
        self._step("before write")
        self.held[name] = (content, self._now())
        self._step("write")

    def open(self, name: str) -> Stream:
        found = self.held.get(name)
        self._step("open")
        if found is None:
            raise NotFound("object", name)
        return io.BytesIO(found[0])

    def size(self, name: str) -> int | None:
        found = self.held.get(name)
        self._step("size")
        return None if found is None else len(found[0])

    def list(self, prefix: str) -> Iterator[Found]:
        found = [Found(name, len(held[0]), held[1]) for name, held in self.held.items() if name.startswith(prefix)]
        self._step("list")
        yield from found

    def delete(self, name: str) -> None:
        self.held.pop(name, None)
        self._step("delete")

    def _add(self, source: Source, keep: Callable[[], None]) -> Added:
        keep()
        executable = False
        if isinstance(source, Path):
            with regular(source) as file:
                executable = bool(os.fstat(file.fileno()).st_mode & stat.S_IXUSR)
                content = file.read()
        else:
            content = source
        digest = "sha256:" + hashlib.sha256(content).hexdigest()
        name = object_name(digest)
        held = self.held.get(name)
        self._step("look")
        if held is not None and hashlib.sha256(held[0]).hexdigest() in name:
            return Added(digest, len(content), executable, 0)
        self._step("before upload")
        self.held[name] = (content, self._now())
        self._step("upload")
        return Added(digest, len(content), executable, len(content))
