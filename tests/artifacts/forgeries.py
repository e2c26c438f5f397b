"""The corpus of forged descriptions and misused signatures; each must be refused, and the safe model beside it loaded.

`forged_models` changes what an MLmodel says about a sound XGBoost-like tree; `misused_statements` shows a version a
signed statement that is not its own.
"""

from __future__ import annotations

import base64
import json
import tempfile
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from rayplat.artifacts import formats, keys, signing
from rayplat.artifacts.provenance import Facts
from rayplat.artifacts.store import ArtifactStore
from rayplat.errors import InvalidInput, NeedsWaiver, NotTrusted
from tests.artifacts.formats import samples

EARLIER = datetime(2026, 1, 1, tzinfo=UTC)
TRAINING_SET = "sha256:" + "d" * 64

# what a forged MLmodel of a safetensors tree claims: the flavor, the path, and more of its python_function
MLMODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "another flavor": ("xgboost", "model.safetensors", {}),
    "another file": ("onnx", "other.onnx", {}),
    "a loader module": ("sklearn", "model.safetensors", {"loader_module": "os"}),
    "a loader module like ours": ("sklearn", "model.safetensors", {"loader_module": "rayplat.artifacts.bundle.evil"}),
    "code paths": ("sklearn", "model.safetensors", {"code": "code"}),
    "a model from code": ("sklearn", "model.safetensors", {"model_code_path": "model.py"}),
    "a Python model": ("sklearn", "model.safetensors", {"python_model": "model.safetensors"}),
    "cloudpickle": ("sklearn", "model.safetensors", {"cloudpickle_version": "3"}),
    "out of the tree": ("sklearn", "../model.safetensors", {}),
    "absolute": ("sklearn", "/etc/passwd", {}),
    "an address": ("sklearn", "s3://bucket/model", {}),
}


def forged_model(name: str, folder: Path) -> None:
    """Load the tree with the forged MLmodel ``name``: raises NeedsWaiver or InvalidInput."""
    flavor, path, more = MLMODELS[name]
    samples.describe(folder, flavor, path, **more)
    samples.put(folder, "model.safetensors", b"\x08\0\0\0\0\0\0\0{}      ")
    formats.load(folder, samples.DIGEST, build=lambda tensors: tensors)  # type: ignore[arg-type, return-value]


class Signed:
    """A store with two versions of one model, each registered and signed, and the keys that are trusted."""

    def __init__(self, work: Path) -> None:
        self.store, self.folder = ArtifactStore(work / "store"), work / "keys"
        self.key = keys.ensure(self.folder)
        self.older, self.newer = (self._facts(work, n) for n in (1, 2))
        self.old_statement, self.statement = (
            signing.sign_version(self.store, self.key, facts) for facts in (self.older, self.newer)
        )

    def _facts(self, work: Path, n: int) -> Facts:
        source = samples.put(work / f"source-{n}", "data/weights", f"weights of {n}")
        digest = self.store.put_tree(source, "model").digest
        now = datetime.now(UTC)
        return Facts("flight-delay", n, digest, f"run-{n}", "ann", now, TRAINING_SET)

    def verify(self, statement: str | None, facts: Facts | None = None, now: datetime | None = None) -> signing.Signed:
        return signing.verify(self.store, statement, facts or self.newer, keys.trusted(self.folder), now)

    def files(self, statement: str) -> dict[str, bytes]:
        return {e.path: self.store.get_bytes(e.digest) for e in self.store.manifest(statement).entries}

    def put(self, files: dict[str, bytes], kind: str = "statement") -> str:
        with tempfile.TemporaryDirectory() as folder:
            for name, content in files.items():
                samples.put(Path(folder), name, content)
            return self.store.put_tree(Path(folder), kind).digest

    def mixed(self, **taken: str) -> str:
        """A statement with files of others: ``bundle`` and ``provenance`` name the statement they come from."""
        return self.put(
            {
                signing.BUNDLE_FILE: self.files(taken["bundle"])[signing.BUNDLE_FILE],
                signing.PROVENANCE_FILE: self.files(taken["provenance"])[signing.PROVENANCE_FILE],
            }
        )

    def altered(self, file: str, change: Callable[[dict[str, Any]], object]) -> str:
        """The newer statement with the payload of one envelope changed, its signature left as it was."""
        files = self.files(self.statement)
        document = json.loads(files[file])
        envelope = document.get("dsseEnvelope", document)
        payload = json.loads(base64.b64decode(envelope["payload"]))
        change(payload)
        envelope["payload"] = base64.b64encode(json.dumps(payload).encode()).decode()
        return self.put(files | {file: json.dumps(document).encode()})

    def by_stranger(self) -> str:
        stranger = keys.ensure(self.folder.with_name("elsewhere"))
        return signing.sign_version(self.store, stranger, self.newer)


