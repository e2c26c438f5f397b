"""Loads an exact model version: bytes verified against the registered digest, model warmed, features bound."""

from __future__ import annotations

import tempfile
from pathlib import Path

from rayplat.errors import InvalidInput
from rayplat.serve.ports import LoadedVersion
from rayplat.settings import Settings


class VersionLoader:
    """Implements `ports.Loader` over the artifact store and the online features. `load` blocks: call it in a thread."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def load(self, model: str, version: int, digest: str) -> LoadedVersion:
        """The version, ready to answer. Raises `Corrupt` when its bytes are not those that were registered, NotFound
        when they are gone, and whatever the format's loader raises."""
        from rayplat.artifacts import bundle
        from rayplat.artifacts.store import ArtifactStore
        from rayplat.data.online import OnlineFeatures

        store = ArtifactStore.of(self._settings)
        with tempfile.TemporaryDirectory(prefix="rayplat-model-") as scratch:
            loaded = bundle.load_bundle(store.checkout(digest, Path(scratch) / "bundle"))
            loaded.warm_up()
        if loaded.spec.model != model:
            raise InvalidInput("model", f"the bundle of {model!r} version {version} was made for {loaded.spec.model!r}")
        spec = loaded.spec
        features = OnlineFeatures(self._settings, spec.views, spec.entity) if spec.views else None
        return LoadedVersion(model, version, digest, loaded, features)
