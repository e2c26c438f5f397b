from __future__ import annotations

import asyncio
import json

import numpy as np

from rayplat.serve.http import relay
from rayplat.serve.ports import LoadedVersion
from tests.serve import moves
from tests.serve.fakes import FakeLoader, bench


class HeavyLoader(FakeLoader):
    """Each version weighs 2 MB."""

    def load(self, model: str, version: int, digest: str) -> LoadedVersion:
        loaded = super().load(model, version, digest)
        loaded.predictor.weight = np.ones(1 << 18)  # type: ignore[attr-defined]
        return loaded


def test_moves_leave_nothing_behind() -> None:
    """The present version and the one before it, the same threads and tasks, and no memory that grows."""

    async def run() -> None:
        watched = moves.Watched(HeavyLoader())
        made = await bench(loader=watched)  # type: ignore[arg-type]

        inputs = [{"name": "flight", "datatype": "BYTES", "shape": [1], "data": ["F1"]}]
        headers = [(b"content-type", b"application/json"), (b"authorization", f"Bearer {made.client.token}".encode())]
        body = json.dumps({"inputs": inputs}).encode()
        sent = relay.HttpRequest("POST", made.client.root_path, "/infer", b"", headers, body)

        async def ask() -> None:
            assert (await relay.run(made.host, sent)).status == 200

        early, late = await moves.move_and_measure(made.host, made.registry, watched, (30, 120), ask=ask)
        await made.host.stop()
        assert (early.loaded, late.loaded) == (2, 2)
        assert late.tasks == early.tasks
        assert late.threads - early.threads < 10  # pools start theirs when they are needed; a leak would be 90
        assert late.resident_bytes - early.resident_bytes < 20 << 20  # 90 versions would be 180 MB

    asyncio.run(asyncio.wait_for(run(), 60))
