"""Whether the versions that a release brings together take the same requests, before the record is written.

The rule is the promotion gate's (`rayplat.artifacts.schema.problems`), and so is what it says of a version that
declares nothing: beside a default alias that declares its inputs and outputs it is refused, and a default alias that
declares none takes any beside it. Nobody reads a shadow's outputs, so it is held to the inputs only. The record itself
holds no schemas: this looks at the bytes just before the write, and hosts refuse what a variant does not take.
"""

from __future__ import annotations

from dataclasses import replace

from rayplat.artifacts import formats, schema
from rayplat.artifacts.schema import Schema
from rayplat.artifacts.store import ArtifactStore
from rayplat.errors import NotFound, SchemaMismatch
from rayplat.registry import release_rules
from rayplat.registry.calls import Registry
from rayplat.registry.record import releases, versions
from rayplat.registry.release_rules import PRIMARY
from rayplat.types import ModelVersion, Release

_SHOWN = 5


def schema_of(store: ArtifactStore, digest: str) -> Schema | None:
    """What the model in the tree ``digest`` takes and gives; None where it does not say."""
    return schema.of_tree(formats.stored_tree(store, digest))


def check_release(registry: Registry, store: ArtifactStore, before: Release, release: Release) -> None:
    """Raises `SchemaMismatch` naming the target and what differs, for targets that ``release`` sends requests to and
    ``before`` did not; what stays, or gets less, needs no second look. Raises what the store does for bytes that cannot
    be read."""
    answered, copied = set(release_rules.answering(before)), set(release_rules.reached(before))
    for target in release_rules.reached(release):
        answers = target in release_rules.answering(release)
        if target in (answered if answers else copied):
            continue
        primary, other = (_at(registry, release.model, name) for name in (PRIMARY, target))
        if primary is None or other is None:
            continue  # the record says so better
        problems = _problems(store, other, primary, answers)
        if problems:
            field = (
                "canary.target" if release.canary is not None and release.canary.target == target else "split.shares"
            )
            raise SchemaMismatch(
                field if answers else "shadows",
                f"{target!r} (version {other.version}) is no match for {PRIMARY!r} (version {primary.version}): "
                f"{'; '.join(problems[:_SHOWN])}; serve it beside, at its own path (`rayplat serve create`)",
            )


def check_move(registry: Registry, store: ArtifactStore, model: str, alias: str, version: int) -> None:
    """Raises `SchemaMismatch` where `problems_of_move` finds any, and what the store does for bytes that cannot be
    read."""
    problems = problems_of_move(registry, store, model, alias, version)
    if problems:
        hint = f"end it first with `rayplat serve release {model} --clear`"
        raise SchemaMismatch("version", f"{model}@{alias}: {'; '.join(problems[:_SHOWN])}; {hint}")


def problems_of_move(registry: Registry, store: ArtifactStore, model: str, alias: str, version: int) -> tuple[str, ...]:
    """Why the release in force could not go on with ``alias`` at ``version``, in words; nothing where it has no part in
    it. Of the default alias every target is looked at, of a target only itself."""
    release = registry.read(releases.get, model)
    reached = release_rules.reached(release)
    if alias != PRIMARY and alias not in reached:
        return ()
    found: list[str] = []
    candidate = registry.read(versions.get, model, version)
    for target in reached if alias == PRIMARY else (alias,):
        primary, other = (candidate if name == alias else _at(registry, model, name) for name in (PRIMARY, target))
        if primary is None or other is None:
            continue
        told = f"the release in force sends requests of {PRIMARY!r} (version {primary.version}) to "
        told += f"{target!r} (version {other.version}), and "
        found += [told + said for said in _problems(store, other, primary, target in release_rules.answering(release))]
    return tuple(found)


def _problems(store: ArtifactStore, other: ModelVersion, primary: ModelVersion, answers: bool) -> tuple[str, ...]:
    if other.digest == primary.digest:
        return ()
    served = schema_of(store, primary.digest)
    if served is not None and not answers:
        served = replace(served, outputs=())
    return schema.problems(None if served is None else schema_of(store, other.digest), served)


def _at(registry: Registry, model: str, target: str) -> ModelVersion | None:
    """The version that a target is now; None where there is none."""
    try:
        return registry.read(versions.get, model, registry.read(releases.version_at, model, target))
    except NotFound:
        return None
