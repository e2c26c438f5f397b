"""Bringing many sources into a folder of objects, durably: temporary file, sync, rename, sync of the folders.

Many files share two syncs of the whole file system, since two for each file would cost many times more than all the
rest. A source is hashed before it is copied, so that what is there costs no write; what is copied is hashed again on
its way, should it change meanwhile.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
import secrets
import stat
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from io import FileIO
from pathlib import Path

from rayplat.artifacts.places.place import CHUNK, SMALL, Added, Source
from rayplat.artifacts.sources import regular

log = logging.getLogger(__name__)

FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
Seen = tuple[int, int, int, int]
"""What tells whether a file is still the one that was hashed: inode, size, times of change of content and of status."""

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
_MOST_FILES, _MOST_BYTES = 4096, 256 << 20
_MOST_OPEN = 256  # folders: as many as there are
_FEW = 8  # up to so many files a sync of each is cheaper than one of the whole file system


class Batch:
    """Objects on their way into ``objects``, an open folder; `take` each, then `settle`, and `close` in any case.

    ``sound`` remembers the objects that this process has hashed. Raises OSError.
    """

    def __init__(self, objects: int, temporary: Path, sound: dict[str, Seen], keep: Callable[[], None]) -> None:
        self._objects, self._sound, self._keep = objects, sound, keep
        self._temporary = os.open(temporary, os.O_RDONLY | os.O_DIRECTORY)
        self._pending: dict[str, str] = {}  # temporary files by the digest of what they hold
        self._bytes = 0
        self._folders: dict[str, int] = {}  # open ones
        self._beside = ThreadPoolExecutor(1, "rayplat-store")
        self._prefix, self._count = secrets.token_hex(8), 0

    def take(self, source: Source) -> Added:
        """Bring one source into a temporary file unless its object is there or on its way."""
        if isinstance(source, bytes):
            added = self._take_bytes(source, False)
        else:
            with regular(source) as file:
                about = os.fstat(file.fileno())
                executable = bool(about.st_mode & stat.S_IXUSR)
                if about.st_size <= SMALL:
                    added = self._take_bytes(file.read(), executable)
                else:
                    added = self._take_file(file, executable)
        self._bytes += added.written
        if len(self._pending) >= _MOST_FILES or self._bytes >= _MOST_BYTES:
            self.settle()
        return added

    def settle(self) -> None:
        """Make the temporary files durable, then give them their names, then make those durable."""
        together = len(self._pending) > _FEW and syncfs() is not None
        if together:
            _sync_all(self._temporary)
        for name in () if together else self._pending.values():
            _sync(name, self._temporary)
        for digest in self._pending:
            self._rename(digest, durable=not together)
        if together:
            _sync_all(self._temporary)
        self._pending.clear()
        self._bytes = 0

    def close(self) -> None:
        """Remove what was not settled."""
        for name in self._pending.values():
            self._remove(name)
        self._beside.shutdown()
        self._close_folders()
        os.close(self._temporary)

    def _take_bytes(self, content: bytes, executable: bool) -> Added:
        digest = "sha256:" + hashlib.sha256(content).hexdigest()
        if self._holds(digest):
            return Added(digest, len(content), executable, 0)
        name = self._new_name()
        handle = os.open(name, _NEW, 0o444, dir_fd=self._temporary)
        self._pending[digest] = name
        try:
            write_all(handle, content)
            os.fchmod(handle, 0o444)  # whatever the umask is
        except BaseException:
            del self._pending[digest]
            self._remove(name)
            raise
        finally:
            os.close(handle)
        return Added(digest, len(content), executable, len(content))

    def _take_file(self, source: FileIO, executable: bool) -> Added:
        digest = hash_file(source, self._keep)
        if self._holds(digest):
            return Added(digest, source.tell(), executable, 0)
        source.seek(0)
        name = self._new_name()
        handle = os.open(name, _NEW, 0o444, dir_fd=self._temporary)
        try:
            digest, size = self._copy(source, handle)
            os.fchmod(handle, 0o444)
        except BaseException:
            self._remove(name)
            raise
        finally:
            os.close(handle)
        replaced = self._pending.pop(digest, None)
        if replaced is not None:  # the file changed meanwhile, into one that is on its way
            self._remove(replaced)
        self._pending[digest] = name
        return Added(digest, size, executable, size)

    def _copy(self, source: FileIO, target: int) -> tuple[str, int]:
        """Copy, hashing what is written in a thread beside: both release the interpreter."""
        digest, size = hashlib.sha256(), 0
        hashed: Future[None] | None = None
        while chunk := source.read(SMALL):
            if hashed is not None:
                hashed.result()
            hashed = self._beside.submit(digest.update, chunk)
            write_all(target, chunk)
            size += len(chunk)
            self._keep()
        if hashed is not None:
            hashed.result()
        return "sha256:" + digest.hexdigest(), size

    def _holds(self, digest: str) -> bool:
        """Whether the object is there and sound, or on its way; a damaged one is written anew."""
        if digest in self._pending:
            return True
        name = digest.removeprefix("sha256:")
        try:
            found = os.stat(f"{name[:2]}/{name}", dir_fd=self._objects, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return False
        if not stat.S_ISREG(found.st_mode):
            return False
        if self._sound.get(digest) == _seen(found):
            return True
        with self._open(name) as file:
            sound = hash_file(file, self._keep) == digest
        if sound:
            self._sound[digest] = _seen(found)
        else:
            log.warning("artifact %s was damaged and is written anew", digest)
        return sound

    def _new_name(self) -> str:
        self._count += 1
        return f"{self._prefix}{self._count:08x}"

    def _open(self, name: str) -> FileIO:
        """An object, reached without following a link."""
        folder = os.open(name[:2], FOLDER, dir_fd=self._objects)
        try:
            return FileIO(os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=folder), "rb")
        finally:
            os.close(folder)

    def _rename(self, digest: str, durable: bool) -> None:
        """Whoever puts an object there puts the same bytes there, so replacing one is no change."""
        name = digest.removeprefix("sha256:")
        folder = self._folder(name, durable)
        os.replace(self._pending[digest], name, src_dir_fd=self._temporary, dst_dir_fd=folder)
        if durable:
            os.fsync(folder)
        self._sound[digest] = _seen(os.stat(name, dir_fd=folder, follow_symlinks=False))

    def _folder(self, name: str, durable: bool) -> int:
        """The open folder of an object. There are 256: a new folder costs more than a new file."""
        if name[:2] not in self._folders:
            if len(self._folders) >= _MOST_OPEN:
                self._close_folders()
            self._folders[name[:2]] = make_folder(name[:2], self._objects, durable)
        return self._folders[name[:2]]

    def _close_folders(self) -> None:
        for handle in self._folders.values():
            os.close(handle)
        self._folders.clear()

    def _remove(self, name: str) -> None:
        try:
            os.unlink(name, dir_fd=self._temporary)
        except FileNotFoundError:
            return


def make_folder(name: str, above: int, durable: bool) -> int:
    """The open folder ``name`` below the open folder ``above``, made where it is absent. A link is not followed."""
    try:
        os.mkdir(name, dir_fd=above)
        if durable:
            os.fsync(above)
    except FileExistsError:
        pass
    return os.open(name, FOLDER, dir_fd=above)


def hash_file(file: FileIO, keep: Callable[[], None] = lambda: None) -> str:
    """The digest of what is left to read. ``keep`` is called often."""
    digest, buffer = hashlib.sha256(), memoryview(bytearray(CHUNK))
    while size := file.readinto(buffer):
        digest.update(buffer[:size])
        keep()
    return "sha256:" + digest.hexdigest()


def write_all(handle: int, content: bytes) -> None:
    """Write to an open file, however many calls it takes."""
    written = os.write(handle, content)
    if written < len(content):
        view = memoryview(content)[written:]
        while view:
            view = view[os.write(handle, view) :]


@functools.cache
def syncfs() -> Callable[[int], int] | None:
    """``syncfs(2)`` of the C library, None where it has none."""
    try:
        found = ctypes.CDLL(None, use_errno=True).syncfs
    except (OSError, AttributeError):
        return None
    found.argtypes, found.restype = (ctypes.c_int,), ctypes.c_int
    return found  # type: ignore[no-any-return]


def _sync_all(handle: int) -> None:
    sync = syncfs()
    if sync is not None and sync(handle) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _sync(name: str, folder: int) -> None:
    handle = os.open(name, os.O_RDONLY, dir_fd=folder)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _seen(found: os.stat_result) -> Seen:
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
