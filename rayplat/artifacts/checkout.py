"""Out of the store: trees and files that appear only once every byte of them has matched its digest.

A tree grows in ``.<name>.<digest>.part`` beside its target, under a lock, and is renamed when it is whole. What an
interrupted call left there is hashed again, and kept where it is sound.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import TypeVar

from rayplat.artifacts import manifest as manifests
from rayplat.artifacts.manifest import PREFIX, Entry, Manifest
from rayplat.artifacts.places.batch import write_all
from rayplat.artifacts.places.place import CHUNK, SMALL, Place, Stream, object_name
from rayplat.artifacts.sources import regular, walk
from rayplat.errors import AlreadyExists, Corrupt, InvalidInput, NotFound, Unavailable

T = TypeVar("T")
R = TypeVar("R")


def checkout(place: Place, tree: Manifest, digest: str, into: Path) -> None:
    """Make ``into`` exactly ``tree``. Raises `AlreadyExists`, `Corrupt`, `NotFound`, `Unavailable`."""
    while not _there(tree, into):
        with _writing(into.parent), _part(into, digest) as part:
            if part is None:  # somebody else has just finished it
                continue
            try:
                _keep_sound(tree, part)
                for folder in sorted({e.path.rpartition("/")[0] for e in tree.entries}):
                    (part / folder).mkdir(parents=True, exist_ok=True)
                there = set(walk(part)[0])
                missing = [e for e in tree.entries if e.path not in there]
                each(lambda entry: _copy_out(place, entry, f"{part}/{entry.path}"), missing, place.parallel)
            except (Corrupt, NotFound):
                shutil.rmtree(part, ignore_errors=True)
                raise
            with contextlib.suppress(FileExistsError, NotADirectoryError):  # then it is looked at again
                _rename(part, into)
                return
            shutil.rmtree(part, ignore_errors=True)


def get_file(opened: Callable[[], Stream], digest: str, into: Path) -> None:
    """Copy one object to ``into``. Raises `AlreadyExists` when that is something else."""
    if os.path.lexists(into):
        with contextlib.suppress(InvalidInput), regular(into) as file:
            if "sha256:" + hashlib.file_digest(file, "sha256").hexdigest() == digest:
                return
        raise AlreadyExists(f"{into} exists and is not this artifact: remove it, or choose another name")
    with closing(opened()) as source, _writing(into.parent):
        into.parent.mkdir(parents=True, exist_ok=True)
        part = into.parent / f".{into.name[:100]}.{secrets.token_hex(6)}.part"
        try:
            found = _copy(source, part, 0o644)[0]
            if found != digest:
                raise Corrupt(f"artifact {digest}", digest, found)
            os.rename(part, into)
        finally:
            part.unlink(missing_ok=True)


def find_tree(place: Place, digest: str) -> Manifest | None:
    """The tree that ``digest`` names, None where the object is something else.

    Raises `NotFound`, or `Corrupt` for a damaged manifest; other damaged objects above 32 MiB go unnoticed.
    """
    try:
        with closing(place.open(object_name(digest))) as file:
            content = _at_least(file, len(PREFIX))
            if content.startswith(PREFIX) or (place.size(object_name(digest)) or 0) < 8 * SMALL:
                content += _rest(file)
            else:
                return None
    except NotFound:
        raise NotFound("artifact", digest) from None
    found = manifests.sha256(content)
    if found != digest:
        raise Corrupt(f"artifact {digest}", digest, found)
    try:
        return manifests.decode(content)
    except InvalidInput:
        return None


def each(work: Callable[[T], R], items: Iterable[T], parallel: int) -> list[R]:
    """``work`` on all items in order, several at once where that is worth while."""
    found = list(items)
    if parallel == 1 or len(found) < 2:
        return [work(item) for item in found]
    with ThreadPoolExecutor(parallel, "rayplat-artifacts") as pool:
        running = [pool.submit(work, item) for item in found]
        try:
            return [one.result() for one in running]
        finally:
            for one in running:
                one.cancel()


def _there(tree: Manifest, into: Path) -> bool:
    """Whether ``into`` is this tree; False when it is free. Raises `AlreadyExists` for anything else."""
    if not os.path.lexists(into):
        return False
    problem = AlreadyExists(f"{into} exists and is not exactly this artifact: remove it, or choose another folder")
    if into.is_symlink() or not into.is_dir():
        raise problem
    try:
        files, folders = walk(into)
    except InvalidInput:
        raise problem from None
    if not files and not folders:
        return False
    if _sound(tree, into, files) != {e.path for e in tree.entries} or len(files) != len(tree.entries):
        raise problem
    if set(folders) != {str(up) for e in tree.entries for up in Path(e.path).parents} - {"."}:
        raise problem
    return True


def _sound(tree: Manifest, folder: Path, files: list[str]) -> set[str]:
    """Those of ``files`` that are what the tree says, and nobody else's: a second name could change them."""
    wanted = {e.path: e for e in tree.entries}
    sound = set()
    for path in files:
        entry = wanted.get(path)
        with contextlib.suppress(InvalidInput, NotFound), regular(folder / path) as file:
            about = os.fstat(file.fileno())
            if entry is None or about.st_size != entry.size or about.st_nlink != 1:
                continue
            if bool(about.st_mode & stat.S_IXUSR) != entry.executable:
                continue
            if "sha256:" + hashlib.file_digest(file, "sha256").hexdigest() == entry.digest:
                sound.add(path)
    return sound


