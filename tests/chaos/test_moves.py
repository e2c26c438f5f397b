"""A thousand alias moves of a host over the real loader: every one verifies, loads and warms a bundle."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import replace

import pytest

from rayplat.serve.host import ModelHost, Parts
from rayplat.serve.loader import VersionLoader
from rayplat.serve.ports import LoadedVersion
from rayplat.settings import Settings
from rayplat.types import EndpointSpec
from tests.serve import moves
from tests.serve.fakes import FakeRegistry, head
from tests.serve.tiny import MODEL, put_bundle, put_features

MOVES = (200, 600, 1000)


class Bundles:
    """The loader of the platform; the registry of this test names versions, not their digests."""

    def __init__(self, settings: Settings) -> None:
        self._loader = VersionLoader(settings)
        self._digests = [put_bundle(settings, 0.1 * n) for n in range(3)]

    def load(self, model: str, version: int, digest: str) -> LoadedVersion:
        return replace(self._loader.load(MODEL, version, self._digests[version - 1]), digest=digest)


def test_a_thousand_moves_leak_nothing(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    put_features(settings)

    async def run() -> list[moves.Left]:
        watched = moves.Watched(Bundles(settings))
        registry = FakeRegistry(head(1, 1))
        host = ModelHost(settings.serve, EndpointSpec(registry.head.model), "replica-1", Parts(registry, watched))
        await host.start()
        try:
            return await moves.move_and_measure(host, registry, watched, MOVES)
        finally:
            await host.stop()

    found = asyncio.run(run())
    with capsys.disabled():
        sys.stdout.write("".join(f"\n{left}" for left in found) + "\n")
    first, last = found[0], found[-1]
    assert [left.loaded for left in found] == [2, 2, 2]
    assert (last.threads, last.tasks) == (first.threads, first.tasks)
    assert last.resident_bytes - first.resident_bytes < 40 << 20
