"""MLflow's ``python_function`` models: from a request's values to what MLflow's own server would hand the model."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt

from rayplat.artifacts.mlflow_pyfunc import PyfuncModel
from rayplat.errors import InvalidInput
from rayplat.serve import signatures
from rayplat.types import Signature, TensorSpec

Outputs = Mapping[str, npt.NDArray[Any]]


class Pyfunc:
    """A loaded pyfunc: `ports.Predictor`, `ports.ParamPredictor` and, where it streams, `ports.Streamer`.

    ``folder`` is its checkout, which goes when this goes: a pyfunc may read files of its own while it predicts.
    """

    def __init__(self, model: PyfuncModel, signature: Signature, folder: TemporaryDirectory[str] | None = None) -> None:
        self._model, self._signature, self._folder = model, signature, folder
        named = [spec.name for spec in signature.outputs]
        self._output = named[0] if len(named) == 1 else signatures.OUTPUT

    @property
    def layout(self) -> str:
        """The form of its latest answer, as `Signature.layout` names it."""
        return self._model.layout

    def predict(self, columns: Mapping[str, Any]) -> Outputs:
        """The model's answer; an array without a name gets the declared one."""
        return self.predict_with(columns, {})

    def predict_with(self, columns: Mapping[str, Any], params: Mapping[str, Any]) -> Outputs:
        found = self._model.answer(self._data(columns), params)
        if self._output != signatures.OUTPUT and found.keys() == {signatures.OUTPUT}:
            return {self._output: found[signatures.OUTPUT]}
        return found

    def stream(self, columns: Mapping[str, Any], params: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        """Pieces of the answer to one row: what the model yields where that is a dict, else under its output's name.
        Raises `InvalidInput` for more rows."""
        row = {name: _row(name, values) for name, values in columns.items()}
        (first, *_) = row.values()
        unnamed = self._signature.matrix is not None and len(row) == 1
        for piece in self._model.stream(first if unnamed else row, params):
            yield piece if isinstance(piece, Mapping) else {self._output: piece}

    def _data(self, columns: Mapping[str, Any]) -> Any:
        signature = self._signature
        if signature.open:
            return _as_given(columns)
        specs, whole = signature.by_name, signature.matrix
        if whole is not None and len(columns) == 1:
            (values,) = columns.values()
            if whole.name in specs:  # the only input has no name: MLflow takes it without one
                found = _plain(whole, values)
                return list(found) if signature.tabular else found
            if getattr(values, "ndim", 1) == 2:
                import pandas

                return pandas.DataFrame(_plain(whole, values), columns=list(specs))
        found = {name: _plain(specs[name], values) for name, values in columns.items() if name in specs}
        if not signature.tabular:
            return found
        import pandas

        table = {name: list(v) if isinstance(v, np.ndarray) and v.ndim > 1 else v for name, v in found.items()}
        return pandas.DataFrame(table, copy=False)


def _plain(spec: TensorSpec, values: Any) -> Any:
    """Values as MLflow's schema enforcement wants them."""
    if spec.logical == "datetime":
        import pandas

        return pandas.to_datetime(np.asarray(values, dtype=object), utc=False).to_numpy()
    if spec.logical == "json":
        return [None if value is None else json.loads(value) for value in values]
    if spec.datatype == "BYTES":
        return np.asarray(values, dtype=object) if len(spec.shape) > 1 else _objects(values)
    return np.asarray(values, dtype=signatures.numpy_type(spec))


def _objects(values: Any) -> npt.NDArray[Any]:
    found = np.empty(len(values), dtype=object)
    found[:] = values
    return found


def _as_given(columns: Mapping[str, Any]) -> Any:
    """For a model that declares nothing: a table of columns, or the arrays themselves."""
    arrays = {name: values if isinstance(values, np.ndarray) else _objects(values) for name, values in columns.items()}
    if all(array.ndim == 1 for array in arrays.values()):
        import pandas

        return pandas.DataFrame(arrays)
    return next(iter(arrays.values())) if len(arrays) == 1 else arrays


def _row(name: str, values: Any) -> Any:
    if len(values) != 1:
        raise InvalidInput(f"inputs.{name}", f"a streamed answer is to one row, {len(values)} were given")
    value = values[0]
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value
