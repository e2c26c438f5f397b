"""Objects in a folder, on a local disk or a mounted one.

An object appears whole or not at all (`batch`). Links below the root are never followed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Callable, Iterable, Iterator
from io import FileIO
from pathlib import Path

from rayplat.artifacts.places.batch import FOLDER, Batch, Seen, make_folder
from rayplat.artifacts.places.place import OBJECTS, TEMPORARY, Added, Found, Source
from rayplat.errors import Corrupt, NotFound, Unavailable

_NO_LINK = {errno.ELOOP, errno.ENOTDIR}


class FolderPlace:
    """A `Place` below ``root``, which is made where it is absent. Any number of processes may use it at once."""

    parallel = 1

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self._sound: dict[str, Seen] = {}
        with self._access("written"):
            for folder in ("objects", "tmp"):
                (self.root / folder).mkdir(parents=True, exist_ok=True)
        self._real = os.path.realpath(self.root)

    def add(self, sources: Iterable[Source], keep: Callable[[], None]) -> list[Added]:
        added: list[Added] = []
        with self._access("written"), self._inside(OBJECTS, create=True, durable=True) as (objects, _):
            batch = Batch(objects, self.root / TEMPORARY, self._sound, keep)
            try:
                for source in sources:
                    keep()
                    added.append(batch.take(source))
                batch.settle()
            finally:
                batch.close()
        return added

    def write(self, name: str, content: bytes, durable: bool = True) -> None:
        with self._access("written"):
            path = self.root / TEMPORARY / secrets.token_hex(12)
            try:
                with path.open("xb") as file:
                    file.write(content)
                    if durable:
                        file.flush()
                        os.fsync(file.fileno())
                with self._inside(name, create=True, durable=durable) as (folder, last):
                    os.replace(path, last, dst_dir_fd=folder)
                    if durable:
                        os.fsync(folder)
            finally:
                path.unlink(missing_ok=True)

    def open(self, name: str) -> FileIO:
        fast = self._open_straight(name)
        if fast is not None:
            return fast
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

    def _open_straight(self, name: str) -> FileIO | None:
        """The regular file, where its path turns out to lead through no link; None: look closer."""
        path = f"{self._real}/{name}"
        try:
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            return None
        try:
            if os.readlink(f"/proc/self/fd/{handle}") == path and stat.S_ISREG(os.fstat(handle).st_mode):
                return FileIO(handle, "rb")
        except OSError:
            pass  # no /proc
        os.close(handle)
        return None

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

    # --- names --------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _inside(self, name: str, create: bool = False, durable: bool = False) -> Iterator[tuple[int, str]]:
        """The open folder that holds ``name``, reached from the root without following a link, and the last part."""
        *folders, last = name.split("/")
        handle = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            for part in folders:
                below = make_folder(part, handle, durable) if create else os.open(part, FOLDER, dir_fd=handle)
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
