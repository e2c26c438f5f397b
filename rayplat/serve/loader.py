"""Loads an exact model version: bytes verified against the registered digest, model warmed, features bound.

Every format comes out as the same `LoadedVersion`. What a version's files are is told by their bytes; code of theirs
runs only where the registry holds a waiver for exactly that digest.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import weakref
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rayplat.errors import InvalidInput, PartFailed
from rayplat.serve import signatures
from rayplat.serve.ports import LoadedVersion, Predictor
from rayplat.settings import Settings
from rayplat.types import ModelSpec

if TYPE_CHECKING:
    from rayplat.registry.calls import Registry

log = logging.getLogger(__name__)

Waived = Callable[[str, int, str], str | None]
DEEPEST = 4  # composed models that consist of composed models


class VersionLoader:
    """Implements `ports.Loader` over the artifact store and the online features. `load` blocks: call it in a thread.

    ``waived`` gives the id of the waiver by which (model, version, digest) may run its code, None for none; it asks the
    registry unless told otherwise.
    """

    def __init__(self, settings: Settings, waived: Waived | None = None) -> None:
        self._settings = settings
        self._waived = waived or registry_waiver

    def load(self, model: str, version: int, digest: str, *, depth: int = 0) -> LoadedVersion:
        """The version, ready to answer. Raises `Corrupt` when its bytes are not those that were registered, NotFound
        when they are gone, `NeedsWaiver` for code without a waiver, `PartFailed` where it answers its own example with
        another number of rows, and whatever the format's loader raises. ``depth``: how many composed models it is a
        part of."""
        from rayplat.artifacts.store import ArtifactStore
        from rayplat.serve.models.pyfunc import Pyfunc

        scratch = Path(tempfile.mkdtemp(prefix="rayplat-model-"))
        try:
            folder = ArtifactStore.of(self._settings).checkout(digest, scratch / "model")
            loaded = self._opened(folder, LoadedVersion(model, version, digest, _NOTHING, signatures.opened()), depth)
            loaded = _warm(loaded)
        except BaseException:
            shutil.rmtree(scratch, ignore_errors=True)
            raise
        if isinstance(loaded.predictor, Pyfunc):  # it may read its files later; they go when it goes
            weakref.finalize(loaded.predictor, shutil.rmtree, scratch, ignore_errors=True)
        else:
            shutil.rmtree(scratch, ignore_errors=True)
        return loaded

    def _opened(self, folder: Path, here: LoadedVersion, depth: int) -> LoadedVersion:
        from rayplat.artifacts import bundle, formats
        from rayplat.artifacts.formats import graph
        from rayplat.serve.models import mlmodel, native, transformers

        if (folder / bundle.SPEC_FILE).is_file():
            return self._bundle(folder, here)
        if (folder / graph.FILE).is_file():
            return self._composed((folder / graph.FILE).read_bytes(), here, depth)
        found = formats.detect(folder)
        here = replace(here, platform=native.PLATFORMS[found.name])
        described = mlmodel.read(folder)
        if found.runs_code:
            return self._code(folder, here, found, described)
        if found.name == "safetensors" and transformers.is_one(folder, described):
            text = transformers.load(folder, described)
            params = streamer = text if text.generates else None
            signature = text.signature(described.signature)
            return replace(
                here, predictor=text, signature=signature, params=params, streamer=streamer, example=described.example
            )
        model = formats.load_found(folder, here.digest, found, tried=True)
        predictor, signature = native.assembled(model, described)
        return _explained(replace(here, predictor=predictor, signature=signature, example=described.example), model)

    def _bundle(self, folder: Path, here: LoadedVersion) -> LoadedVersion:
        from rayplat.artifacts import bundle

        loaded = bundle.load_bundle(folder)
        loaded.warm_up()
        spec = loaded.spec
        if spec.model != here.model:
            reason = f"the bundle of {here.model!r} version {here.version} was made for {spec.model!r}"
            raise InvalidInput("model", reason)
        features = self._features(spec.views, spec.entity)
        return _explained(
            replace(
                here,
                predictor=loaded,
                signature=signatures.of_spec(spec, features.request_columns if features else None),
                features=features,
                spec=spec,
                platform="pytorch_pt2",
                example=_columns(spec, loaded.example["columns"]),
            ),
            loaded,
        )

    def _composed(self, content: bytes, here: LoadedVersion, depth: int) -> LoadedVersion:
        from rayplat.artifacts.formats import graph
        from rayplat.serve.models.graph import GraphPredictor, Plan

        if depth >= DEEPEST:
            raise InvalidInput("graph", f"composed models are nested deeper than {DEEPEST}")
        plan = Plan.of(graph.parse(content))
        parts = {name: self.load(*pinned, depth=depth + 1) for name, pinned in plan.pinned.items()}
        made = replace(
            here,
            predictor=GraphPredictor(plan, parts),
            signature=plan.signature,
            features=self._features(plan.views, plan.entity),
            platform="ensemble",
            batchable=all(part.batchable for part in parts.values()),
            example=plan.example({name: part.example for name, part in parts.items()}),
            parts=tuple(dict.fromkeys(plan.pinned.values())),
        )
        return _explained(made, made.predictor)

    def _code(self, folder: Path, here: LoadedVersion, found: Any, described: Any) -> LoadedVersion:
        """A model that runs code: only with a waiver."""
        from rayplat.artifacts import formats
        from rayplat.artifacts.mlflow_pyfunc import PyfuncModel
        from rayplat.serve.models import native
        from rayplat.serve.models.pyfunc import Pyfunc

        waiver = self._waived(here.model, here.version, here.digest)
        model = formats.load_found(folder, here.digest, found, waiver=waiver)
        here = replace(here, example=described.example)
        if not isinstance(model, PyfuncModel):
            predictor, signature = native.assembled(model, described)
            return _explained(replace(here, predictor=predictor, signature=signature), model)
        signature = signatures.with_matrix(described.signature or signatures.opened())
        pyfunc = Pyfunc(model, signature)
        streamer = pyfunc if model.streams else None
        params = pyfunc if signature.params else None
        made = replace(here, predictor=pyfunc, signature=signature, params=params, streamer=streamer, batchable=False)
        return _explained(made, model)

    def _features(self, views: Mapping[str, str], entity: str) -> Any:
        from rayplat.data.online import OnlineFeatures

        return OnlineFeatures(self._settings, dict(views), entity) if views else None


def registry_waiver(model: str, version: int, digest: str, registry: Registry | None = None) -> str | None:
    """The waiver for a version's digest that nobody gave who made it. Raises `Unavailable` where the registry is not
    reached: what it cannot be asked about is not loaded."""
    from rayplat.registry.client import RegistryClient
    from rayplat.registry.record import versions, waivers

    registry = registry or RegistryClient.connect()
    known = registry.read(versions.get, model, version)
    found = registry.read(waivers.find, waivers.FORMAT, digest, but_by=(known.author, known.run_author))
    return None if found is None or known.digest != digest else found.waiver_id


def _warm(loaded: LoadedVersion) -> LoadedVersion:
    """Answer the stored example once, and learn from it what a model gives that declares nothing."""
    if not loaded.example:
        return loaded
    rows = len(next(iter(loaded.example.values())))
    found = loaded.predict(loaded.example, {})
    for name, values in found.items():
        if values.ndim == 0 or len(values) != rows:
            part = f"version {loaded.version} of model {loaded.model!r}"
            raise PartFailed(part, f"its output {name!r} has the shape {values.shape} for an example of {rows} rows")
    signature = loaded.signature
    outputs = signature.outputs or tuple(signatures.spec_of(name, values) for name, values in found.items())
    layout = getattr(loaded.predictor, "layout", signature.layout)
    return replace(loaded, signature=replace(signature, outputs=outputs, layout=layout))


def _explained(loaded: LoadedVersion, model: Any) -> LoadedVersion:
    from rayplat.serve.models.explain import explainer

    return replace(loaded, explainer=explainer(loaded, model))


def _columns(spec: ModelSpec, stored: Mapping[str, Any]) -> dict[str, Any]:
    """The example of a bundle as requests bring it: float64 with NaN, strings or None."""
    import numpy as np

    numeric = {f.name for f in spec.features if f.kind == "numeric"}
    return {
        name: np.array(values, dtype=np.float64) if name in numeric else list(values) for name, values in stored.items()
    }


class _Nothing:
    def predict(self, columns: Mapping[str, Any]) -> Mapping[str, Any]:
        raise RuntimeError(f"nothing was loaded ({len(columns)} columns given)")


_NOTHING: Predictor = _Nothing()
