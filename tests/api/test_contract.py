"""The client's contract on an in-memory registry, in process and over HTTP."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from rayplat.services.catalog import NOUNS
from rayplat.services.remote import remote
from rayplat.types import Role
from tests.api.conftest import Served
from tests.api.contract import ClientContract


class TestClient(ClientContract):
    @pytest.fixture(params=["local", "remote"])
    def platform(self, served: Served, request: pytest.FixtureRequest) -> Any:
        if request.param == "local":
            return SimpleNamespace(**{noun.NAME: noun(served.context) for noun in NOUNS})
        http = served.http(Role.ADMIN)
        http.base_url = f"{served.url}/api/v1"
        return SimpleNamespace(**{noun.NAME: remote(noun, http) for noun in NOUNS})

    @pytest.fixture
    def model(self) -> str:
        return "m"
