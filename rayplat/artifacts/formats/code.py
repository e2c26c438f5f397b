"""Models that run code when they are loaded. Reached only with a waiver for the digest: `load` here obeys the file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from rayplat.artifacts.formats import columns as tabular
from rayplat.artifacts.formats import descriptor
from rayplat.artifacts.formats.format import Format, Predictor
from rayplat.errors import InvalidInput, SchemaMismatch


def load(folder: Path, found: Format) -> Predictor:
    """The model of a folder that an approver has let through: by its MLmodel, else by its only file."""
    if (folder / descriptor.FILE).is_file():
        from rayplat.artifacts import mlflow_pyfunc

        return mlflow_pyfunc.load(folder)
    path = folder / found.files[0]
    try:
        return Waived(_unpickled(path))
    except Exception as e:
        raise InvalidInput(found.files[0], f"it cannot be loaded: {type(e).__name__}: {str(e)[:300]}") from e


class Waived:
    """Whatever a file gave: an object with ``predict``, or a callable of one matrix."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def predict(self, columns: Mapping[str, Any]) -> Mapping[str, npt.NDArray[Any]]:
        names = tuple(map(str, getattr(self._model, "feature_names_in_", columns)))
        x = tabular.matrix(columns, names, getattr(self._model, "n_features_in_", None))
        call = getattr(self._model, "predict", self._model)
        try:
            return tabular.outputs("prediction", np.asarray(call(x)), len(x))
        except (ValueError, TypeError, AttributeError) as e:
            raise SchemaMismatch("inputs", f"the model cannot compute with them: {str(e)[:300]}") from e


def _unpickled(path: Path) -> Any:
    if PurePosixPath(path.name).suffix in (".pt", ".pth", ".ckpt"):
        import torch

        return torch.load(path, map_location="cpu", weights_only=False)
    import joblib

    return joblib.load(path)
