"""Ray Serve with everything as it comes, around the same model: ``python -m benchmarks.serve.plain_serve PORT``."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import ray
from ray import serve
from starlette.requests import Request


@serve.deployment
class Tiny:
    def __init__(self, path: str) -> None:
        import mlflow

        self._model: Any = mlflow.sklearn.load_model(path)

    async def __call__(self, request: Request) -> dict[str, Any]:
        import numpy as np

        rows = np.asarray((await request.json())["rows"], dtype=np.float32)
        return {"predictions": self._model.predict_proba(rows).tolist()}


if __name__ == "__main__":
    ray.init(include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
    serve.run(Tiny.bind(os.environ["BENCH_MODEL"]), route_prefix="/predict")  # type: ignore[attr-defined]
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    ray.shutdown()
