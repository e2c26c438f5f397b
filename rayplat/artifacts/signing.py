"""Signed statements about model versions: made when one is registered, checked before one is promoted or served.

A statement is an artifact of two files: ``model.sig``, a Sigstore bundle that the public ``model_signing`` tool
verifies against a checkout of the model (https://github.com/sigstore/model-transparency), and ``provenance.json``, a
DSSE envelope around what `provenance` says. Neither hashes the model again: both come from the tree's manifest.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rayplat.artifacts import dsse, provenance
from rayplat.artifacts.keys import PublicKey, SigningKey, TrustedKeys
from rayplat.artifacts.manifest import Entry, Manifest, canonical
from rayplat.artifacts.provenance import Facts
from rayplat.artifacts.store import ArtifactStore
from rayplat.errors import NotTrusted

KIND = "statement"
BUNDLE_FILE, PROVENANCE_FILE = "model.sig", "provenance.json"
_BUNDLE_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
_PREDICATE_TYPE = "https://model_signing/signature/v1.0"
_IGNORED = (".git", ".gitattributes", ".github", ".gitignore")  # by the public tool, unless it is told otherwise
_MAX_BYTES = 256 << 20


@dataclass(frozen=True)
class Signed:
    """A statement that was verified: the id of the key, and when it was signed."""

    key_id: str
    signed_at: datetime


def sign_version(store: ArtifactStore, key: SigningKey, facts: Facts) -> str:
    """Sign the tree ``facts.digest`` and where it came from; the digest of the statement, which the record keeps."""
    bundle = sign_tree(store.manifest(facts.digest), key, facts.name)
    origin = canonical(dsse.seal(provenance.statement(facts, datetime.now(UTC)), key))
    with tempfile.TemporaryDirectory(prefix="rayplat-statement-") as folder:
        (Path(folder) / BUNDLE_FILE).write_bytes(bundle)
        (Path(folder) / PROVENANCE_FILE).write_bytes(origin)
        return store.put_tree(Path(folder), KIND).digest


def verify(
    store: ArtifactStore, statement: str | None, facts: Facts, keys: TrustedKeys, now: datetime | None = None
) -> Signed:
    """Check the statement with the digest ``statement`` against what the record says (``facts``).

    Raises `NotTrusted` with the reason: unsigned, an unknown key, altered, about another tree or version, older than
    the version. Raises NotFound or Corrupt where its bytes are not in the store.
    """
    what = f"the statement of {facts.name}"
    if statement is None:
        raise NotTrusted(what, "the version has none: it was never signed")
    files = {entry.path: entry for entry in _statement_tree(store, statement, what).entries}
    if files.keys() != {BUNDLE_FILE, PROVENANCE_FILE} or any(e.size > _MAX_BYTES for e in files.values()):
        raise NotTrusted(what, f"{statement} is no statement: {', '.join(sorted(files))[:200]}")
    verify_tree(store.get_bytes(files[BUNDLE_FILE].digest), store.manifest(facts.digest), keys, what)
    envelope = dsse.parse(store.get_bytes(files[PROVENANCE_FILE].digest), what)
    found, key_id = dsse.unseal(envelope, keys, what)
    if found.get("predicateType") != provenance.PREDICATE_TYPE:
        raise NotTrusted(what, f"its provenance is a {found.get('predicateType')!r}")
    return Signed(key_id, provenance.check(found, facts, now or datetime.now(UTC), what))


def sign_tree(tree: Manifest, key: SigningKey, name: str) -> bytes:
    """A Sigstore bundle with an OpenSSF Model Signing statement over every file of ``tree``."""
    resources, root = _resources(tree.entries)
    statement = {
        "_type": dsse.STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": root}}],
        "predicateType": _PREDICATE_TYPE,
        "predicate": {
            "serialization": {
                "method": "files",
                "hash_type": "sha256",
                "allow_symlinks": False,
                "ignore_paths": list(_IGNORED),
            },
            "resources": resources,
        },
    }
    material = {"publicKey": {"hint": _hint(key.public)}, "tlogEntries": []}
    return canonical(
        {"mediaType": _BUNDLE_TYPE, "verificationMaterial": material, "dsseEnvelope": dsse.seal(statement, key)}
    )


def verify_tree(bundle: bytes, tree: Manifest, keys: TrustedKeys, what: str = "the signature") -> str:
    """The id of the key that signed exactly the files of ``tree``. Raises `NotTrusted`."""
    content = dsse.parse(bundle, what)
    if content.get("mediaType") != _BUNDLE_TYPE:
        raise NotTrusted(what, f"{BUNDLE_FILE} is a {content.get('mediaType')!r}, not a {_BUNDLE_TYPE}")
    statement, key_id = dsse.unseal(content.get("dsseEnvelope"), keys, what)
    if statement.get("predicateType") != _PREDICATE_TYPE:
        raise NotTrusted(what, f"{BUNDLE_FILE} is a statement of the type {statement.get('predicateType')!r}")
    signed, (expected, root) = _signed_files(statement, what), _resources(tree.entries)
    wanted = {e["name"]: e["digest"] for e in expected}
    for name in sorted(signed.keys() | wanted.keys()):
        if signed.get(name) != wanted.get(name):
            raise NotTrusted(what, f"{BUNDLE_FILE} was made for another tree: {name!r} differs")
    if statement.get("subject", [{}])[0].get("digest") != {"sha256": root}:
        raise NotTrusted(what, f"{BUNDLE_FILE} names another digest than its files give")
    return key_id


def _statement_tree(store: ArtifactStore, statement: str, what: str) -> Manifest:
    tree = store.manifest(statement)
    if tree.kind != KIND:
        raise NotTrusted(what, f"{statement} is a {tree.kind}, no {KIND}")
    return tree


def _signed_files(statement: dict[str, Any], what: str) -> dict[str, str]:
    try:
        resources = statement["predicate"]["resources"]
        signed = {str(r["name"]): str(r["digest"]) for r in resources if r["algorithm"] == "sha256"}
        complete = len(signed) == len(resources) and len(statement["subject"]) == 1
    except (KeyError, TypeError, AttributeError) as e:
        raise NotTrusted(what, f"{BUNDLE_FILE} lists no files as model signatures do") from e
    if not complete:
        raise NotTrusted(what, f"{BUNDLE_FILE} lists a file twice, or with another hash than sha256")
    return signed


def _resources(entries: Iterable[Entry]) -> tuple[list[dict[str, str]], str]:
    """The files as the public tool lists them, and its digest over their digests (which does not cover names)."""
    resources, root = [], hashlib.sha256()
    for entry in sorted(entries, key=lambda e: e.path.split("/")):
        if entry.path.split("/")[0] not in _IGNORED:
            digest = entry.digest.removeprefix("sha256:")
            root.update(bytes.fromhex(digest))
            resources.append({"name": entry.path, "algorithm": "sha256", "digest": digest})
    return resources, root.hexdigest()


def _hint(key: PublicKey) -> str:
    """How the public tool recognises a key: the sha256 of its PEM text."""
    return hashlib.sha256(key.pem).hexdigest()
