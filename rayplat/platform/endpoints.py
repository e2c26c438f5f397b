"""Served aliases when the platform starts, stops and is asked how it is: the record says which there should be."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rayplat.errors import NotFound, RayplatError
from rayplat.settings import Settings
from rayplat.types import EndpointSpec, PartStatus, Principal, Role

if TYPE_CHECKING:
    from rayplat.registry.client import RegistryClient

log = logging.getLogger(__name__)

_PLATFORM = Principal("rayplat", Role.ADMIN)
Applications = Mapping[str, tuple[str, str]]
"""Name to state and message."""


def start(settings: Settings, serve_url: str, say: Callable[[], None]) -> bool:
    """Serve what the record says and does not run; whether there was anything. An endpoint that does not start is
    logged and left to `status`: it keeps nothing else from starting."""
    from rayplat.registry.client import RegistryClient
    from rayplat.registry.record import endpoints
    from rayplat.services.serving import Serving

    registry = RegistryClient.connect()
    adopt_file(settings.home, registry)
    recorded = registry.read(endpoints.listed)
    if not recorded:
        return False
    serving = Serving(settings, registry, serve_url, _PLATFORM)
    missing = [present.spec for present in serving.present() if present.problem]
    if missing:
        say()
    for spec in missing:
        try:
            serving.bring_up(spec, spec)
        except RayplatError as e:
            log.error("the endpoint %s/%s does not start: %s", spec.model, spec.alias, e)
    return bool(missing)


def adopt_file(home: Path, registry: RegistryClient) -> list[tuple[str, str]]:
    """Take what an earlier release kept in ``<home>/endpoints.json`` into the record, once; what was taken."""
    from rayplat.registry.record import endpoints

    file = home / "endpoints.json"
    if not file.exists():
        return []
    taken = []
    try:
        found = [(str(model), str(alias)) for model, alias in json.loads(file.read_text())]
    except (ValueError, TypeError) as e:
        log.warning("%s cannot be read (%s): serve its endpoints anew with `rayplat serve create`", file, e)
        return []
    for model, alias in found:
        try:
            if registry.read(endpoints.find, model, alias) is None:
                registry.write(endpoints.put, EndpointSpec(model, alias), by=_PLATFORM)
                taken.append((model, alias))
        except NotFound as e:
            log.warning("%s/%s was served and is not any more: %s", model, alias, e)
    file.rename(file.with_suffix(".json.imported"))
    return taken


def status(settings: Settings, applications: Applications, url: str | None) -> list[PartStatus]:
    """A line for each endpoint that should be served, and for the pool."""
    from rayplat.registry.client import RegistryClient
    from rayplat.registry.record import endpoints
    from rayplat.serve.deployment import deploy
    from rayplat.serve.pool import names

    try:
        recorded = RegistryClient.connect().read(endpoints.listed)
    except RayplatError as e:
        return [PartStatus("endpoints", "failing", f"the registry does not say which there are: {e}", url)]
    parts = [
        _application(
            f"endpoint {spec.model}--{spec.alias}", applications.get(deploy.app_name(spec.model, spec.alias)), url
        )
        for spec in recorded
        if spec.placement == "dedicated"
    ]
    if pooled := [spec for spec in recorded if spec.placement == "pooled"]:
        wanted = [names.FRONT, *names.workers(settings.serve.pool_processes)]
        worst = next(
            (a for name in wanted if (a := applications.get(name)) is None or a[0] != "RUNNING"), ("RUNNING", "")
        )
        part = _application(f"pool of {len(pooled)} models", worst, url)
        parts.append(_with_failures(part) if part.state == "up" else part)
    return parts


def application_names(applications: Applications) -> list[str]:
    """Those of a platform's endpoints among Serve's applications."""
    from rayplat.serve.deployment import deploy
    from rayplat.serve.pool import names

    return [name for name in applications if deploy.named(name) is not None or names.is_pool(name)]


def _with_failures(part: PartStatus) -> PartStatus:
    from rayplat.serve.pool import start as pool

    with contextlib.suppress(RayplatError):
        states = pool.states()
        failed = [s for s in states if s["state"] == "failed"]
        ready = sum(s["state"] == "ready" for s in states)
        detail = f"{ready} loaded"
        if failed:
            first = failed[0]
            detail += f", {len(failed)} failing ({first['model']}/{first['alias']}: {first['reason']})"
        return PartStatus(part.part, part.state, detail, part.address)
    return part


def _application(part: str, found: tuple[str, str] | None, url: str | None) -> PartStatus:
    if found is None:
        return PartStatus(part, "down", "it is not deployed; `rayplat up` starts it", url)
    state, message = found
    if state != "RUNNING":
        return PartStatus(part, "failing", message or state.lower(), url)
    return PartStatus(part, "up", "running", url)
