"""The store as an MLflow artifact repository: plain MLflow code logs into it and loads from it.

Payload bytes lie in the store by digest, so the same file logged twice is stored once; what a run calls them is a
`refs` entry. Every byte that is downloaded is hashed on the way: a damaged object fails, it never comes back wrong.
MLflow loads this module by its entry point; nothing else imports it.
"""

from __future__ import annotations

import contextlib
import os
import posixpath
import secrets
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from mlflow.entities import FileInfo
from mlflow.exceptions import MlflowException
from mlflow.protos import databricks_pb2 as codes
from mlflow.store.artifact.artifact_repo import ArtifactRepository

from rayplat.artifacts import locations, refs
from rayplat.artifacts.locations import Location
from rayplat.artifacts.manifest import Entry
from rayplat.artifacts.refs import Ref, Refs
from rayplat.artifacts.store import ArtifactStore
from rayplat.errors import Corrupt, Forbidden, InvalidInput, NotFound, RayplatError, Unavailable

_KIND = "run file"
_S3_OPTIONS = (
    "AWS_ENDPOINT_URL",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_REGION",
    "AWS_ALLOW_HTTP",
    "AWS_VIRTUAL_HOSTED_STYLE_REQUEST",
)
_CODES = {
    InvalidInput: codes.INVALID_PARAMETER_VALUE,
    NotFound: codes.RESOURCE_DOES_NOT_EXIST,
    Corrupt: codes.DATA_LOSS,
    Forbidden: codes.PERMISSION_DENIED,
    Unavailable: codes.TEMPORARILY_UNAVAILABLE,
}


class CasArtifactRepository(ArtifactRepository):  # type: ignore[misc]
    """Schemes ``cas`` (a folder) and ``cas+s3`` (S3; address and keys from the ``AWS_*`` variables).

    Raises `MlflowException`: INVALID_PARAMETER_VALUE for a path that is no relative artifact path,
    RESOURCE_DOES_NOT_EXIST, DATA_LOSS for bytes that no longer match their digest, PERMISSION_DENIED for a change to
    a tree, TEMPORARILY_UNAVAILABLE.
    """

    def __init__(self, artifact_uri: str, tracking_uri: str | None = None, registry_uri: str | None = None) -> None:
        super().__init__(artifact_uri, tracking_uri, registry_uri)
        with _for_mlflow():
            self._at: Location = locations.parse(artifact_uri)

    def log_artifact(self, local_file: str, artifact_path: str | None = None) -> None:
        """Store one file (a link is followed) below the folder ``artifact_path``."""
        with _for_mlflow():
            folder = _target(artifact_path)
            self._writable()
            self._log(Path(local_file), posixpath.join(folder, Path(local_file).name))

    def log_artifacts(self, local_dir: str, artifact_path: str | None = None) -> None:
        """Store every file below ``local_dir``, links followed, hidden files and empty folders included."""
        with _for_mlflow():
            folder, top = _target(artifact_path), Path(local_dir)
            self._writable()
            if not top.is_dir():
                raise NotFound("folder", str(local_dir))
            files = []
            for name, file in _walk(top):
                if file is None:
                    self._refs.put_folder(self._key(_target(posixpath.join(folder, name))))
                else:
                    files.append((file, posixpath.join(folder, name)))
            list(self.thread_pool.map(lambda pair: self._log(*pair), files))

    def list_artifacts(self, path: str | None = None) -> list[FileInfo]:
        """What lies directly in the folder ``path``, by name; a file or an unknown path has nothing in it."""
        with _for_mlflow():
            folder = _normal(path)
            if found_tree := self._tree_named(folder):
                named, inside = found_tree
                below = f"{folder.partition('/')[0]}/"
                return [FileInfo(below + f.path, f.is_dir, f.file_size) for f in named.list_artifacts(inside)]
            if self._at.tree is not None:
                return self._list_tree(folder)
            top = f"{self._at.path}/" if self._at.path else ""
            found = self._refs.list(self._key(folder)) if self._exists() else []
            return [
                FileInfo(entry.path.removeprefix(top), entry.ref is None, None if entry.ref is None else entry.ref.size)
                for entry in found
            ]

    def download_artifacts(self, artifact_path: str | None, dst_path: str | None = None) -> str:
        """Copy a file or a folder into ``dst_path`` (a new temporary folder by default); its local path."""
        with _for_mlflow():
            artifact_path = _normal(artifact_path)
        local: str = super().download_artifacts(artifact_path, dst_path)  # type: ignore[no-untyped-call]
        return local

    def delete_artifacts(self, artifact_path: str | None = None) -> None:
        """Forget a file, or a folder with all below it; nothing where there is neither. Objects that nothing else
        names go with the next garbage collection."""
        with _for_mlflow():
            path = _normal(artifact_path)
            self._writable()
            if self._exists():
                self._refs.delete(self._key(path))

    def _download_file(self, remote_file_path: str, local_path: str) -> None:
        with _for_mlflow():
            path = _normal(remote_file_path)
            if found_tree := self._tree_named(path):
                found_tree[0]._download_file(found_tree[1], local_path)
                return
            if not self._exists():
                raise NotFound("artifact", path)
            ref = self._find_in_tree(path) if self._at.tree is not None else self._refs.get(self._key(path))
            self._fetch(ref, Path(local_path), path)

    # --- where things are -----------------------------------------------------------------------------

    @cached_property
    def _store(self) -> ArtifactStore:
        return ArtifactStore(self._at.root, _s3_options() if self._on_s3 else None)

    @cached_property
    def _on_s3(self) -> bool:
        return self._at.root.startswith("s3://")

    @cached_property
    def _refs(self) -> Refs:
        keys = refs.PlaceKeys(self._store.place) if self._on_s3 else refs.FolderKeys(Path(self._at.root))
        return Refs(keys, self.thread_pool)

    @cached_property
    def _tree(self) -> tuple[Entry, ...]:
        """The files of the tree below this repository's path, with paths relative to it."""
        if not self._exists():
            raise NotFound("artifact", str(self._at.tree))
        prefix = f"{self._at.path}/" if self._at.path else ""
        found = self._store.manifest(str(self._at.tree)).entries
        return tuple(
            Entry(e.path.removeprefix(prefix), e.size, e.digest, e.executable)
            for e in found
            if e.path.startswith(prefix)
        )

    def _tree_named(self, path: str) -> tuple[CasArtifactRepository, str] | None:
        """The tree that ``path`` begins with, and the rest, where this is a store's folder ``trees``: MLflow takes the
        last part of an address that it is given as a path."""
        digest, _, inside = path.partition("/")
        if self._at.tree is not None or self._at.path or not self._at.root.endswith("/trees"):
            return None
        if not digest.startswith("sha256:"):
            return None
        root = self._at.root.removesuffix("/trees")
        return CasArtifactRepository(locations.tree_uri(root, digest), self.tracking_uri, self.registry_uri), inside

    def _exists(self) -> bool:
        """Whether there is a store to read: a read makes none."""
        return self._on_s3 or (Path(self._at.root) / "objects").is_dir()

    def _key(self, path: str) -> str:
        return posixpath.join(self._at.path, path) if path else self._at.path

    def _writable(self) -> None:
        if self._at.tree is not None:
            raise Forbidden("MLflow", f"{self.artifact_uri} is an immutable tree: log to a run and register it")

    def _log(self, file: Path, path: str) -> None:
        locations.check_path(path)
        stored = self._store.put_file(file.resolve(), _KIND)
        self._refs.put(self._key(path), Ref(stored.digest, stored.size_bytes))

    def _fetch(self, ref: Ref, target: Path, path: str) -> None:
        """The object's verified bytes at ``target``, whole or not at all."""
        part = target.with_name(f".{secrets.token_hex(6)}.part")
        try:
            with part.open("xb") as file:
                for chunk in self._store.chunks(ref.digest):
                    file.write(chunk)
                if (found := file.tell()) != ref.size:
                    raise Corrupt(f"artifact {path!r}", f"{ref.size} bytes", f"{found} bytes")
            os.replace(part, target)
        finally:
            part.unlink(missing_ok=True)

    def _list_tree(self, folder: str) -> list[FileInfo]:
        prefix = f"{folder}/" if folder else ""
        found: dict[str, FileInfo] = {}
        for entry in self._tree:
            if entry.path.startswith(prefix):
                name, _, below = entry.path.removeprefix(prefix).partition("/")
                found[name] = FileInfo(prefix + name, bool(below), None if below else entry.size)
        return [found[name] for name in sorted(found)]

    def _find_in_tree(self, path: str) -> Ref:
        for entry in self._tree:
            if entry.path == path:
                return Ref(entry.digest, entry.size)
        raise NotFound("artifact", path, f"the tree {self._at.tree} does not hold it")


