"""Verbs on artifacts: what is stored under the digest of its content, which run made it, and whether it is sound."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from rayplat.artifacts import manifest as manifests
from rayplat.artifacts.gc import gc as collect
from rayplat.artifacts.manifest import Entry
from rayplat.artifacts.places.place import object_name
from rayplat.artifacts.store import ArtifactStore
from rayplat.errors import Corrupt, InvalidInput, NotFound
from rayplat.registry.record import artifacts, pins
from rayplat.services.spool import Spool
from rayplat.services.verbs import Noun, route
from rayplat.types import ArtifactInfo, ArtifactRef, GcReport, RecordPin, Role, VerifyReport

MOST_ASKED = 10_000
MOST_HOURS = 24.0 * 366


@dataclass(frozen=True)
class ArtifactFiles:
    """``files`` are those of a tree; a single file has none."""

    info: ArtifactInfo
    files: tuple[Entry, ...]


@dataclass(frozen=True)
class Transfer:
    """How far an upload came: ``received`` bytes wait for the rest; ``stored``: the object is in the store."""

    digest: str
    received: int
    stored: bool


class Artifacts(Noun):
    """Files and folders under the digest of their content: written once, verified when read."""

    NAME = "artifacts"

    @route("GET", "/artifacts", Role.VIEWER)
    def list(self, kind: str | None = None, run_id: str | None = None, limit: int = 100) -> tuple[ArtifactInfo, ...]:
        """Artifacts, newest first, of one kind or of one run."""
        return tuple(self._context.registry.read(artifacts.listed, kind, run_id, limit))

    @route("GET", "/artifacts/{digest}", Role.VIEWER)
    def show(self, digest: str) -> ArtifactFiles:
        """What an artifact is, and the files of a tree. Raises NotFound, Corrupt."""
        info = self._context.registry.read(artifacts.get, digest)
        try:
            return ArtifactFiles(info, self._store.manifest(digest).entries)
        except InvalidInput:
            return ArtifactFiles(info, ())

    def put(self, path: Path | str, kind: str = "file", run_id: str | None = None) -> ArtifactInfo:
        """Store a file, or a folder as a tree, under the digest of its content; the same content again costs nothing.

        Raises NotFound, InvalidInput for links, devices and names that no tree may hold."""
        path = Path(path)
        put = self._store.put_tree if path.is_dir() else self._store.put_file
        return self._note(put(path, kind), run_id)

    def get(self, digest: str, into: Path | str) -> Path:
        """Copy an artifact to the new file or folder ``into``, every byte checked. Raises NotFound, Corrupt,
        AlreadyExists."""
        found = self.show(digest)
        return (self._store.checkout if found.files else self._store.get_file)(digest, Path(into))

    @route("POST", "/artifacts/missing", Role.DEVELOPER)
    def missing(self, digests: tuple[str, ...]) -> tuple[str, ...]:
        """Which of these objects the store does not have: only they need to be sent."""
        if len(digests) > MOST_ASKED:
            raise InvalidInput("digests", f"{len(digests)} digests, at most {MOST_ASKED} in one call")
        return tuple(digest for digest in dict.fromkeys(digests) if not self._store.exists(digest))

    @route("POST", "/artifacts/files", Role.DEVELOPER)
    def add_file(self, digest: str, kind: str, run_id: str | None = None) -> ArtifactInfo:
        """Make an artifact of an object that has been sent. Raises NotFound where it was not."""
        self._store.touch(digest)
        return self._note(ArtifactRef(digest, kind, self._size(digest)), run_id)

    @route("POST", "/artifacts/trees", Role.DEVELOPER, long=True)
    def add_tree(self, kind: str, files: tuple[Entry, ...], run_id: str | None = None) -> ArtifactInfo:
        """Make an artifact of files that have been sent, each object by its digest. Raises NotFound for one that was
        not, InvalidInput for a path that no tree may hold."""
        tree = manifests.build(kind, files)
        made = self._store.put_bytes(tree.encode(), kind)
        self._store.touch(made.digest)
        return self._note(ArtifactRef(made.digest, kind, tree.size_bytes), run_id)

    @route("POST", "/artifacts/verify", Role.VIEWER, long=True)
    def verify(self, digest: str | None = None) -> VerifyReport:
        """Read an artifact, or everything that is stored, and name what is damaged or missing."""
        return self._store.verify(digest)

    @route("POST", "/artifacts/gc", Role.ADMIN, long=True)
    def gc(self, dry_run: bool = True, keep_hours: float | None = None) -> GcReport:
        """Condemn what nothing needs, and delete what was condemned ``keep_hours`` ago; a dry run only says what.

        Needed is what an alias, one of its last live versions, a pin, an open promotion, a version, a run of MLflow or
        a recent upload names. Raises Conflict beside another collection, Unavailable while uploads are under way."""
        if keep_hours is not None and not 0 <= keep_hours <= MOST_HOURS:
            raise InvalidInput("keep_hours", f"{keep_hours} is not between 0 and {MOST_HOURS}")
        registry, grace_s = self._context.registry, self._context.settings.artifacts.gc_grace_s
        keep = timedelta(seconds=grace_s) if keep_hours is None else timedelta(hours=keep_hours)
        report = collect(self._store, lambda: registry.read(artifacts.roots), keep, dry_run)
        if report.deleted and not dry_run:
            registry.write(artifacts.collected, report, by=self._context.principal)
        return report

    @route("GET", "/artifacts/{digest}/pins", Role.VIEWER)
    def pins(self, digest: str) -> tuple[RecordPin, ...]:
        """Who wants an artifact kept, and why."""
        return tuple(self._context.registry.read(pins.listed, "artifact", digest))

    @route("POST", "/artifacts/{digest}/pins", Role.DEVELOPER)
    def pin(self, digest: str, reason: str) -> RecordPin:
        """Keep an artifact until you unpin it, whatever else points at it."""
        self._store.touch(digest)
        return self._context.registry.write(pins.pin, "artifact", digest, reason, by=self._context.principal)

    @route("DELETE", "/artifacts/{digest}/pins", Role.DEVELOPER)
    def unpin(self, digest: str, by: str | None = None) -> None:
        """Take your pin away; only an admin takes away those of another holder (``by``)."""
        self._context.registry.write(pins.unpin, "artifact", digest, by, by=self._context.principal)

    # --- parts of objects, for transfers over HTTP ------------------------------------------------------

    def progress(self, digest: str) -> Transfer:
        """How far the caller's upload of an object came."""
        stored = self._store.exists(digest)
        return Transfer(digest, 0 if stored else self._spool.received(self._context.principal.name, digest), stored)

    def receive(self, digest: str, offset: int, size: int, part: bytes) -> Transfer:
        """Take a part of an upload; the last one brings the object into the store. Raises Conflict where it is not
        continued at its end, Corrupt where the whole has another digest: then it begins anew."""
        sender = self._context.principal.name
        file = self._spool.append(sender, digest, offset, size, part)
        if file is None:
            return Transfer(digest, offset + len(part), False)
        try:
            stored = self._store.put_file(file, "upload")
        finally:
            self._spool.forget(sender, digest)
        if stored.digest != digest:
            raise Corrupt("the upload", digest, stored.digest)
        return Transfer(digest, size, True)

    def chunks(self, digest: str, offset: int) -> Iterator[bytes]:
        """The bytes of an object from ``offset`` on. The receiver checks their digest."""
        before = 0
        for chunk in self._store.chunks(digest):
            if before + len(chunk) > offset:
                yield chunk[max(0, offset - before) :]
            before += len(chunk)

    # --- inside ---------------------------------------------------------------------------------------

    @property
    def _store(self) -> ArtifactStore:
        return self._context.artifacts

    @property
    def _spool(self) -> Spool:
        return Spool(self._context.settings.home / "uploads")

    def _size(self, digest: str) -> int:
        size = self._store.place.size(object_name(digest))
        if size is None:
            raise NotFound("artifact", digest)
        return size

    def _note(self, made: ArtifactRef, run_id: str | None) -> ArtifactInfo:
        return self._context.registry.write(artifacts.add, made, run_id, by=self._context.principal)
