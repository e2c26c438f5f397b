"""One saved model behind two scoring servers: MLflow's own application, and this platform's protocol and model."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rayplat.errors import RayplatError
from rayplat.serve.ports import LoadedVersion
from rayplat.serve.protocols import mlflow
from rayplat.serve.request import Answer
from tests.serve.fakes import head


@dataclass(frozen=True)
class Reply:
    status: int
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Theirs:
    """`mlflow models serve`, in this process."""

    def __init__(self, folder: Path) -> None:
        import mlflow.pyfunc
        from mlflow.pyfunc import scoring_server
        from starlette.testclient import TestClient

        application = scoring_server.init(mlflow.pyfunc.load_model(str(folder)))
        self._client = TestClient(application, raise_server_exceptions=False)

    def __call__(self, body: bytes, content_type: str = "application/json") -> Reply:
        found = self._client.post("/invocations", content=body, headers={"content-type": content_type})
        return Reply(found.status_code, found.content)


class Ours:
    """The platform's protocol around the platform's loaded version."""

    def __init__(self, loaded: LoadedVersion) -> None:
        self.loaded = loaded

    def __call__(self, body: bytes, content_type: str = "application/json") -> Reply:
        try:
            request = mlflow.parse(body, content_type, self.loaded.signature, 1000)
            outputs = dict(self.loaded.predict(request.inputs, request.params))
        except RayplatError as e:
            return Reply(*mlflow.error(e))
        answer = Answer("1", head(1, 1), self.loaded, "champion", outputs)
        return Reply(200, mlflow.response(answer, request))
