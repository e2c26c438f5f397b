"""Where uploads wait until they are whole: one file for each object that somebody is sending, by its digest.

A transfer goes in parts, so that no request is long, and one that was cut off goes on where it ended. Nothing of it is
in the artifact store before all its bytes are here; the store then hashes them. Knows no HTTP.
"""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

from rayplat.artifacts.manifest import check_digest
from rayplat.errors import Conflict, InvalidInput, TooLarge, Unavailable

PART_BYTES = 8 << 20
MOST_BYTES = 64 << 30
KEPT_S = 24 * 3600.0  # an upload that nobody has continued for so long is forgotten


class Spool:
    """Uploads below ``folder``. Those of different senders never meet."""

    def __init__(self, folder: Path, kept_s: float = KEPT_S) -> None:
        self._folder, self._kept_s = Path(folder), kept_s

    def received(self, sender: str, digest: str) -> int:
        """How many bytes of an object are here."""
        try:
            return self._file(sender, digest).stat().st_size
        except FileNotFoundError:
            return 0

    def append(self, sender: str, digest: str, offset: int, size: int, part: bytes) -> Path | None:
        """Add ``part`` at ``offset``; the file once it has all ``size`` bytes, None before.

        Raises `Conflict` where it is not continued at its end, `TooLarge` beyond what an object may have."""
        if not 0 <= size <= MOST_BYTES:
            raise TooLarge("the file", size, MOST_BYTES)
        if not 0 <= offset <= offset + len(part) <= size or (not part and size):
            raise InvalidInput("offset", f"{len(part)} bytes at {offset} are no part of a file of {size} bytes")
        file = self._file(sender, digest)
        try:
            self._sweep()
            with file.open("ab") as out:
                if out.tell() != offset:
                    raise Conflict(f"{out.tell()} bytes of {digest} are here: go on from there, not from {offset}")
                out.write(part)
        except OSError as e:
            raise Unavailable("the folder of uploads", f"{self._folder} cannot be written: {e.strerror or e}") from e
        return file if offset + len(part) == size else None

    def forget(self, sender: str, digest: str) -> None:
        self._file(sender, digest).unlink(missing_ok=True)

    def _file(self, sender: str, digest: str) -> Path:
        whose = hashlib.sha256(sender.encode("utf-8", "surrogatepass")).hexdigest()[:16]
        return self._folder / f"{whose}-{check_digest('digest', digest).removeprefix('sha256:')}"

    def _sweep(self) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        oldest = time.time() - self._kept_s
        for file in self._folder.iterdir():
            if file.stat().st_mtime < oldest:
                file.unlink(missing_ok=True)
