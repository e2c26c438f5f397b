"""A model folder loaded by MLflow itself: whatever its MLmodel says is imported and run. For waived digests only."""

from __future__ import annotations

import contextlib
import importlib
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rayplat.errors import InvalidInput, PartFailed, SchemaMismatch

_LOADING = threading.Lock()  # the module path and the loaded modules belong to the whole process


class PyfuncModel:
    """MLflow's ``PyFuncModel`` behind the platform's `predict`; ``model`` is that itself. ``layout``: the form of its
    latest answer, "" before the first."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.layout = ""

    def predict(self, columns: Mapping[str, Any]) -> Mapping[str, npt.NDArray[Any]]:
        import pandas

        return self.answer(pandas.DataFrame({name: list(values) for name, values in columns.items()}))

    def answer(self, data: Any, params: Mapping[str, Any] | None = None) -> Mapping[str, npt.NDArray[Any]]:
        """What the model gives for ``data`` as MLflow takes it (a data frame, an array, a list or a dict of these), by
        name; ``prediction`` where it has none. Raises `SchemaMismatch` where MLflow refuses the data, `PartFailed`
        where the model's own code fails."""
        from mlflow.exceptions import MlflowException

        try:
            found = self.model.predict(data, params=dict(params)) if params else self.model.predict(data)
            self.layout = layout_of(found)
            return named(found)
        except MlflowException as e:
            raise SchemaMismatch("inputs", f"the model cannot compute with them: {_line(e)}") from e
        except Exception as e:
            raise PartFailed("the model's prediction", f"its code raised {type(e).__name__}: {_line(e)}") from e

    @property
    def streams(self) -> bool:
        """Whether it gives its answer in pieces."""
        return getattr(self.model, "_predict_stream_fn", None) is not None

    def stream(self, data: Any, params: Mapping[str, Any] | None = None) -> Iterator[Any]:
        """The pieces of the answer to one row. Raises as `answer` does."""
        from mlflow.exceptions import MlflowException

        try:
            yield from self.model.predict_stream(data, params=dict(params) if params else None)
        except MlflowException as e:
            raise SchemaMismatch("inputs", f"the model cannot compute with them: {_line(e)}") from e
        except Exception as e:
            raise PartFailed("the model's prediction", f"its code raised {type(e).__name__}: {_line(e)}") from e


def named(answers: Any) -> Mapping[str, npt.NDArray[Any]]:
    """What a pyfunc gave, as arrays by name."""
    import pandas

    if isinstance(answers, pandas.DataFrame):
        return {str(name): answers[name].to_numpy() for name in answers}
    if isinstance(answers, Mapping):
        return {str(name): _array(values) for name, values in answers.items()}
    return {"prediction": _array(answers)}


def layout_of(answers: Any) -> str:
    """What `rayplat.types.Signature` calls the form of a pyfunc's answer."""
    import pandas

    if isinstance(answers, pandas.DataFrame):
        return "records"
    return "arrays" if isinstance(answers, Mapping) else "array"


def load(folder: Path) -> PyfuncModel:
    """The model in ``folder`` as a ``python_function``. What it may still read from there, it reads later: keep it.

    Modules of its own code folder are its own: another version's of the same name stay apart. (They are imported now; a
    module that its code imports only while predicting is not found.) Raises `InvalidInput` where MLflow cannot load it.
    """
    import mlflow.pyfunc

    with _LOADING, _own_modules(folder):
        try:
            return PyfuncModel(mlflow.pyfunc.load_model(str(folder)))
        except Exception as e:
            raise InvalidInput("MLmodel", f"MLflow cannot load it: {type(e).__name__}: {_line(e)}") from e


@contextlib.contextmanager
def _own_modules(folder: Path) -> Iterator[None]:
    """Takes modules that come from ``folder``, and its places on the module path, away again."""
    path, root = list(sys.path), str(folder.resolve())
    try:
        yield
    finally:
        sys.path[:] = path
        for name, module in list(sys.modules.items()):
            if str(getattr(module, "__file__", None) or "").startswith((root, str(folder))):
                del sys.modules[name]
        for place in [p for p in sys.path_importer_cache if p.startswith((root, str(folder)))]:
            del sys.path_importer_cache[place]
        importlib.invalidate_caches()


def _array(values: Any) -> npt.NDArray[Any]:
    found = np.asarray(values.to_numpy() if hasattr(values, "to_numpy") else values)
    if found.dtype.kind in "US":
        found = found.astype(object)
    return found.reshape(1) if found.ndim == 0 else found


def _line(error: Exception) -> str:
    """What is the matter, without the data and the schema that MLflow quotes before it."""
    return " ".join(str(error).rpartition(" Error: ")[2].split())[:300]
