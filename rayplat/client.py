"""The Python client: one class, in process on the local platform or over HTTP on a remote one.

from rayplat import Platform
platform = Platform()                                   # the platform of this machine (its home: ~/.rayplat)
platform = Platform("https://host:8000", token="rpt_…") # a remote one
platform.aliases.get("flight-delay", "champion")
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from rayplat import settings as settings_module
from rayplat.errors import Unauthenticated
from rayplat.services.catalog import NOUNS
from rayplat.services.http import request
from rayplat.services.remote import remote
from rayplat.services.verbs import Context, Noun

if TYPE_CHECKING:
    import httpx

    from rayplat.services.aliases import Aliases
    from rayplat.services.artifacts import Artifacts
    from rayplat.services.audit import Audit
    from rayplat.services.endpoints import Endpoints
    from rayplat.services.features import Features
    from rayplat.services.lineage import Lineage
    from rayplat.services.models import Models
    from rayplat.services.monitors import Monitors
    from rayplat.services.owners import Owners
    from rayplat.services.policies import Policies
    from rayplat.services.promotions import Promotions
    from rayplat.services.releases import Releases
    from rayplat.services.runs import Runs
    from rayplat.services.scoring import Scoring
    from rayplat.services.status import Status
    from rayplat.services.tables import Tables
    from rayplat.services.tokens import Tokens
    from rayplat.services.verdicts import Verdicts
    from rayplat.services.waivers import Waivers
    from rayplat.services.webhooks import Webhooks


@dataclass(frozen=True)
class Prediction:
    """One answer of an endpoint: ``outputs`` maps an output's name to one float per key."""

    model: str
    version: int
    request_id: str
    outputs: dict[str, list[float]]


class Platform:
    """A connection. ``url`` None attaches in process to the platform in ``home`` and its Ray cluster.

    Raises `Unavailable` where nothing runs, `Unauthenticated` for a missing or unknown token.
    """

    tables: Tables
    features: Features
    runs: Runs
    artifacts: Artifacts
    models: Models
    aliases: Aliases
    policies: Policies
    promotions: Promotions
    waivers: Waivers
    audit: Audit
    lineage: Lineage
    endpoints: Endpoints
    releases: Releases
    verdicts: Verdicts
    scoring: Scoring
    monitors: Monitors
    owners: Owners
    webhooks: Webhooks
    tokens: Tokens
    parts: Status

    def __init__(self, url: str | None = None, *, token: str | None = None, home: str | Path | None = None) -> None:
        self.context: Context | None = None
        if url is None:
            self._attach(home, token)
        else:
            if token is None:
                raise Unauthenticated("give the platform token of this address: Platform(url, token=...)")
            self.url, self.token = url.rstrip("/"), token
        self._http = _http(self.url, self.token)
        for noun in NOUNS:
            setattr(self, noun.NAME, self._noun(noun))

    def _attach(self, home: str | Path | None, token: str | None) -> None:
        from rayplat.platform import ray_node, state
        from rayplat.services import local

        settings = settings_module.load(home)
        running = state.require(settings.home)
        ray_node.connect(settings.home, str(running.ray_address), running.ray_started)
        self.url, self.token = str(running.serve_url), token or owner_token(settings.home)
        self.context = local.context(
            settings, str(running.mlflow_url), self.url, local.principal_of(settings, self.token)
        )

    def _noun(self, noun: type[Noun]) -> Noun:
        if self.context is not None:
            return noun(self.context)
        client: Noun = remote(noun, _http(f"{self.url}/api/v1", self.token))
        return client

    def predict(
        self,
        model: str,
        keys: Sequence[str],
        *,
        entity: str | None = None,
        at: datetime | None = None,
        alias: str | None = None,
        version: int | None = None,
    ) -> Prediction:
        """Ask the endpoint for ``keys``; features come from the online store as of ``at`` (default: now).

        ``entity`` is the name of the key's input; None asks the endpoint's metadata for it.
        """
        route = f"/v2/models/{quote(model, safe='')}"
        if alias is not None or version is not None:
            route += f"/versions/{quote(str(alias if alias is not None else version), safe='')}"
        if entity is None:
            entity = str(request(self._http, "GET", route).json()["inputs"][0]["name"])
        body: dict[str, Any] = {
            "inputs": [{"name": entity, "datatype": "BYTES", "shape": [len(keys)], "data": list(keys)}]
        }
        if at is not None:
            body["parameters"] = {"event_time": at.isoformat()}
        answer = request(self._http, "POST", f"{route}/infer", json=body).json()
        outputs = {o["name"]: o["data"] for o in answer["outputs"]}
        return Prediction(answer["model_name"], int(answer["model_version"]), answer["id"], outputs)

    def __repr__(self) -> str:
        return f"Platform({self.url!r}{', in process' if self.context is not None else ''})"

    def _repr_html_(self) -> str:
        rows = "".join(f"<tr><td>{p.part}</td><td>{p.state}</td><td>{p.detail}</td></tr>" for p in self.parts.list())
        return f"<b>rayplat</b> at {self.url}<table><tr><th>part</th><th>state</th><th></th></tr>{rows}</table>"


def owner_token(home: Path) -> str:
    """The token that `up` handed to the owner of ``home``."""
    file = token_file(home)
    try:
        return file.read_text().strip()
    except OSError as e:
        raise Unauthenticated(f"{file} cannot be read; give a token, or run `rayplat up` as its owner") from e


def token_file(home: Path) -> Path:
    return home / "token"


def _http(url: str, token: str) -> httpx.Client:
    import httpx

    return httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=120)
