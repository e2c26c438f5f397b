from __future__ import annotations

import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from rayplat.errors import Unavailable
from rayplat.serve.pool.loads import SingleLoads
from rayplat.serve.ports import LoadedVersion
from rayplat.types import Signature


class Hanging:
    def __init__(self) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()

    def load(self, model: str, version: int, digest: str) -> LoadedVersion:
        self.begun.set()
        assert self.go_on.wait(10)
        return LoadedVersion(model, version, digest, self, Signature((), ()))

    def predict(self, columns: Mapping[str, Any]) -> Mapping[str, Any]:
        return {}


def test_a_load_that_has_not_ended_is_not_begun_again() -> None:
    hanging = Hanging()
    loads = SingleLoads(hanging)
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(loads.load, "m", 1, "d")
        assert hanging.begun.wait(10)
        with pytest.raises(Unavailable, match="an earlier load of its version 1 has not ended"):
            loads.load("m", 1, "d")
        assert loads.running == 1
        hanging.go_on.set()
        assert first.result(10).version == 1
    assert loads.load("m", 1, "d").digest == "d"
    assert loads.running == 0
