"""Registering a model: its bytes are looked at, the record gives it a number, and the platform signs what it is.

Each step can be repeated: a registration that was cut off is completed by the same call, signature included.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from rayplat.artifacts import datasets, formats, keys, signing
from rayplat.artifacts.provenance import Facts
from rayplat.errors import Corrupt, NotFound
from rayplat.registry import adopt as importing
from rayplat.registry.adopt import MlflowSource
from rayplat.registry.candidate import Candidate
from rayplat.registry.record import artifacts, versions
from rayplat.services import lineage
from rayplat.services.verbs import Context
from rayplat.tracking import run_author
from rayplat.types import Adopted, ArtifactRef, ModelVersion, TableVersion


@dataclass(frozen=True)
class Verified:
    """A version whose bytes and signed statement are what the record says. ``key_id`` is the signing key's, the hex
    sha256 of its public half."""

    model: str
    version: int
    digest: str
    files: int
    size_bytes: int
    key_id: str
    signed_at: datetime


def candidate(
    context: Context,
    model: str,
    digest: str,
    run_id: str,
    training_set: str,
    pins: tuple[TableVersion, ...],
    metrics: dict[str, float],
    baseline: str | None,
) -> Candidate:
    """What is to be registered, with the format and the digests that only its bytes tell."""
    store = context.artifacts
    store.touch(digest)
    if baseline is not None:
        store.touch(baseline)
    tree, read = store.manifest(digest), formats.reader(store)
    return Candidate(
        model,
        digest,
        run_id,
        training_set,
        pins,
        metrics,
        baseline,
        format=formats.detect(formats.stored_tree(store, digest)).name,
        code_digest=formats.code_digest(tree),
        env_digest=formats.env_digest(tree, read),
        payload_digest=formats.payload_digest(tree, read),
        run_author=_run_author(context, run_id),
    )


def _run_author(context: Context, run_id: str) -> str:
    """Who ran what made it; empty for a run that is not tracked here. Raises `Unavailable` where that cannot be asked:
    four eyes would not know whom to refuse."""
    try:
        return run_author(context.tracking.get(run_id).tags)
    except NotFound:
        return ""


def register(context: Context, wanted: Candidate) -> ModelVersion:
    """The signed version of a candidate."""
    by, registry = context.principal, context.registry
    lineage.note_data(context, wanted.training_set)
    made = _made(context, wanted)
    version = registry.write(versions.register, wanted, by=by)
    for one in made:
        registry.write(artifacts.add, one, version.run_id, by=by)
    return version if version.statement is not None else sign(context, version)


def _made(context: Context, wanted: Candidate) -> list[ArtifactRef]:
    """The model, the profile and a document of each table version it was trained on, as artifacts of its run."""
    store = context.artifacts
    found = [ArtifactRef(wanted.digest, "model", store.manifest(wanted.digest).size_bytes)]
    if wanted.baseline is not None:
        found.append(ArtifactRef(wanted.baseline, "profile", len(store.get_bytes(wanted.baseline))))
    return found + [store.put_bytes(datasets.dataset(pin), datasets.KIND) for pin in wanted.pins]


def sign(context: Context, version: ModelVersion) -> ModelVersion:
    """``version`` with a statement of the platform's key about its bytes and where they came from."""
    by, registry, store = context.principal, context.registry, context.artifacts
    key = keys.platform_key(context.settings.keys_folder, context.settings.signing_key)
    statement = signing.sign_version(store, key, Facts.of(version))
    size = store.manifest(statement).size_bytes
    registry.write(artifacts.add, ArtifactRef(statement, "statement", size), version.run_id, by=by)
    return registry.write(versions.sign, version.model, version.version, statement, by=by)


def verify(context: Context, version: ModelVersion) -> Verified:
    """Read all bytes of a version and check its statement. Raises `Corrupt`, `NotTrusted`."""
    report = context.artifacts.verify(version.digest)
    if report.problems:
        first = report.problems[0]
        where = f"{first.path or first.digest} of version {version.version} of {version.model}"
        raise Corrupt(where, "the bytes of its digest", first.reason)
    trusted = keys.trusted(context.settings.keys_folder)
    signed = signing.verify(context.artifacts, version.statement, Facts.of(version), trusted)
    return Verified(
        version.model,
        version.version,
        version.digest,
        report.objects - 1,
        report.size_bytes,
        signed.key_id,
        signed.signed_at,
    )


def adopt(context: Context, source: MlflowSource, models: tuple[str, ...] | None) -> tuple[Adopted, ...]:
    """Import a registry, and sign every version that came or is not signed yet."""
    found = importing.adopt(source, context.registry, context.artifacts, by=context.principal, models=models)
    for adopted in found:
        for one in adopted.versions:
            version = context.registry.read(versions.get, adopted.model, one.version)
            if version.statement is None:
                size = context.artifacts.manifest(version.digest).size_bytes
                ref = ArtifactRef(version.digest, "model", size)
                context.registry.write(artifacts.add, ref, version.run_id, by=context.principal)
                sign(context, version)
    return found
