"""The content-addressed store: objects and trees under the sha256 of their bytes, written once, verified when read.

An object's name is the sha256 of its bytes; a tree's is that of its manifest (`manifest`), which is an object too.
Where objects lie, a folder or a bucket, is the `Place`; how publishing keeps clear of garbage collection is `leases`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from rayplat.artifacts import check, checkout
from rayplat.artifacts import manifest as manifests
from rayplat.artifacts.leases import Keep, Timing, publish
from rayplat.artifacts.manifest import Entry, Manifest, check_digest
from rayplat.artifacts.places.place import CHUNK, Added, Place, Source, Stream, object_name, place_at
from rayplat.artifacts.sources import walk
from rayplat.errors import Corrupt, NotFound
from rayplat.types import ArtifactRef, VerifyReport

if TYPE_CHECKING:
    from rayplat.settings import Settings


class ArtifactStore:
    """Objects and trees by digest below ``root``: a path, ``file://`` or ``s3://bucket/prefix`` with its ``options``
    (`S3Place`). Any number of processes may use one root at once.

    Every method raises `Unavailable`, with what to do, where the medium fails.
    """

    def __init__(self, root: str | Path, options: Mapping[str, str] | None = None) -> None:
        self.place: Place = place_at(root, options)
        self.timing = Timing()

    @classmethod
    def of(cls, settings: Settings) -> ArtifactStore:
        """The platform's store."""
        return cls(settings.artifacts_root, settings.artifacts.storage_options)

    @classmethod
    def on(cls, place: Place, timing: Timing) -> ArtifactStore:
        """A store on a place, clock and spans of one's own."""
        store = cls.__new__(cls)
        store.place, store.timing = place, timing
        return store

    def put_bytes(self, content: bytes, kind: str) -> ArtifactRef:
        """Store ``content``; the same bytes again cost nothing."""
        return self._put([content], kind)

    def put_file(self, path: Path, kind: str) -> ArtifactRef:
        """Store the bytes of one regular file. Raises `NotFound`, or `InvalidInput` for a link or a device."""
        return self._put([Path(path)], kind)

    def put_tree(self, folder: Path, kind: str) -> ArtifactRef:
        """Store every file below ``folder`` and the manifest that names them; the digest is the manifest's.

        Links, devices and names that some file system cannot hold are refused (`InvalidInput`); empty folders are
        not part of a tree. ``kind`` is part of the identity. After an interruption the same call goes on where it
        was: what is there is not stored again, and ``new_bytes`` of the result counts what was.
        """
        folder = Path(folder)
        if folder.is_symlink() or not folder.is_dir():
            raise NotFound("folder", str(folder))
        files = sorted(walk(folder)[0])
        for path in files:
            manifests.check_path(path)
        manifests.check_clashes(files)

        def put(keep: Keep) -> tuple[str, ArtifactRef]:
            added = self.place.add((folder / path for path in files), keep)
            entries = [Entry(p, a.size, a.digest, a.executable) for p, a in zip(files, added, strict=True)]
            tree = manifests.build(kind, entries)
            (named,) = self.place.add([tree.encode()], keep)
            return named.digest, ArtifactRef(named.digest, kind, tree.size_bytes, sum(a.written for a in added))

        return publish(self.place, self.timing, kind, put)

    def exists(self, digest: str) -> bool:
        """Whether the object is there. A tree's files are stored before its manifest and deleted after it, so this
        covers a tree too."""
        return self.place.size(_object(digest)) is not None

    def touch(self, digest: str) -> None:
        """Publish again what is there: for the grace from now on garbage collection leaves it alone, whatever it had
        found before. Call it before a reference to ``digest`` is written down somewhere.

        Raises `NotFound` when the object, or a file of the tree, is gone; `Corrupt` for a damaged manifest.
        """

        def check_there(keep: Keep) -> tuple[str, None]:
            tree = checkout.find_tree(self.place, digest)
            wanted = {} if tree is None else {e.digest: e for e in tree.entries}

            def there(entry: Entry) -> bool:
                return self.place.size(object_name(entry.digest)) == entry.size

            checked = checkout.each(there, wanted.values(), self.place.parallel)
            for entry, found in zip(wanted.values(), checked, strict=True):
                keep()
                if not found:
                    raise NotFound("artifact", digest, f"the file {entry.path!r} of this tree is gone; put it again")
            return digest, None

        _object(digest)
        publish(self.place, self.timing, "touched", check_there)

    def get_bytes(self, digest: str) -> bytes:
        """The object's bytes. Raises `NotFound`, or `Corrupt` when they no longer match their digest."""
        return b"".join(self.chunks(digest))

    def chunks(self, digest: str) -> Iterator[bytes]:
        """The object's bytes piece by piece. Use none of them before the last: when the whole does not match its
        digest, `Corrupt` is raised at the end."""
        hashed = hashlib.sha256()
        with closing(self._open(digest)) as file:
            while chunk := file.read(CHUNK):
                hashed.update(chunk)
                yield chunk
        if "sha256:" + hashed.hexdigest() != digest:
            raise Corrupt(f"artifact {digest}", digest, "sha256:" + hashed.hexdigest())

    def get_file(self, digest: str, into: Path) -> Path:
        """Copy one object to the file ``into``, which appears once its bytes have matched their digest.

        Raises `NotFound`, `Corrupt`, or `AlreadyExists` when ``into`` is something else already.
        """
        checkout.get_file(lambda: self._open(digest), digest, Path(into))
        return Path(into)

    def manifest(self, digest: str) -> Manifest:
        """The files of a tree. Raises `InvalidInput` when the object is no tree."""
        return manifests.decode(self.get_bytes(digest))

    def checkout(self, digest: str, into: Path) -> Path:
        """Copy a tree to ``into`` and return it; every file is hashed on the way, also when it is there already.

        ``into`` appears whole or not at all; after an interruption the next call keeps the files that are sound.
        Raises `AlreadyExists` when it holds anything else than this tree.
        """
        checkout.checkout(self.place, self.manifest(digest), digest, Path(into))
        return Path(into)

    def verify(self, digest: str | None = None) -> VerifyReport:
        """Read one object, with all files when it is a tree, or everything that is stored, and name what is damaged
        or missing."""
        if digest is None:
            return check.everything(self.place)
        _object(digest)
        return check.one(self.place, digest)

    def _put(self, sources: Sequence[Source], kind: str) -> ArtifactRef:
        def put(keep: Keep) -> tuple[str, Added]:
            (added,) = self.place.add(sources, keep)
            return added.digest, added

        added = publish(self.place, self.timing, kind, put)
        return ArtifactRef(added.digest, kind, added.size, added.written)

    def _open(self, digest: str) -> Stream:
        try:
            return self.place.open(_object(digest))
        except NotFound:
            raise NotFound("artifact", digest) from None


def _object(digest: str) -> str:
    return object_name(check_digest("digest", digest))
