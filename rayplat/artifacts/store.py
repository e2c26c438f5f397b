"""The content-addressed store: objects on disk under the sha256 of their bytes, written once, verified when read.

``<root>/objects/sha256/ab/cd/<64 hex>`` holds an object (mode 0444), ``<root>/tmp`` what is being written. An object
appears whole or not at all: temporary file, fsync, atomic rename, fsync of the folder. `manifest` says what a tree is.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

from rayplat.artifacts import manifest as manifests
from rayplat.artifacts.manifest import Entry, Manifest, check_digest
from rayplat.errors import AlreadyExists, Corrupt, InvalidInput, NotFound, Unavailable
from rayplat.types import ArtifactRef

_CHUNK = 1 << 20


class ArtifactStore:
    """Objects and trees by digest below ``root``. Any number of processes may use one root at once."""

    def __init__(self, root: Path) -> None:
        self._root = Path(root)
        with self._writing():
            for folder in (self._root / "objects", self._root / "tmp"):
                folder.mkdir(parents=True, exist_ok=True)

    def put_bytes(self, content: bytes, kind: str) -> ArtifactRef:
        """Store ``content``; the same bytes again cost nothing."""
        digest = manifests.sha256(content)
        if not self._holds(digest):
            with self._writing(), self._temporary() as (file, temporary):
                file.write(content)
                self._publish(file, temporary, digest)
        return ArtifactRef(digest, kind, len(content))

    def put_file(self, path: Path, kind: str) -> ArtifactRef:
        """Store the bytes of one regular file. Raises `NotFound`, or `InvalidInput` for a link or a device."""
        entry = self._put(Path(path), Path(path).name)
        return ArtifactRef(entry.digest, kind, entry.size)

    def put_tree(self, folder: Path, kind: str) -> ArtifactRef:
        """Store every file below ``folder`` and the manifest that names them; the digest is the manifest's.

        Links, devices and names that some file system cannot hold are refused (`InvalidInput`); empty folders are
        not part of a tree. ``kind`` is part of the identity.
        """
        folder = Path(folder)
        if folder.is_symlink() or not folder.is_dir():
            raise NotFound("folder", str(folder))
        files = {path: folder / path for path in _files(folder)}
        for path in files:
            manifests.check_path(path)
        tree = manifests.build(kind, [self._put(file, path) for path, file in files.items()])
        return ArtifactRef(self.put_bytes(tree.encode(), kind).digest, kind, tree.size_bytes)

    def exists(self, digest: str) -> bool:
        """Whether the object is there. A tree's files are stored before its manifest, so this covers a tree too."""
        return self._path(digest).is_file()

    def get_bytes(self, digest: str) -> bytes:
        """The object's bytes. Raises `NotFound`, or `Corrupt` when they no longer match their digest."""
        with self._open(digest) as file:
            content = file.read()
        if manifests.sha256(content) != digest:
            raise Corrupt(f"artifact {digest}", digest, manifests.sha256(content))
        return content

    def manifest(self, digest: str) -> Manifest:
        """The files of a tree. Raises `InvalidInput` when the object is no tree."""
        return manifests.decode(self.get_bytes(digest))

    def checkout(self, digest: str, into: Path) -> Path:
        """Copy a tree to ``into`` and return it; every file is hashed on the way, also when it is there already.

        ``into`` appears whole or not at all. Raises `AlreadyExists` when it holds anything else than this tree.
        """
        tree, into = self.manifest(digest), Path(into)
        free = not into.exists() or (into.is_dir() and not any(into.iterdir()))
        if not (free and self._copy_tree(tree, into)):
            _verify(tree, into)
        return into

    def _copy_tree(self, tree: Manifest, into: Path) -> bool:
        """Whether this call made ``into``: beside it first, then renamed. False when another was faster."""
        part = into.parent / f".{into.name}.{secrets.token_hex(6)}.part"
        try:
            with self._writing(into.parent):
                for entry in tree.entries:
                    self._copy_out(entry, part / entry.path)
                part.rename(into)
                return True
        except Unavailable as e:
            if isinstance(e.__cause__, OSError) and e.__cause__.errno in (errno.ENOTEMPTY, errno.EEXIST):
                return False
            raise
        finally:
            shutil.rmtree(part, ignore_errors=True)

    # --- one object ---------------------------------------------------------------------------------

    def _path(self, digest: str) -> Path:
        name = check_digest("digest", digest).removeprefix("sha256:")
        return self._root / "objects" / "sha256" / name[:2] / name[2:4] / name

    def _open(self, digest: str) -> BufferedReader:
        try:
            return self._path(digest).open("rb")
        except FileNotFoundError:
            raise NotFound("artifact", digest) from None

    def _holds(self, digest: str) -> bool:
        """Whether the object is there and sound; a damaged one is written anew."""
        try:
            with self._open(digest) as file:
                return _hash(file) == digest
        except NotFound:
            return False

    def _put(self, path: Path, name: str) -> Entry:
        """Copy a file in, hashing what is copied."""
        with _regular(path) as source:
            executable = bool(os.fstat(source.fileno()).st_mode & stat.S_IXUSR)
            with self._writing(), self._temporary() as (file, temporary):
                digest, size = _copy(source, file)
                if not self._holds(digest):
                    self._publish(file, temporary, digest)
        return Entry(name, size, digest, executable)

    @contextlib.contextmanager
    def _temporary(self) -> Iterator[tuple[BinaryIO, Path]]:
        path = self._root / "tmp" / secrets.token_hex(12)
        try:
            with path.open("xb") as file:
                yield file, path
        finally:
            path.unlink(missing_ok=True)

    def _publish(self, file: BinaryIO, temporary: Path, digest: str) -> None:
        final = self._path(digest)
        file.flush()
        os.fchmod(file.fileno(), 0o444)
        os.fsync(file.fileno())
        final.parent.mkdir(parents=True, exist_ok=True)
        os.replace(temporary, final)
        folder = os.open(final.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _copy_out(self, entry: Entry, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        with self._open(entry.digest) as source, target.open("xb") as file:
            digest, size = _copy(source, file)
            os.fchmod(file.fileno(), 0o555 if entry.executable else 0o444)
        if (digest, size) != (entry.digest, entry.size):
            raise Corrupt(f"{entry.path} in the artifact store", f"{entry.digest} ({entry.size} bytes)", digest)

    @contextlib.contextmanager
    def _writing(self, folder: Path | None = None) -> Iterator[None]:
        try:
            yield
        except OSError as e:
            reason = f"{folder or self._root} cannot be written: {e.strerror or e}"
            raise Unavailable("the artifact store", reason) from e


def _files(folder: Path, prefix: str = "") -> Iterator[str]:
    with os.scandir(folder) as found:
        entries = sorted(found, key=lambda e: e.name)
    for entry in entries:
        path = prefix + entry.name
        if entry.is_dir(follow_symlinks=False):
            yield from _files(Path(entry.path), path + "/")
        elif entry.is_file(follow_symlinks=False):
            yield path
        else:
            raise InvalidInput("tree", f"{path!r} is a link or a device; only regular files can be stored")


@contextlib.contextmanager
def _regular(path: Path) -> Iterator[BufferedReader]:
    """Open a regular file without following a link and without waiting for a pipe's other end."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise NotFound("file", str(path)) from None
    except OSError as e:
        raise InvalidInput("file", f"{str(path)!r} cannot be read as a regular file: {e.strerror}") from e
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise InvalidInput("file", f"{str(path)!r} is a folder or a device; only regular files can be stored")
        yield file


def _copy(source: BinaryIO, target: BinaryIO) -> tuple[str, int]:
    digest, size = hashlib.sha256(), 0
    while chunk := source.read(_CHUNK):
        digest.update(chunk)
        target.write(chunk)
        size += len(chunk)
    return "sha256:" + digest.hexdigest(), size


def _hash(file: BufferedReader) -> str:
    return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


def _verify(tree: Manifest, folder: Path) -> None:
    """Nothing, or `AlreadyExists` when ``folder`` is not exactly ``tree``, byte for byte."""
    wanted = {e.path: e.digest for e in tree.entries}
    try:
        found = set(_files(folder))
        for path in found & wanted.keys():
            with _regular(folder / path) as file:
                if _hash(file) != wanted[path]:
                    found.discard(path)
    except (NotADirectoryError, InvalidInput):
        found = set()
    if found != wanted.keys():
        raise AlreadyExists(f"{folder} exists and is not exactly this artifact: remove it, or choose another folder")
