"""Scrubbing: reading what is stored and naming what no longer is what it should be."""

from __future__ import annotations

import hashlib
from contextlib import closing

from rayplat.artifacts import manifest as manifests
from rayplat.artifacts.checkout import each
from rayplat.artifacts.leases import uploads
from rayplat.artifacts.manifest import PREFIX, Manifest
from rayplat.artifacts.places.place import CHUNK, OBJECTS, Place, digest_at, object_name
from rayplat.errors import Corrupt, InvalidInput, NotFound
from rayplat.types import ArtifactProblem, VerifyReport

_MANIFEST_BYTES = 256 << 20
_Read = tuple[str | None, int, Manifest | None]  # what is wrong, bytes read, the tree that it is


def one(place: Place, digest: str) -> VerifyReport:
    """Of one object, and of its files when it is a tree."""
    problem, size, tree = _read(place, digest)
    if problem is not None:
        return VerifyReport(1, size, (ArtifactProblem(digest, None, problem),))
    problems, objects = [], {digest}
    paths: dict[str, list[str]] = {}
    for entry in tree.entries if tree is not None else ():
        paths.setdefault(entry.digest, []).append(entry.path)
    objects |= paths.keys()
    for file, (found, more, _) in zip(paths, each(lambda d: _read(place, d), paths, place.parallel), strict=True):
        size += more
        if found is not None:
            problems += [ArtifactProblem(file, path, found) for path in paths[file]]
    return VerifyReport(len(objects), size, tuple(problems))


def everything(place: Place) -> VerifyReport:
    """Of all objects, and whether every file of every tree and everything that was published lately is there."""
    problems: list[ArtifactProblem] = []
    named = []
    for entry in place.list(OBJECTS):
        digest = digest_at(entry.name)
        if digest is None:
            problems.append(ArtifactProblem(entry.name, None, "no object belongs there"))
        else:
            named.append(digest)
    size, there, trees = 0, set(named), {}
    for digest, (problem, read, tree) in zip(
        named, each(lambda d: _read(place, d), named, place.parallel), strict=True
    ):
        size += read
        if problem is not None:
            problems.append(ArtifactProblem(digest, None, problem))
        elif tree is not None:
            trees[digest] = tree
    for digest, tree in trees.items():
        gone = [e for e in tree.entries if e.digest not in there]
        problems += [ArtifactProblem(e.digest, e.path, f"missing, though the tree {digest} needs it") for e in gone]
    lately = {upload.digest for upload in uploads(place)} - there
    problems += [ArtifactProblem(digest, None, "missing, though it was published") for digest in sorted(lately)]
    return VerifyReport(len(named), size, tuple(problems))


def _read(place: Place, digest: str) -> _Read:
    hashed, size, content = hashlib.sha256(), 0, b""
    try:
        with closing(place.open(object_name(digest))) as file:
            while chunk := file.read(CHUNK):
                hashed.update(chunk)
                size += len(chunk)
                if (size == len(chunk) and chunk.startswith(PREFIX)) or (content and size < _MANIFEST_BYTES):
                    content += chunk
    except NotFound:
        return "missing", 0, None
    except Corrupt as e:
        return f"damaged: expected {e.expected}, found {e.actual}", 0, None
    found = "sha256:" + hashed.hexdigest()
    if found != digest:
        return f"damaged: its bytes have the digest {found}", size, None
    try:
        return None, size, manifests.decode(content) if content else None
    except InvalidInput:
        return None, size, None