def _s3_options() -> dict[str, str]:
    """Address and keys as MLflow's own S3 repository takes them: from the environment."""
    found = {name: os.environ[name] for name in _S3_OPTIONS if os.environ.get(name)}
    if endpoint := os.environ.get("MLFLOW_S3_ENDPOINT_URL"):
        found.setdefault("AWS_ENDPOINT_URL", endpoint)
    return found


def _normal(path: str | None) -> str:
    """A path to read: checked, without ``.`` parts and doubled or trailing slashes; empty for the top."""
    normal = posixpath.normpath(locations.check_path(str(path))) if path else "."
    return "" if normal == "." else normal


def _target(path: str | None) -> str:
    """A path to write: only the one way to write it is accepted."""
    if not path:
        return ""
    if _normal(path) != str(path):
        raise InvalidInput("Invalid artifact path", f"Invalid path {path!r}: write it as {_normal(path) or 'None'!r}")
    return str(path)


def _walk(folder: Path, prefix: str = "", above: tuple[str, ...] = ()) -> Iterator[tuple[str, Path | None]]:
    """Relative path and file of all below ``folder``; None for a folder that is empty. Links are followed, but not
    back into a folder that is being walked."""
    here = os.path.realpath(folder)
    if here in above:
        raise InvalidInput("local_dir", f"{folder} is a link to a folder that holds it")
    entries = sorted(os.listdir(folder))
    if not entries and prefix:
        yield prefix.rstrip("/"), None
    for name in entries:
        if (path := folder / name).is_dir():
            yield from _walk(path, f"{prefix}{name}/", (*above, here))
        else:
            yield prefix + name, path


@contextlib.contextmanager
def _for_mlflow() -> Iterator[Any]:
    """Our errors as MLflow's, so that its servers and clients answer with the right status."""
    try:
        yield
    except RayplatError as e:
        code = next((code for kind, code in _CODES.items() if isinstance(e, kind)), codes.INTERNAL_ERROR)
        raise MlflowException(str(e), error_code=code) from e
