"""Names that may change, beside objects that may not: which object a run's file is at the moment.

``<root>/refs/<path>`` holds ``{"digest":…,"size":…}``, replaced as a whole. Objects that refs name are in use: `roots`
is what garbage collection has to keep. Knows no MLflow.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from rayplat.artifacts.manifest import canonical, check_digest
from rayplat.artifacts.places.place import REFS, Place
from rayplat.errors import Corrupt, InvalidInput, NotFound, RayplatError, Unavailable

_EMPTY = ".folder"  # stands for a folder without files, which an object store cannot hold
_LONGEST = 1000  # bytes of a value
_ATTEMPTS = 5


@dataclass(frozen=True)
class Ref:
    """An object and its size in bytes."""

    digest: str
    size: int

    def encode(self) -> bytes:
        return canonical({"digest": self.digest, "size": self.size})


@dataclass(frozen=True)
class Named:
    """One entry of a folder of refs; ``ref`` is None for a folder."""

    path: str
    ref: Ref | None


class Keys(Protocol):
    """Small values under slash-separated keys. A value appears whole or not at all."""

    def get(self, key: str) -> bytes | None: ...

    def put(self, key: str, content: bytes) -> None: ...

    def list(self, folder: str) -> list[tuple[str, bool]]:
        """(name, whether it is a folder) of each entry of ``folder``; none where it does not exist."""
        ...

    def delete(self, key: str) -> None:
        """Remove a value, or a folder with all below it; nothing where there is neither."""
        ...


class Refs:
    """The refs below one path of a store. ``workers`` read values at the same time where there are many."""

    def __init__(self, keys: Keys, workers: Executor | None = None) -> None:
        self._keys = keys
        self._map = map if workers is None else workers.map

    def put(self, path: str, ref: Ref) -> None:
        """Let ``path`` be this object from now on."""
        if path.rsplit("/", 1)[-1] == _EMPTY:
            raise InvalidInput("Invalid artifact path", f"the name {_EMPTY!r} is reserved; choose another")
        self._keys.put(path, ref.encode())

    def put_folder(self, path: str) -> None:
        """Let ``path`` be a folder, also while nothing is in it."""
        self._keys.put(f"{path}/{_EMPTY}", b"{}")

    def get(self, path: str) -> Ref:
        """Raises `NotFound`, or `Corrupt` where the ref was damaged."""
        content = self._keys.get(path)
        if content is None:
            raise NotFound("artifact", path)
        return _decode(path, content)

    def list(self, path: str) -> list[Named]:
        """What lies directly in the folder ``path``, by name; nothing where there is no such folder."""
        prefix = f"{path}/" if path else ""
        found = [(prefix + name, is_folder) for name, is_folder in sorted(self._keys.list(path)) if name != _EMPTY]

        def named(entry: tuple[str, bool]) -> Named | None:
            if entry[1]:
                return Named(entry[0], None)
            content = self._keys.get(entry[0])
            return None if content is None else Named(entry[0], _decode(entry[0], content))  # None: gone since

        return [entry for entry in self._map(named, found) if entry is not None]

    def delete(self, path: str) -> None:
        """Forget ``path`` and all below it. The objects stay until garbage collection."""
        self._keys.delete(path)

    def roots(self, path: str = "") -> Iterator[Ref]:
        """Every object that a ref at or below ``path`` names."""
        for entry in self.list(path):
            if entry.ref is None:
                yield from self.roots(entry.path)
            else:
                yield entry.ref


class FolderKeys:
    """Keys as files below ``<root>/refs``; what is being written lies in ``<root>/tmp``."""

    def __init__(self, root: Path) -> None:
        self._top, self._tmp = root / REFS, root / "tmp"

    def get(self, key: str) -> bytes | None:
        try:
            handle = os.open(self._top / key, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            with os.fdopen(handle, "rb") as file:
                return file.read(_LONGEST)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None
        except OSError as e:
            raise _refused(key, e) from e

    def put(self, key: str, content: bytes) -> None:
        target, temporary = self._top / key, self._tmp / secrets.token_hex(12)
        try:
            self._tmp.mkdir(parents=True, exist_ok=True)
            with temporary.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            _move(temporary, target)
        except OSError as e:
            raise _refused(key, e) from e
        finally:
            temporary.unlink(missing_ok=True)

    def list(self, folder: str) -> list[tuple[str, bool]]:
        try:
            with os.scandir(self._top / folder) as found:
                return [(e.name, e.is_dir(follow_symlinks=False)) for e in found]
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as e:
            raise _refused(folder, e) from e

    def delete(self, key: str) -> None:
        target = self._top / key
        try:
            if target.is_dir():
                shutil.rmtree(target, ignore_errors=False)
            else:
                target.unlink(missing_ok=True)
            self._prune(target.parent)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as e:
            raise _refused(key, e) from e

    def _prune(self, folder: Path) -> None:
        """Remove folders that have become empty, as an object store does by itself."""
        while folder != self._top and folder.is_relative_to(self._top):
            try:
                folder.rmdir()
            except OSError:
                return
            folder = folder.parent


class PlaceKeys:
    """Keys as small objects of a place that has no folders of its own."""

    def __init__(self, place: Place) -> None:
        self._place = place

    def get(self, key: str) -> bytes | None:
        try:
            with closing(self._place.open(REFS + key)) as file:
                return file.read(_LONGEST)
        except NotFound:
            return None

    def put(self, key: str, content: bytes) -> None:
        parts = key.split("/")
        for n in range(1, len(parts)):
            if self._place.size(REFS + "/".join(parts[:n])) is not None:
                raise _both(key)
        if next(self._place.list(f"{REFS}{key}/"), None) is not None:
            raise _both(key)
        self._place.write(REFS + key, content)

    def list(self, folder: str) -> list[tuple[str, bool]]:
        prefix = f"{REFS}{folder}/" if folder else REFS
        names = {found.name.removeprefix(prefix).partition("/")[:2] for found in self._place.list(prefix)}
        return [(name, bool(slash)) for name, slash in names]

    def delete(self, key: str) -> None:
        below = [found.name for found in self._place.list(f"{REFS}{key}/" if key else REFS)]
        for name in [*below, REFS + key] if key else below:
            self._place.delete(name)


def _move(temporary: Path, target: Path) -> None:
    for n in range(_ATTEMPTS):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.replace(temporary, target)
        except FileNotFoundError:
            if n == _ATTEMPTS - 1:
                raise
            continue  # somebody deleted the last file beside it, and the folder with it
        handle = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
        return


def _refused(key: str, e: OSError) -> RayplatError:
    if isinstance(e, IsADirectoryError | NotADirectoryError | FileExistsError):
        return _both(key)
    if e.strerror == "File name too long":
        return InvalidInput("Invalid artifact path", f"{key[:80]!r}…: the name is too long for the disk")
    return Unavailable("the artifact store", f"{key!r}: {e.strerror or e}")


def _both(key: str) -> InvalidInput:
    return InvalidInput("Invalid artifact path", f"{key!r}: a file cannot be a folder at the same time")


def _decode(path: str, content: bytes) -> Ref:
    try:
        found = json.loads(content)
        ref = Ref(check_digest("digest", found["digest"]), int(found["size"]))
    except (ValueError, KeyError, TypeError, InvalidInput) as e:
        raise Corrupt(f"the name {path!r}", "a digest and a size", "something else") from e
    if ref.encode() != content:
        raise Corrupt(f"the name {path!r}", ref.encode().decode(), "another text")
    return ref
