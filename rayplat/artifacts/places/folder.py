"""Objects in a folder, on a local disk or a mounted one.

An object appears whole or not at all: temporary file, sync, rename, sync of the folders. Many files share two syncs
of the file system, since one for each costs a thousand times more. Links below the root are never followed.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import hashlib
import logging
import os
import secrets
import stat
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from io import FileIO
from pathlib import Path

from rayplat.artifacts.places.place import CHUNK, SMALL, Added, Found, Source, object_name
from rayplat.artifacts.sources import regular
from rayplat.errors import Corrupt, NotFound, Unavailable

log = logging.getLogger(__name__)

_BATCH_FILES, _BATCH_BYTES = 1024, 256 << 20
_FEW = 8  # up to so many files a sync of each is cheaper than one of the whole file system
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_NO_LINK = {errno.ELOOP, errno.ENOTDIR}

_Seen = tuple[int, int, int, int]


class FolderPlace:
    """A `Place` below ``root``, which is made where it is absent. Any number of processes may use it at once."""

    parallel = 1

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self._sound: dict[str, _Seen] = {}  # objects whose bytes this process has hashed, as they were then
        with self._access("written"):
            for folder in ("objects", "tmp"):
                (self.root / folder).mkdir(parents=True, exist_ok=True)

    def add(self, sources: Iterable[Source], keep: Callable[[], None]) -> list[Added]:
        added: list[Added] = []
        pending: dict[str, str] = {}  # temporary files by the digest of what they hold
        size = 0
        with ThreadPoolExecutor(1, "rayplat-hash") as hasher, self._access("written"):
            try:
                for source in sources:
                    keep()
                    added.append(self._take(source, pending, keep, hasher))
                    size += added[-1].written
                    if len(pending) >= _BATCH_FILES or size >= _BATCH_BYTES:
                        self._settle(pending)
                        size = 0
                self._settle(pending)
            finally:
                for temporary in pending.values():
                    (self.root / "tmp" / temporary).unlink(missing_ok=True)
        return added

    def write(self, name: str, content: bytes, durable: bool = True) -> None:
        with self._access("written"):
            temporary = secrets.token_hex(12)
            path = self.root / "tmp" / temporary
            try:
                with path.open("xb") as file:
                    file.write(content)
                    if durable:
                        file.flush()
                        os.fsync(file.fileno())
                self._rename(temporary, name, durable)
            finally:
                path.unlink(missing_ok=True)

    def open(self, name: str) -> FileIO:
        try:
            with self._access("read"), self._inside(name) as (folder, last):
                handle = os.open(last, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
                if stat.S_ISREG(os.fstat(handle).st_mode):
                    return FileIO(handle, "rb")
                os.close(handle)
        except FileNotFoundError:
            raise NotFound("object", name) from None
        except Unavailable as e:
            if not (isinstance(e.__cause__, OSError) and e.__cause__.errno in _NO_LINK):
                raise
        raise Corrupt(f"{name} in {self.root}", "a regular file", "a link, a folder or a device")

    def size(self, name: str) -> int | None:
        found = self._stat(name)
        return found.st_size if found is not None and stat.S_ISREG(found.st_mode) else None

    def list(self, prefix: str) -> Iterator[Found]:
        with self._access("read"):
            found = list(self._walk(self.root / prefix, prefix))
        yield from found

    def delete(self, name: str) -> None:
        with self._access("written"), contextlib.suppress(FileNotFoundError), self._inside(name) as (folder, last):
            os.unlink(last, dir_fd=folder)

    # --- adding -------------------------------------------------------------------------------------

    def _take(
        self, source: Source, pending: dict[str, str], keep: Callable[[], None], hasher: ThreadPoolExecutor
    ) -> Added:
        """Bring one source into a temporary file, noted in ``pending``, unless its object is there."""
        if isinstance(source, bytes):
            return self._take_bytes(source, False, pending)
        with regular(source) as file:
            found = os.fstat(file.fileno())
            executable = bool(found.st_mode & stat.S_IXUSR)
            if found.st_size <= SMALL:
                return self._take_bytes(file.read(), executable, pending)
            digest = _hash(file, keep)
            if digest in pending or self._holds(digest):
                return Added(digest, file.tell(), executable, 0)
            file.seek(0)
            temporary = secrets.token_hex(12)
            try:
                digest, size = self._copy(file, temporary, keep, hasher)
            except BaseException:
                (self.root / "tmp" / temporary).unlink(missing_ok=True)
                raise
            pending[digest] = temporary  # named by what was copied, should the file have changed meanwhile
            return Added(digest, size, executable, size)

    def _take_bytes(self, content: bytes, executable: bool, pending: dict[str, str]) -> Added:
        digest = "sha256:" + hashlib.sha256(content).hexdigest()
        if digest in pending or self._holds(digest):
            return Added(digest, len(content), executable, 0)
        temporary = secrets.token_hex(12)
        path = self.root / "tmp" / temporary
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o444)
        try:
            view = memoryview(content)
            while view:
                view = view[os.write(handle, view) :]
            os.fchmod(handle, 0o444)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        finally:
            os.close(handle)
        pending[digest] = temporary
        return Added(digest, len(content), executable, len(content))

    def _copy(
        self, source: FileIO, temporary: str, keep: Callable[[], None], hasher: ThreadPoolExecutor
    ) -> tuple[str, int]:
        """Copy, hashing what is written in a thread beside: both release the interpreter."""
        digest, size = hashlib.sha256(), 0
        hashed: Future[None] | None = None
        with (self.root / "tmp" / temporary).open("xb", buffering=0) as target:
            while chunk := source.read(SMALL):
                if hashed is not None:
                    hashed.result()
                hashed = hasher.submit(digest.update, chunk)
                view = memoryview(chunk)
                while view:
                    view = view[target.write(view) :]
                size += len(chunk)
                keep()
            if hashed is not None:
                hashed.result()
            os.fchmod(target.fileno(), 0o444)
        return "sha256:" + digest.hexdigest(), size

    def _settle(self, pending: dict[str, str]) -> None:
        """Make the temporary files durable, then give them their names, then make those durable."""
        together = len(pending) > _FEW and _syncfs() is not None
        if together:
            self._sync_all()
        for temporary in () if together else pending.values():
            with self._opened(self.root / "tmp" / temporary) as handle:
                os.fsync(handle)
        for digest, temporary in pending.items():
            self._rename(temporary, object_name(digest), durable=not together)
        if together:
            self._sync_all()
        for digest in pending:
            found = self._stat(object_name(digest))
            if found is not None:
                self._sound[digest] = _seen(found)
        pending.clear()

    def _rename(self, temporary: str, name: str, durable: bool) -> None:
        """Whoever puts an object there puts the same bytes there, so replacing one is no change."""
        with self._inside(name, create=True, durable=durable) as (folder, last):
            os.replace(self.root / "tmp" / temporary, last, dst_dir_fd=folder)
            if durable:
                os.fsync(folder)

    def _holds(self, digest: str) -> bool:
        """Whether the object is there and sound; a damaged one is written anew."""
        found = self._stat(object_name(digest))
        if found is None:
            return False
        if self._sound.get(digest) == _seen(found):
            return True
        try:
            with contextlib.closing(self.open(object_name(digest))) as file:
                sound = _hash(file) == digest
        except (NotFound, Corrupt):
            sound = False
        if sound:
            self._sound[digest] = _seen(found)
        else:
            log.warning("artifact %s in %s was damaged and is written anew", digest, self.root)
        return sound

    # --- names --------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _inside(self, name: str, create: bool = False, durable: bool = False) -> Iterator[tuple[int, str]]:
        """The open folder that holds ``name``, reached from the root without following a link, and the last part."""
        *folders, last = name.split("/")
        handle = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            for part in folders:
                if create:
                    _make(part, handle, durable)
                below = os.open(part, _FOLDER, dir_fd=handle)
                os.close(handle)
                handle = below
            yield handle, last
        finally:
            os.close(handle)

    def _stat(self, name: str) -> os.stat_result | None:
        try:
            with self._access("read"), self._inside(name) as (folder, last):
                return os.stat(last, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            return None
        except Unavailable as e:
            if isinstance(e.__cause__, OSError) and e.__cause__.errno in _NO_LINK:
                return None
            raise

    def _walk(self, folder: Path, prefix: str) -> Iterator[Found]:
        try:
            with os.scandir(folder) as found:
                entries = list(found)
        except FileNotFoundError:
            return
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from self._walk(Path(entry.path), f"{prefix}{entry.name}/")
                continue
            with contextlib.suppress(FileNotFoundError):
                about = entry.stat(follow_symlinks=False)
                size = about.st_size if stat.S_ISREG(about.st_mode) else -1
                yield Found(prefix + entry.name, size, about.st_mtime)

    @contextlib.contextmanager
    def _opened(self, path: Path) -> Iterator[int]:
        handle = os.open(path, os.O_RDONLY)
        try:
            yield handle
        finally:
            os.close(handle)

    def _sync_all(self) -> None:
        sync = _syncfs()
        with self._opened(self.root) as handle:
            if sync is not None and sync(handle) != 0:
                code = ctypes.get_errno()
                raise OSError(code, os.strerror(code))

    @contextlib.contextmanager
    def _access(self, how: str) -> Iterator[None]:
        """What the operating system refuses, as `Unavailable` with what to do. A reader sees that a file is absent."""
        try:
            yield
        except OSError as e:
            if how == "read" and isinstance(e, FileNotFoundError):
                raise
            reason = f"{self.root} cannot be {how}: {e.strerror or e}; {_advice(e.errno)}"
            raise Unavailable("the artifact store", reason) from e


def _advice(code: int | None) -> str:
    if code in (errno.ENOSPC, errno.EDQUOT):
        return "free some space and repeat the call: what was stored is not stored again"
    if code in (errno.EROFS, errno.EACCES, errno.EPERM):
        return "give this process access to it, or set artifacts.root to a place that it may use"
    return "check that the disk is mounted and sound, then repeat the call"


def _hash(file: FileIO, keep: Callable[[], None] = lambda: None) -> str:
    digest, buffer = hashlib.sha256(), memoryview(bytearray(CHUNK))
    while size := file.readinto(buffer):
        digest.update(buffer[:size])
        keep()
    return "sha256:" + digest.hexdigest()


def _make(part: str, folder: int, durable: bool) -> None:
    try:
        os.mkdir(part, dir_fd=folder)
    except FileExistsError:
        return
    if durable:
        os.fsync(folder)


def _seen(found: os.stat_result) -> _Seen:
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


@functools.cache
def _syncfs() -> Callable[[int], int] | None:
    """``syncfs(2)`` of the C library, None where it has none."""
    try:
        found = ctypes.CDLL(None, use_errno=True).syncfs
    except (OSError, AttributeError):
        return None
    found.argtypes, found.restype = (ctypes.c_int,), ctypes.c_int
    return found  # type: ignore[no-any-return]
