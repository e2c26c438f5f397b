"""Computing with a model: requests that wait while it is busy are computed together, off the loop where it is slow.

Knows models and time, no protocol and no Ray.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rayplat.serve.ports import LoadedVersion
from rayplat.types import Batching, Limits


class Batcher:
    """Computes for one endpoint. Belongs to one event loop."""

    def __init__(self, batching: Batching, limits: Limits) -> None:
        self._batching, self._limits = batching, limits

    async def run(
        self,
        loaded: LoadedVersion,
        columns: Mapping[str, Any],
        rows: int,
        params: Mapping[str, Any],
        deadline: float | None = None,
    ) -> Mapping[str, Any]:
        """The model's outputs for ``rows`` rows, each with ``rows`` rows. ``deadline`` in `time.monotonic` seconds.

        Raises `Overloaded` at once where it could not be answered in time, `DeadlineExceeded`, `PartFailed` for a
        model that fails or gives another number of rows, and what else the model raises of our tree.
        """
        return loaded.predict(columns, params)

    def admit(self, deadline: float | None = None) -> None:
        """Raise `Overloaded` if a request that came now would be refused by `run`: before its body is parsed."""

    def measure(self, loaded: LoadedVersion) -> None:
        """Learn the cost of a version from its example, before its first request. Blocks; call it in a thread."""

    def check_health(self) -> None:
        """Raises RuntimeError when so many threads are stuck in a model that only a new process helps."""

    def stats(self) -> dict[str, Any]:
        """What it does now and has done: ``waiting`` requests, ``running``, ``stuck`` threads, and so on."""
        return {}

    def close(self) -> None:
        """End its threads once they are done."""
