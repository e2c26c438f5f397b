"""Where a registered model version came from, as an in-toto statement: SLSA provenance 1.0 about its tree.

The statement is a pure function of the facts that the record holds, so it is verified by building it again: whatever
differs is named. The format is https://slsa.dev/spec/v1.0/provenance.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from rayplat.artifacts.dsse import STATEMENT_TYPE
from rayplat.artifacts.manifest import check_digest
from rayplat.errors import NotTrusted
from rayplat.types import ModelVersion, TableVersion

PREDICATE_TYPE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:rayplat:model-version:v1"
BUILDER = "urn:rayplat:registry"
_CLOCKS_DIFFER = timedelta(minutes=5)  # at most, between the machine that signed and the one that verifies


@dataclass(frozen=True)
class Facts:
    """What is signed about one model version. ``digest`` is its tree; ``payload_digest``, ``code_digest`` and
    ``env_digest`` are parts of it (`rayplat.artifacts.formats.digests`); ``parents`` are trees it was made from."""

    model: str
    version: int
    digest: str
    run_id: str
    author: str
    registered_at: datetime
    training_set: str
    pins: tuple[TableVersion, ...] = ()
    parents: tuple[str, ...] = ()
    baseline: str | None = None
    payload_digest: str | None = None
    code_digest: str | None = None
    env_digest: str | None = None

    @classmethod
    def of(cls, version: ModelVersion, parents: tuple[str, ...] = ()) -> Facts:
        """The facts of a version as the record holds them."""
        return cls(
            version.model,
            version.version,
            version.digest,
            version.run_id,
            version.author,
            version.created_at,
            version.training_set,
            version.pins,
            parents,
            version.baseline,
            version.payload_digest,
            version.code_digest,
            version.env_digest,
        )

    @property
    def name(self) -> str:
        return f"{self.model}/{self.version}"


def statement(facts: Facts, signed_at: datetime) -> dict[str, Any]:
    """The in-toto statement about ``facts``."""
    internal = {
        "payloadDigest": facts.payload_digest,
        "codeDigest": facts.code_digest,
        "environmentDigest": facts.env_digest,
        "baselineProfile": facts.baseline,
    }
    definition = {
        "buildType": BUILD_TYPE,
        "externalParameters": {
            "model": facts.model,
            "version": facts.version,
            "run": facts.run_id,
            "author": facts.author,
            "trainingSet": facts.training_set,
        },
        "internalParameters": {name: value for name, value in internal.items() if value is not None},
        "resolvedDependencies": list(_inputs(facts)),
    }
    details = {
        "builder": {"id": BUILDER},
        "metadata": {
            "invocationId": facts.run_id,
            "startedOn": _time(facts.registered_at),
            "finishedOn": _time(signed_at),
        },
    }
    return {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": facts.name, "digest": _sha256(facts.digest)}],
        "predicateType": PREDICATE_TYPE,
        "predicate": {"buildDefinition": definition, "runDetails": details},
    }


def check(found: dict[str, Any], facts: Facts, now: datetime, what: str) -> datetime:
    """When ``found`` was signed. Raises `NotTrusted` unless it says exactly what the record says of this version."""
    signed_at = _signed_at(found, what)
    if signed_at < facts.registered_at - _CLOCKS_DIFFER:
        raise NotTrusted(
            what, f"it is older than the version: signed at {_time(signed_at)}, registered {_time(facts.registered_at)}"
        )
    if signed_at > now + _CLOCKS_DIFFER:
        raise NotTrusted(what, f"it was signed at {_time(signed_at)}, which has not come yet")
    subject = _subject(found)
    if subject != (facts.name, _sha256(facts.digest)):
        raise NotTrusted(what, f"it speaks of {subject[0]} with the digest {subject[1]}, not of {_described(facts)}")
    for field, expected, stated in _differences(statement(facts, signed_at), found):
        raise NotTrusted(what, f"{field} is {_short(stated)} there and {_short(expected)} in the record")
    return signed_at


def _inputs(facts: Facts) -> Iterator[dict[str, Any]]:
    if facts.training_set.startswith("sha256:"):
        yield {"name": "training_set", "digest": _sha256(facts.training_set)}
    for pin in facts.pins:
        yield {
            "name": f"table:{pin.table}@{pin.table_id}/{pin.version}",
            "digest": _sha256(pin.manifest_digest),
            "annotations": {"schema": pin.schema_digest, "rows": pin.row_count, "location": pin.uri},
        }
    for parent in facts.parents:
        yield {"name": "parent_model", "digest": _sha256(parent)}


def _sha256(digest: str) -> dict[str, str]:
    return {"sha256": check_digest("digest", digest).removeprefix("sha256:")}


def _time(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _signed_at(found: dict[str, Any], what: str) -> datetime:
    try:
        stated = found["predicate"]["runDetails"]["metadata"]["finishedOn"]
        return datetime.strptime(stated, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)
    except (KeyError, TypeError, ValueError) as e:
        raise NotTrusted(what, "it does not say when it was signed") from e


def _subject(found: dict[str, Any]) -> tuple[Any, Any]:
    match found.get("subject"):
        case [{"name": name, "digest": digest}]:
            return name, digest
    return "nothing", None


def _described(facts: Facts) -> str:
    return f"{facts.name} with the digest {_sha256(facts.digest)}"


def _differences(expected: Any, stated: Any, field: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(field, expected, stated) for every leaf that differs."""
    if isinstance(expected, dict) and isinstance(stated, dict):
        for name in sorted(expected.keys() | stated.keys(), key=str):
            yield from _differences(expected.get(name), stated.get(name), f"{field}.{name}".lstrip("."))
    elif isinstance(expected, list) and isinstance(stated, list) and len(expected) == len(stated):
        for i, pair in enumerate(zip(expected, stated, strict=True)):
            yield from _differences(*pair, f"{field}[{i}]")
    elif expected != stated or type(expected) is not type(stated):
        yield field, expected, stated


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 120 else text[:119] + "…"