def _keep_sound(tree: Manifest, part: Path) -> None:
    """Remove what an interrupted checkout left half done."""
    try:
        files, _ = walk(part)
    except InvalidInput:  # a link: nothing of ours
        for found in part.iterdir():
            shutil.rmtree(found) if found.is_dir() and not found.is_symlink() else found.unlink()
        return
    for path in set(files) - _sound(tree, part, files):
        (part / path).unlink()
    wanted = {str(up) for e in tree.entries for up in Path(e.path).parents}
    for folder in sorted(walk(part)[1], reverse=True):
        if folder not in wanted:
            (part / folder).rmdir()


@contextlib.contextmanager
def _part(into: Path, digest: str) -> Iterator[Path | None]:
    """The folder in which ``into`` grows, locked; None when whoever had it before has renamed it."""
    into.parent.mkdir(parents=True, exist_ok=True)
    part = into.parent / f".{into.name[:100]}.{digest.removeprefix('sha256:')[:16]}.part"
    part.mkdir(exist_ok=True)
    try:
        handle = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except FileNotFoundError:
        yield None
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        try:
            same = os.path.samestat(os.fstat(handle), os.stat(part, follow_symlinks=False))
        except FileNotFoundError:
            same = False
        yield part if same else None
    finally:
        os.close(handle)


def _rename(part: Path, into: Path) -> None:
    try:
        os.rename(part, into)
    except OSError as e:
        if e.errno == errno.ENOTEMPTY:
            raise FileExistsError(e.errno, e.strerror) from e
        raise


def _copy_out(place: Place, entry: Entry, target: str) -> None:
    what = f"{entry.path} in the artifact store"
    try:
        source = place.open(object_name(entry.digest))
    except NotFound:
        raise Corrupt(what, entry.digest, "nothing: the object is missing") from None
    with closing(source):
        digest, size = _copy(source, target, 0o555 if entry.executable else 0o444, entry.size)
    if (digest, size) != (entry.digest, entry.size):
        raise Corrupt(what, f"{entry.digest} ({entry.size} bytes)", f"{digest} ({size} bytes)")


def _copy(source: Stream, target: str | Path, mode: int, limit: int | None = None) -> tuple[str, int]:
    """(digest, size) of what was copied. Large ones are hashed in a thread beside: both release the interpreter.
    Reading stops behind ``limit`` bytes: then it is wrong already."""
    digest, size = hashlib.sha256(), 0
    beside: ThreadPoolExecutor | None = None
    hashed: Future[None] | None = None
    handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        while (limit is None or size <= limit) and (chunk := source.read(SMALL)):
            if hashed is not None:
                hashed.result()
            if len(chunk) < CHUNK:
                hashed = None
                digest.update(chunk)
            else:
                beside = beside or ThreadPoolExecutor(1, "rayplat-hash")
                hashed = beside.submit(digest.update, chunk)
            write_all(handle, chunk)
            size += len(chunk)
        if hashed is not None:
            hashed.result()
        os.fchmod(handle, mode)
    finally:
        os.close(handle)
        if beside is not None:
            beside.shutdown()
    return "sha256:" + digest.hexdigest(), size


def _at_least(file: Stream, size: int) -> bytes:
    content = b""
    while len(content) < size and (chunk := file.read(size - len(content))):
        content += chunk
    return content


def _rest(file: Stream) -> bytes:
    return b"".join(iter(lambda: file.read(CHUNK), b""))


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as e:
        reason = f"{folder} cannot be written: {e.strerror or e}; make room or give access, then repeat the call"
        raise Unavailable("the checkout", reason) from e
