"""What a model host needs from the outside, as narrow protocols: the registry, a loader of versions, a log.

The real ones are in `registry_link`, `loader` and `tap`; tests hand in written fakes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from rayplat.types import AliasHead, ModelSpec, ModelVersion, Principal, Release, Signature


class RegistryPort(Protocol):
    """The registry's record. Every method raises `Unavailable` while the registry cannot be reached."""

    async def alias(self, model: str, alias: str) -> AliasHead: ...

    async def version(self, model: str, version: int) -> ModelVersion: ...

    async def listen(self, model: str, alias: str, generation: int, timeout_s: float) -> AliasHead | None: ...

    async def listen_release(self, model: str, generation: int, timeout_s: float) -> Release | None:
        """The model's release as soon as its generation is above ``generation``; None after ``timeout_s``."""
        ...

    async def ack(self, model: str, alias: str, generation: int, replica: str) -> None: ...

    async def authenticate(self, token_hash: str) -> Principal | None: ...


class Predictor(Protocol):
    """A loaded model: columns of n values (or arrays of n rows) in, an array of n rows for each output out."""

    def predict(self, columns: Mapping[str, Any]) -> Mapping[str, npt.NDArray[Any]]: ...


class ParamPredictor(Protocol):
    """A model whose predictions have parameters."""

    def predict_with(self, columns: Mapping[str, Any], params: Mapping[str, Any]) -> Mapping[str, npt.NDArray[Any]]: ...


class Streamer(Protocol):
    """A model that gives its answer in pieces."""

    def stream(self, columns: Mapping[str, Any], params: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]: ...


class Explainer(Protocol):
    """Why the model said what it did: for each row and input its part in the answer, adding up with ``base``."""

    def explain(self, columns: Mapping[str, Any], output: str, max_evaluations: int) -> Explanation: ...


@dataclass(frozen=True)
class Explanation:
    """``values``: FP64 [n] per input, in units of the output ``output``; ``base``: FP64 [n], what is left. ``method``
    names how it was computed (``tree_shap``, ``permutation``), ``evaluations`` how many rows the model computed."""

    output: str
    method: str
    values: Mapping[str, npt.NDArray[np.float64]]
    base: npt.NDArray[np.float64]
    evaluations: int


class Rows(Protocol):
    """Looked-up features of n keys: per feature a float64 array (NaN = missing) or strings (None = missing)."""

    @property
    def columns(self) -> Mapping[str, Any]: ...

    @property
    def found(self) -> Sequence[bool] | npt.NDArray[np.bool_]: ...

    @property
    def status(self) -> Mapping[str, Sequence[str]]: ...


class Features(Protocol):
    """The online features of one version's views."""

    @property
    def request_columns(self) -> Mapping[str, str]:
        """Name and type of the columns that a request carries for features computed on request."""
        ...

    def read(
        self, keys: Sequence[Any], at: datetime | Sequence[datetime], request: Mapping[str, Sequence[Any]]
    ) -> Rows: ...


@dataclass(frozen=True)
class LoadedVersion:
    """One exact version, ready to answer: verified, loaded, warmed, and bound to its features (None for a model that
    names no feature views: its requests carry every value).

    ``signature`` is what requests are checked against. ``spec`` is there for models of our own training. ``platform``
    names the format as the protocol does (``onnx_onnxv1``). ``batchable``: rows do not depend on each other, so
    requests may be computed together. ``example``: a few rows to warm up with. ``parts`` are the versions a composed
    model consists of: (model, version, digest).
    """

    model: str
    version: int
    digest: str
    predictor: Predictor
    signature: Signature
    features: Features | None = None
    spec: ModelSpec | None = None
    platform: str = ""
    batchable: bool = True
    params: ParamPredictor | None = None
    streamer: Streamer | None = None
    explainer: Explainer | None = None
    example: Mapping[str, Any] | None = None
    parts: tuple[tuple[str, int, str], ...] = ()

    def predict(self, columns: Mapping[str, Any], params: Mapping[str, Any]) -> Mapping[str, npt.NDArray[Any]]:
        """The model's answer; ``params`` only where it takes any."""
        if params and self.params is not None:
            return self.params.predict_with(columns, params)
        return self.predictor.predict(columns)

    def described(self) -> LoadedVersion:
        """The same without what computes: what another process needs to name it and to encode its answer."""
        return replace(
            self, predictor=_ELSEWHERE, features=None, params=None, streamer=None, explainer=None, example=None
        )


class Loader(Protocol):
    """Loads an exact version; runs in a thread and may take seconds."""

    def load(self, model: str, version: int, digest: str) -> LoadedVersion: ...


class _Elsewhere:
    """Stands for a model that is loaded in another process."""

    def predict(self, columns: Mapping[str, Any]) -> Mapping[str, npt.NDArray[Any]]:
        raise RuntimeError(f"this version is loaded in another process ({len(columns)} columns given)")


_ELSEWHERE = _Elsewhere()
