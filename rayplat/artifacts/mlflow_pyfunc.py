"""A model folder loaded by MLflow itself: whatever its MLmodel says is imported and run. For waived digests only."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rayplat.errors import InvalidInput, SchemaMismatch


class PyfuncModel:
    """MLflow's ``PyFuncModel`` behind the platform's `predict`."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def predict(self, columns: Mapping[str, Any]) -> Mapping[str, npt.NDArray[Any]]:
        import pandas

        try:
            answers = self._model.predict(pandas.DataFrame({name: list(values) for name, values in columns.items()}))
        except Exception as e:
            raise SchemaMismatch("inputs", f"the model cannot compute with them: {str(e)[:300]}") from e
        if isinstance(answers, pandas.DataFrame):
            return {str(name): answers[name].to_numpy() for name in answers}
        if isinstance(answers, Mapping):
            return {str(name): np.asarray(values) for name, values in answers.items()}
        return {"prediction": np.asarray(answers)}


def load(folder: Path) -> PyfuncModel:
    """The model in ``folder`` as a ``python_function``. Raises `InvalidInput` where MLflow cannot load it."""
    import mlflow.pyfunc

    try:
        return PyfuncModel(mlflow.pyfunc.load_model(str(folder)))
    except Exception as e:
        raise InvalidInput("MLmodel", f"MLflow cannot load it: {type(e).__name__}: {str(e)[:300]}") from e
