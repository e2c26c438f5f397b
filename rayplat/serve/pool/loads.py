"""Loads of a worker's hosts: of one version at most one at a time, because a thread that hangs in a load cannot be
stopped, and the next attempt would hang beside it."""

from __future__ import annotations

import threading

from rayplat.errors import Unavailable
from rayplat.serve.ports import LoadedVersion, Loader


class SingleLoads:
    """Implements `ports.Loader` over another one."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader
        self._lock = threading.Lock()
        self._running: set[tuple[str, int]] = set()

    @property
    def running(self) -> int:
        return len(self._running)

    def load(self, model: str, version: int, digest: str) -> LoadedVersion:
        """As the other's. Raises `Unavailable` while an earlier load of the same version has not ended."""
        key = (model, version)
        with self._lock:
            if key in self._running:
                raise Unavailable(f"model {model!r}", f"an earlier load of its version {version} has not ended yet")
            self._running.add(key)
        try:
            return self._loader.load(model, version, digest)
        finally:
            with self._lock:
                self._running.discard(key)
