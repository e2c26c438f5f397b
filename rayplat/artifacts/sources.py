"""Reading what somebody else made: a tree of files, or one file, without following links or waiting for a pipe."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from io import FileIO
from pathlib import Path

from rayplat.errors import InvalidInput, NotFound


def walk(folder: Path) -> tuple[list[str], list[str]]:
    """(files, folders) below ``folder``, relative with ``/``. Raises `InvalidInput` at a link, a device or a folder
    that cannot be read."""
    files: list[str] = []
    folders: list[str] = []
    waiting = [""]
    while waiting:
        prefix = waiting.pop()
        try:
            with os.scandir(folder / prefix) as found:
                entries = sorted(found, key=lambda e: e.name)
        except OSError as e:
            raise InvalidInput("tree", f"{str(folder / prefix)!r} cannot be read: {e.strerror}") from e
        for entry in entries:
            path = prefix + entry.name
            if entry.is_dir(follow_symlinks=False):
                folders.append(path)
                waiting.append(path + "/")
            elif entry.is_file(follow_symlinks=False):
                files.append(path)
            else:
                raise InvalidInput("tree", f"{path!r} is a link or a device; only regular files can be stored")
    return files, folders


@contextlib.contextmanager
def regular(path: Path) -> Iterator[FileIO]:
    """An open regular file, unbuffered. Raises `NotFound`, or `InvalidInput` for a link, a folder or a device."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise NotFound("file", str(path)) from None
    except OSError as e:
        raise InvalidInput("file", f"{str(path)!r} cannot be read as a regular file: {e.strerror}") from e
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise InvalidInput("file", f"{str(path)!r} is a folder or a device; only regular files can be stored")
    with os.fdopen(handle, "rb", buffering=0) as file:
        yield file
