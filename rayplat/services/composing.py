"""Composing a model: the versions that a declared graph names are pinned, checked against each other, registered."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from rayplat.artifacts.formats import graph as files
from rayplat.errors import InvalidInput
from rayplat.registry.record import aliases, lineage, pins, versions
from rayplat.serve.loader import DEEPEST, VersionLoader, registry_waiver
from rayplat.serve.models import graph_compose
from rayplat.serve.models.graph_nodes import models_of
from rayplat.serve.ports import LoadedVersion
from rayplat.services import registration
from rayplat.services.verbs import Context
from rayplat.types import Edge, ModelVersion
from rayplat.types.lineage import run_node, training_set_node
from rayplat.types.names import check_name

_REFERENCE = re.compile(r"(?P<model>[^/@]+)(/(?P<version>\d+)|@(?P<alias>[^/@]+))")


def compose(context: Context, declared: Mapping[str, Any]) -> ModelVersion:
    """The registered version of a declared graph (its language: `rayplat.serve.models.graph_nodes`). Aliases in it are
    resolved once, now. Raises `InvalidInput` naming the node that is wrong, `NotFound` for what it names."""
    references = models_of(declared)
    model = check_name("model", declared.get("model") or "")
    resolved = {name: _version(context, name, reference) for name, reference in references.items()}
    if any(part.model == model for part in resolved.values()):
        raise InvalidInput("model", f"{model!r} cannot be a part of itself")
    loaded = _loaded(context, resolved)
    content = graph_compose.compose(
        declared,
        {name: (part.model, part.version, part.digest) for name, part in resolved.items()},
        {name: loaded[part.digest].signature for name, part in resolved.items()},
        _views(resolved, loaded),
    )
    with tempfile.TemporaryDirectory(prefix="rayplat-graph-") as folder:
        (Path(folder) / files.FILE).write_bytes(files.encode(content))
        digest = context.artifacts.put_tree(Path(folder), "model").digest
    return _registered(context, model, digest, list({part.digest: part for part in resolved.values()}.values()))


def _version(context: Context, node: str, reference: str) -> ModelVersion:
    named = _REFERENCE.fullmatch(reference)
    if named is None:
        reason = f"{reference[:80]!r} is neither like risk-trees/3 nor like risk-trees@champion"
        raise InvalidInput(f"nodes.{node}.model", reason)
    number = named["version"]
    if number is None:
        number = context.registry.read(aliases.get, named["model"], named["alias"]).version
    return context.registry.read(versions.usable, named["model"], int(number))


def _loaded(context: Context, resolved: Mapping[str, ModelVersion]) -> dict[str, LoadedVersion]:
    """Each part by its digest, as a host would load it: what it takes is known for sure, and that it works."""
    loader = VersionLoader(context.settings, partial(registry_waiver, registry=context.registry))
    found: dict[str, LoadedVersion] = {}
    for node, part in resolved.items():
        if part.digest not in found:
            try:
                found[part.digest] = loader.load(part.model, part.version, part.digest).described()
            except InvalidInput as e:
                raise InvalidInput(f"nodes.{node}", f"{part.model}/{part.version} cannot be loaded: {e}") from e
    nested = [part for part in found.values() if len(part.parts) > files.MAX_NODES]
    if nested:
        raise InvalidInput(
            "nodes", f"{nested[0].model} alone has {len(nested[0].parts)} parts ({DEEPEST} deep at most)"
        )
    return found


def _views(resolved: Mapping[str, ModelVersion], loaded: Mapping[str, LoadedVersion]) -> dict[str, str]:
    """The feature views of all parts. One name is one definition."""
    views: dict[str, str] = {}
    for node, part in resolved.items():
        spec = loaded[part.digest].spec
        for name, digest in (spec.views if spec is not None else {}).items():
            if views.setdefault(name, digest) != digest:
                raise InvalidInput(f"nodes.{node}", f"its feature view {name!r} has another definition than elsewhere")
    return views


def _registered(context: Context, model: str, digest: str, parts: list[ModelVersion]) -> ModelVersion:
    run_id = f"compose-{digest.removeprefix('sha256:')[:16]}"
    candidate = registration.candidate(context, model, digest, run_id, parts[0].training_set, parts[0].pins, {}, None)
    version = registration.register(context, candidate)
    edges = [Edge(training_set_node(p.training_set), run_node(version.run_id), lineage.TRAINED) for p in parts[1:]]
    context.registry.write(lineage.add, edges, by=context.principal)
    for part in parts:
        _keep(context, part, f"a part of {model}/{version.version}")
    return version


def _keep(context: Context, part: ModelVersion, reason: str) -> None:
    """Pin a part, so that nobody deletes what the composed model needs; a pin of the same person stays as it is."""
    target = f"{part.model}/{part.version}"
    held = context.registry.read(pins.listed, "version", target)
    if all(pin.pinned_by != context.principal.name for pin in held):
        context.registry.write(pins.pin, "version", target, reason, by=context.principal)
