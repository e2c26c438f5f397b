"""The peer that everybody would write first: FastAPI around the model, its input declared by pydantic."""

from __future__ import annotations

import os

import mlflow
import numpy as np
from fastapi import FastAPI
from pydantic import BaseModel

model = mlflow.sklearn.load_model(os.environ["BENCH_MODEL"])
app = FastAPI()


class Rows(BaseModel):
    rows: list[list[float]]


@app.post("/predict")
async def predict(body: Rows) -> dict[str, list[list[float]]]:
    return {"predictions": model.predict_proba(np.asarray(body.rows, dtype=np.float32)).tolist()}
