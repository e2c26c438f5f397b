"""Addresses of the artifact store as MLflow writes them: ``cas:///abs/folder`` and ``cas+s3://bucket/prefix``. Pure.

Below the store's root MLflow appends what it always does, ``/<experiment>/<run id>/artifacts/<path>``, and the same for
logged models and traces. ``<root>/trees/sha256:<hex>`` is one immutable tree, the source of a registered version.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import quote, unquote, urlparse

from rayplat.artifacts.manifest import check_digest
from rayplat.errors import InvalidInput

_RUN = r"(?:/\d+)?/(?:[0-9a-f]{32}|models/m-[0-9a-f]{32}|traces/tr-[0-9A-Za-z-]+)"
_WITH_ARTIFACTS = re.compile(rf"{_RUN}/artifacts(?=/|$)")
_WITHOUT = re.compile(rf"{_RUN}(?=/|$)")
_TREE = re.compile(r"/trees/(sha256:[0-9a-f]{64})(?=/|$)")
_SCHEMES = {"cas": "", "cas+s3": "s3"}
_LONGEST_PATH = 2000


@dataclass(frozen=True)
class Location:
    """``root`` is a folder or ``s3://bucket/prefix``, as `ArtifactStore` takes it; ``path`` lies below the names of
    the root, or inside the tree whose digest is ``tree``."""

    root: str
    path: str = ""
    tree: str | None = None


def parse(uri: str) -> Location:
    """What ``uri`` names. Raises `InvalidInput` for another scheme, a relative root, ``..``, ``#`` or ``?``."""
    found = urlparse(uri)
    if found.scheme not in _SCHEMES:
        raise InvalidInput("artifact URI", f"{uri!r} does not begin with cas:/// or cas+s3://")
    if "#" in uri or "?" in uri:
        raise InvalidInput("artifact URI", f"Invalid path: {uri!r} holds '#' or '?'")
    path = found.path.rstrip("/")
    check_path(path.lstrip("/")) if path else None
    if found.scheme == "cas" and (found.netloc or not path):
        raise InvalidInput("artifact URI", f"{uri!r} needs three slashes and a folder: cas:///abs/folder")
    if found.scheme == "cas+s3" and not found.netloc:
        raise InvalidInput("artifact URI", f"{uri!r} names no bucket: cas+s3://bucket/prefix")
    prefix = f"s3://{found.netloc}" if found.netloc else ""
    if tree := _TREE.search(path):
        return Location(prefix + unquote(path[: tree.start()]), path[tree.end() :].strip("/"), tree[1])
    run = _WITH_ARTIFACTS.search(path) or _WITHOUT.search(path)
    if run is None:
        return Location(prefix + unquote(path))
    return Location(prefix + unquote(path[: run.start()]), path[run.start() :].strip("/"))


def uri_of(root: str) -> str:
    """The URI of a store whose root is a folder, ``file:///folder`` or ``s3://bucket/prefix``."""
    if root.startswith("s3://"):
        return "cas+" + root.rstrip("/")
    if root.startswith("file:///"):
        return "cas:" + root.removeprefix("file:").rstrip("/")
    if not root.startswith("/"):
        raise InvalidInput("artifact store", f"{root!r} is no absolute folder and no s3:// URL")
    return "cas://" + quote(root.rstrip("/"), safe="/@+=,~-_.")


def tree_uri(root: str, digest: str) -> str:
    """The URI of one tree of that store: immutable, and verified while it is read."""
    return f"{uri_of(root)}/trees/{check_digest('digest', digest)}"


def check_path(path: str) -> str:
    """``path`` itself, below a run's artifacts; `InvalidInput` where it is absolute, could leave them, or is ambiguous
    in a URI, also after percent-decoding. An empty path is the artifacts' top."""
    decoded, shown = path, path if len(path) <= 200 else path[:199] + "…"
    while (again := unquote(decoded)) != decoded:
        decoded = again
    problem = None
    if decoded.startswith("/") or re.match(r"[A-Za-z]:[/\\]|file:", decoded):
        problem = "it must be relative"
    elif ".." in decoded.split("/"):
        problem = "it leads out by '..'"
    elif any(c in "#?\\" for c in decoded):
        problem = "it holds '#', '?' or a backslash"
    elif any(ord(c) < 32 or ord(c) == 127 or 0xD800 <= ord(c) <= 0xDFFF for c in decoded):
        problem = "it holds a control character or is no UTF-8"
    elif len(path) > _LONGEST_PATH:
        problem = f"it is longer than {_LONGEST_PATH} characters"
    if problem:
        raise InvalidInput("Invalid artifact path", f"Invalid path {shown!r}: {problem}")
    return path