# what is shown for the newer version
STATEMENTS: dict[str, Callable[[Signed], signing.Signed]] = {
    "none": lambda s: s.verify(None),
    "the older version's": lambda s: s.verify(s.old_statement),
    "the older version's provenance": lambda s: s.verify(s.mixed(bundle=s.statement, provenance=s.old_statement)),
    "the older version's signature": lambda s: s.verify(s.mixed(bundle=s.old_statement, provenance=s.statement)),
    "the newer one's for the older": lambda s: s.verify(s.statement, s.older),
    "made before the version was registered again": lambda s: s.verify(
        s.statement, replace(s.newer, registered_at=datetime.now(UTC) + timedelta(hours=1))
    ),
    "of the same tree under another model": lambda s: s.verify(s.statement, replace(s.newer, model="other")),
    "of another number of the same tree": lambda s: s.verify(s.statement, replace(s.newer, version=3)),
    "another training set": lambda s: s.verify(s.statement, replace(s.newer, training_set="sha256:" + "e" * 64)),
    "another author": lambda s: s.verify(s.statement, replace(s.newer, author="bob")),
    "another parent": lambda s: s.verify(s.statement, replace(s.newer, parents=("sha256:" + "1" * 64,))),
    "another code digest": lambda s: s.verify(s.statement, replace(s.newer, code_digest="sha256:" + "1" * 64)),
    "signed in the future": lambda s: s.verify(s.statement, now=EARLIER),
    "an unknown key": lambda s: s.verify(s.by_stranger()),
    "an altered file list": lambda s: s.verify(
        s.altered(signing.BUNDLE_FILE, lambda p: p["predicate"]["resources"].clear())
    ),
    "an altered subject": lambda s: s.verify(
        s.altered(signing.PROVENANCE_FILE, lambda p: p["subject"][0].update(name="flight-delay/9"))
    ),
    "no provenance": lambda s: s.verify(s.put({signing.BUNDLE_FILE: s.files(s.statement)[signing.BUNDLE_FILE]})),
    "another kind of artifact": lambda s: s.verify(s.put(s.files(s.statement), kind="report")),
    "the model itself": lambda s: s.verify(s.newer.digest),
    "no JSON": lambda s: s.verify(s.put({signing.BUNDLE_FILE: b"\xff", signing.PROVENANCE_FILE: b"{}"})),
}


def accepted(work: Path) -> list[str]:
    """Every forgery and misuse that got through: none must."""
    through = []
    for n, name in enumerate(MLMODELS):
        try:
            forged_model(name, work / f"forged-{n}")
            through.append(f"MLmodel: {name}")
        except (NeedsWaiver, InvalidInput):
            pass
    signed = Signed(work / "signed")
    signed.verify(signed.statement)  # the right one is good: otherwise every refusal below says nothing
    for name, show in STATEMENTS.items():
        try:
            show(signed)
            through.append(f"statement: {name}")
        except NotTrusted:
            pass
    return through


def size() -> int:
    """How many there are."""
    return len(MLMODELS) + len(STATEMENTS)
