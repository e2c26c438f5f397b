"""The model that every peer serves: a logistic regression of ten numbers, saved once by MLflow without code.

Also the request that asks it, in the form of each peer.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np

COLUMNS = tuple(f"x{i}" for i in range(10))
ROW = [round(0.1 * (i - 4), 3) for i in range(10)]

OPEN_INFERENCE = json.dumps(
    {"inputs": [{"name": "input-0", "shape": [1, 10], "datatype": "FP32", "data": [ROW]}]}
).encode()
ROWS = json.dumps({"rows": [ROW]}).encode()
INVOCATIONS = json.dumps({"inputs": [ROW]}).encode()


def fitted() -> Any:
    """A scikit-learn classifier of two classes."""
    from sklearn.linear_model import LogisticRegression

    random = np.random.default_rng(7)
    x = random.normal(size=(2000, len(COLUMNS))).astype(np.float32)
    y = (x @ random.normal(size=len(COLUMNS)) + random.normal(size=2000) > 0).astype(int)
    return LogisticRegression().fit(x, y)


def save(folder: Path, shift: float = 0.0) -> Path:
    """An MLflow model folder that answers with probabilities; ``shift`` makes another model of it."""
    import mlflow
    from mlflow.models import infer_signature

    model = fitted()
    model.intercept_ = model.intercept_ + shift
    example = np.asarray([ROW], dtype=np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mlflow.sklearn.save_model(
            model,
            str(folder),
            serialization_format="skops",
            signature=infer_signature(example, model.predict_proba(example)),
            pyfunc_predict_fn="predict_proba",
            pip_requirements=["scikit-learn", "skops"],
        )
    return folder
