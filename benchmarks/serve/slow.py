"""A model whose time is known: it sleeps, so that it costs the machine nothing but time. A custom MLflow model, so it
needs a waiver, which is given here as a person would give it."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np

from benchmarks.serve import stage, tiny

_CODE = """
import time

import mlflow
import numpy as np


class Slow(mlflow.pyfunc.PythonModel):
    calls = 0

    def predict(self, context, model_input, params=None):
        rows = np.asarray(model_input)
        self.calls += 1
        if self.calls > {quick}:
            time.sleep({fixed_s} + {row_s} * len(rows))
        return np.asarray(rows, dtype=np.float32)[:, :2]


mlflow.models.set_model(Slow())
"""


def register(platform: stage.Stage, model: str, folder: Path, *, fixed_s: float, row_s: float, quick: int = 0) -> int:
    """The version of a model that takes ``fixed_s`` for a batch and ``row_s`` more for each of its rows; the first
    ``quick`` calls take no time (a model that hangs is loaded, and hangs later)."""
    import mlflow
    from mlflow.models import infer_signature

    folder.mkdir()
    code = folder / "slow.py"
    code.write_text(_CODE.format(fixed_s=0.0, row_s=0.0, quick=0))
    example = np.asarray([tiny.ROW], dtype=np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mlflow.pyfunc.save_model(
            str(folder / "model"),
            python_model=str(code),
            signature=infer_signature(example, example[:, :2]),
            pip_requirements=["mlflow"],
        )
    next((folder / "model").glob("*.py")).write_text(_CODE.format(fixed_s=fixed_s, row_s=row_s, quick=quick))
    put = platform.client.artifacts.put(folder / "model", "model")
    platform.waive(put.digest)
    return platform.register(model, folder / "model")
