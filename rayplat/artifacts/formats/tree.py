"""A tree of files to be judged before it is used: a folder, or a tree that is still in the store."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from rayplat.artifacts.manifest import check_path
from rayplat.artifacts.store import ArtifactStore
from rayplat.errors import InvalidInput, NotFound, TooLarge

MAX_FILES = 100_000


@dataclass(frozen=True)
class Tree:
    """``sizes`` in bytes by path, sorted; ``opener`` gives a seekable file."""

    sizes: dict[str, int]
    opener: Callable[[str], BinaryIO]

    def open(self, path: str) -> BinaryIO:
        return self.opener(path)

    def head(self, path: str, size: int = 64) -> bytes:
        with self.opener(path) as file:
            return file.read(size)

    def read(self, path: str, limit: int) -> bytes:
        """The whole file. Raises `NotFound`, or `TooLarge` above ``limit`` bytes."""
        if path not in self.sizes:
            raise NotFound("file of the model", path)
        if self.sizes[path] > limit:
            raise TooLarge(path, self.sizes[path], limit)
        with self.opener(path) as file:
            return file.read()


def folder_tree(folder: Path) -> Tree:
    """The files below ``folder``. Links and devices are refused (`InvalidInput`)."""
    folder = Path(folder)
    if not folder.is_dir():
        raise NotFound("folder", str(folder))
    sizes: dict[str, int] = {}
    for where, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            path = Path(where) / name
            relative = path.relative_to(folder).as_posix()
            if path.is_symlink() or not (path.is_dir() or path.is_file()):
                raise InvalidInput("model", f"{relative!r} is a link or a device")
            if path.is_file():
                sizes[check_path(relative)] = path.stat().st_size
        if len(sizes) > MAX_FILES:
            raise TooLarge("the model", len(sizes), MAX_FILES, "files")
    return Tree(dict(sorted(sizes.items())), lambda path: (folder / path).open("rb"))


def stored_tree(store: ArtifactStore, digest: str) -> Tree:
    """A tree in ``store``. A file is fetched, and hashed on the way, when it is first opened, and kept on disk for as
    long as the tree is held."""
    entries = {entry.path: entry for entry in store.manifest(digest).entries}
    if len(entries) > MAX_FILES:
        raise TooLarge("the model", len(entries), MAX_FILES, "files")
    fetched = _Fetched(store)
    return Tree({path: e.size for path, e in entries.items()}, lambda path: fetched.open(entries[path].digest))


class _Fetched:
    """Objects of a store as files in a folder that goes away with this."""

    def __init__(self, store: ArtifactStore) -> None:
        self._store, self._folder = store, Path(tempfile.mkdtemp(prefix="rayplat-tree-"))
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)

    def open(self, digest: str) -> BinaryIO:
        path = self._folder / digest.removeprefix("sha256:")
        if not path.exists():
            self._store.get_file(digest, path)
        return path.open("rb")
