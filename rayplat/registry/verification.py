"""What the platform finds out about a version before it may be promoted: bytes, signature, format, schema.

Every step reads bytes that the step before has checked. Whatever goes wrong on the way is a failed verification with
its reason, never a pass; only a store that does not answer (`Unavailable`) is no verification at all.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rayplat.artifacts import formats, keys, schema, signing
from rayplat.artifacts.keys import TrustedKeys
from rayplat.artifacts.provenance import Facts
from rayplat.artifacts.schema import Schema
from rayplat.artifacts.store import ArtifactStore
from rayplat.errors import RayplatError, Unavailable
from rayplat.registry import release_schemas
from rayplat.registry.calls import Registry
from rayplat.registry.record import aliases, versions, waivers
from rayplat.types import ModelSpec, ModelVersion, Promotion, VerificationEvidence, VersionState

if TYPE_CHECKING:
    from rayplat.settings import Settings

log = logging.getLogger(__name__)


@dataclass
class _Found:
    """What is known so far; the defaults are what is assumed where nothing could be found out."""

    intact: bool = False
    signed: bool = False
    format: str = ""
    runs_code: bool = True
    waived: bool = False
    schema_problems: tuple[str, ...] = ()
    problems: list[str] = field(default_factory=list)

    def evidence(self, digest: str) -> VerificationEvidence:
        values = vars(self) | {"problems": tuple(self.problems)}
        return VerificationEvidence(digest=digest, **values)


def verify(
    store: ArtifactStore,
    version: ModelVersion,
    *,
    keys: TrustedKeys,
    waivers: Collection[str] = (),
    champion_spec: ModelSpec | Schema | None = None,
) -> VerificationEvidence:
    """Read every byte of ``version`` and judge it.

    ``waivers`` are the digests whose loading may run code; ``champion_spec`` is what the alias serves now takes and
    gives, None where it serves nothing. Raises `Unavailable` where the store does not answer, and nothing else.
    """
    found = _Found()
    try:
        with tempfile.TemporaryDirectory(prefix="rayplat-verify-") as scratch:
            folder = store.checkout(version.digest, Path(scratch) / "tree")
            found.intact = True
            _signature(found, store, version, keys)
            _format(found, folder, version, waivers)
            _schema(found, folder, champion_spec)
    except Unavailable:
        raise
    except Exception as e:  # noqa: BLE001 - the edge: what nobody foresaw must not let a model through
        _fail(found, "the bytes" if not found.intact else "the verification", e)
    return found.evidence(version.digest)


def verify_promotion(
    registry: Registry, store: ArtifactStore, settings: Settings, promotion: Promotion
) -> VerificationEvidence:
    """`verify` for what a promotion asks, with the waivers, the version and the release in place at this moment."""
    version = registry.read(versions.get, promotion.model, promotion.version)
    if version.digest != promotion.digest:
        reason = f"the record says {version.digest} for {version.model}/{version.version}"
        return _Found(problems=[reason]).evidence(promotion.digest)
    waiver = registry.read(waivers.find, waivers.FORMAT, version.digest, but_by=(version.author, version.run_author))
    before = _before(registry, promotion)
    try:
        served = None if before in (None, version.digest) else release_schemas.schema_of(store, str(before))
        beside = release_schemas.problems_of_move(registry, store, version.model, promotion.alias, version.version)
        trusted = keys.trusted(settings.keys_folder)
    except Unavailable:
        raise
    except RayplatError as e:
        return _Found(problems=[f"what it is compared and checked with cannot be read: {e}"]).evidence(version.digest)
    waived = (version.digest,) if waiver is not None else ()
    found = verify(store, version, keys=trusted, waivers=waived, champion_spec=served)
    return replace(found, schema_problems=(*found.schema_problems, *beside))


def _before(registry: Registry, promotion: Promotion) -> str | None:
    """The digest of what the alias serves, or served before it was removed, unless that version was deleted since."""
    head = registry.read(aliases.last_live, promotion.model, promotion.alias)
    if head is None or registry.read(versions.get, head.model, head.version).state is VersionState.DELETED:
        return None
    return head.digest


def _signature(found: _Found, store: ArtifactStore, version: ModelVersion, trusted: TrustedKeys) -> None:
    try:
        signing.verify(store, version.statement, Facts.of(version), trusted)
        found.signed = True
    except Unavailable:
        raise
    except RayplatError as e:
        _fail(found, "the signature", e)


def _format(found: _Found, folder: Path, version: ModelVersion, waived: Collection[str]) -> None:
    try:
        seen = formats.detect(folder)
        if not seen.runs_code:
            formats.attempt(folder, seen)
    except RayplatError as e:
        _fail(found, "the format", e)
        return
    if version.format not in ("", seen.name):
        found.problems.append(f"the format: the record says {version.format}, the bytes are {seen.name}")
        return
    found.format, found.runs_code = seen.name, seen.runs_code
    found.waived = seen.runs_code and version.digest in waived
    if seen.runs_code and not found.waived:
        found.problems.append(
            f"the format: {seen.files[0]}: {seen.reason}, and there is no waiver for {version.digest} that another "
            "than its author gave"
        )


def _schema(found: _Found, folder: Path, served: ModelSpec | Schema | None) -> None:
    champion = schema.of_spec(served) if isinstance(served, ModelSpec) else served
    try:
        found.schema_problems = schema.problems(schema.of_tree(formats.folder_tree(folder)), champion)
    except RayplatError as e:
        found.schema_problems = (f"what the model takes and gives cannot be read: {e}",)


def _fail(found: _Found, what: str, error: Exception) -> None:
    log.warning("verification failed", extra={"what": what}, exc_info=error)
    found.problems.append(f"{what}: {error or type(error).__name__}"[:2000])
    if not isinstance(error, RayplatError):
        found.intact = found.signed = False
