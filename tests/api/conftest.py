"""The control application on a real socket, over a registry on SQLite in this process."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from rayplat import identity
from rayplat import settings as settings_module
from rayplat.api.app import Backend, build
from rayplat.api.entry import Entry
from rayplat.artifacts.store import ArtifactStore
from rayplat.data.feature_store import FeatureStore
from rayplat.data.tables import Tables
from rayplat.platform.processes import wait_until
from rayplat.services.verbs import Context
from rayplat.types import Principal, Role
from tests.api.fakes import FakeTracking, front, registry, seed


@dataclass(frozen=True)
class Served:
    """``tokens`` maps a role to a secret; ``context`` is what the application works with."""

    url: str
    tokens: dict[Role, str]
    context: Context
    app: Any

    def http(self, role: Role | None = Role.ADMIN) -> httpx.Client:
        headers = {"Authorization": f"Bearer {self.tokens[role]}"} if role else {}
        return httpx.Client(base_url=self.url, headers=headers, verify=False)  # reading authorities takes 0.2 s


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Iterator[Served]:
    home = tmp_path_factory.mktemp("home")
    settings = settings_module.load(home, environ={})
    database = shutil.copy(empty_database, home / "rayplat.db")
    secrets = {role: identity.new_token()[0] for role in Role}
    known = {secret: Principal(f"{role}-person", role) for role, secret in secrets.items()}
    tracking: Any = FakeTracking()
    record = registry(Path(database))
    features = FeatureStore(settings)
    context = Context(
        settings,
        record,
        Tables(settings.tables_uri),
        tracking,
        features,
        ArtifactStore.of(settings),
        "http://serve",
        Principal("admin-person", Role.ADMIN),
    )
    seed(context, record, home)
    app = build(Backend(context, known.get))
    entry = Entry(app, front(record, {identity.hash_token(secret): who for secret, who in known.items()}))
    server = uvicorn.Server(uvicorn.Config(entry, port=0, log_level="error"))  # type: ignore[arg-type]
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    assert wait_until(lambda: server.started, 10)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield Served(f"http://127.0.0.1:{port}", secrets, context, app)
    server.should_exit = True
    thread.join(10)
