"""Digests of parts of a tree: the model without what differs between two saves of it, its code, its environment."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from rayplat.artifacts import manifest as manifests
from rayplat.artifacts.formats import descriptor
from rayplat.artifacts.manifest import Entry, Manifest, canonical, sha256
from rayplat.artifacts.store import ArtifactStore
from rayplat.errors import InvalidInput, RayplatError

Read = Callable[[Entry], bytes]

VOLATILE = ("model_uuid", "utc_time_created", "run_id", "model_id")
ENVIRONMENT = ("requirements.txt", "conda.yaml", "python_env.yaml")
_MAX_BYTES = 16 << 20
_SPACES = re.compile(r"\s+")


def reader(store: ArtifactStore) -> Read:
    """Files of trees in ``store``, hashed when they are read."""
    return lambda entry: store.get_bytes(entry.digest)


def payload_digest(tree: Manifest, read: Read) -> str:
    """The digest of ``tree`` as if MLmodel had none of the keys that differ each time one model is saved."""
    entries = [_stable(entry, read) if entry.path == descriptor.FILE else entry for entry in tree.entries]
    return sha256(manifests.build(tree.kind, entries).encode())


def code_digest(tree: Manifest) -> str | None:
    """The digest of the Python files of ``tree`` and of all below its ``code`` folder; None where there is none."""
    return _digest_of("code", [e for e in tree.entries if e.path.startswith("code/") or e.path.endswith(".py")])


def env_digest(tree: Manifest, read: Read) -> str | None:
    """The digest of the environment that ``tree`` asks for, whatever the order, spaces and comments in its files;
    None where it names none."""
    files = {e.path: e for e in tree.entries if e.path in ENVIRONMENT and e.size <= _MAX_BYTES}
    if not files:
        return None
    return sha256(canonical({path: _environment(path, read(entry)) for path, entry in files.items()}))


def _digest_of(kind: str, entries: list[Entry]) -> str | None:
    return sha256(manifests.build(kind, entries).encode()) if entries else None


def _stable(entry: Entry, read: Read) -> Entry:
    if entry.size > _MAX_BYTES:
        return entry
    try:
        content = {k: v for k, v in descriptor.parse(read(entry)).items() if k not in VOLATILE}
        stable = canonical(_plain(content))
    except InvalidInput:
        return entry  # no MLmodel that could be read: its bytes are what it is
    return Entry(entry.path, len(stable), sha256(stable), entry.executable)


def _environment(path: str, content: bytes) -> Any:
    text = content.decode("utf-8", "replace")
    if path == "requirements.txt":
        lines = (_SPACES.sub("", line.split(" #")[0]) for line in text.splitlines())
        return sorted({line for line in lines if line and not line.startswith("#")})
    try:
        return _plain(descriptor.parse(content))
    except RayplatError:
        return text


def _plain(value: Any) -> Any:
    """JSON of what YAML may hold: keys as text, lists of names sorted, dates and large numbers as text."""
    if isinstance(value, dict):
        return {str(key).encode("unicode_escape").decode("ascii"): _plain(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_plain(part) for part in value]
    if isinstance(value, bool | str) or value is None:
        return value
    return repr(value)
