"""What a model host needs from the outside, as narrow protocols: the registry, a loader of versions, a log.

The real ones are in `registry_link`, `loader` and `tap`; tests hand in written fakes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from rayplat.types import AliasHead, ModelSpec, ModelVersion, Principal


class RegistryPort(Protocol):
    """The registry's record. Every method raises `Unavailable` while the registry cannot be reached."""

    async def alias(self, model: str, alias: str) -> AliasHead: ...

    async def version(self, model: str, version: int) -> ModelVersion: ...

    async def listen(self, model: str, alias: str, generation: int, timeout_s: float) -> AliasHead | None: ...

    async def ack(self, model: str, alias: str, generation: int, replica: str) -> None: ...

    async def authenticate(self, token_hash: str) -> Principal | None: ...


class Predictor(Protocol):
    """A loaded model: columns of n values in, FP32 [n] for each output out."""

    @property
    def spec(self) -> ModelSpec: ...

    def predict(self, columns: Mapping[str, Any]) -> Mapping[str, npt.NDArray[np.float32]]: ...


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

    def read(self, keys: Sequence[str], at: datetime, request: Mapping[str, Sequence[Any]]) -> Rows: ...


@dataclass(frozen=True)
class LoadedVersion:
    """One exact version, ready to answer: verified, loaded, warmed, and bound to its features (None for a model that
    names no feature views: its requests carry every value)."""

    model: str
    version: int
    digest: str
    predictor: Predictor
    features: Features | None

    @property
    def spec(self) -> ModelSpec:
        return self.predictor.spec

    @property
    def request_columns(self) -> Mapping[str, str]:
        return self.features.request_columns if self.features is not None else {}


class Loader(Protocol):
    """Loads an exact version; runs in a thread and may take seconds."""

    def load(self, model: str, version: int, digest: str) -> LoadedVersion: ...
