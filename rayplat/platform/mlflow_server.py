"""The MLflow tracking server and its page, one process on 127.0.0.1.

Its registry has the record's rules in front of it (`mlflow_store`), and what runs log through it lies in the artifact
store.
"""

from __future__ import annotations

import os
import urllib.error
import urllib.request

from rayplat.artifacts import locations
from rayplat.errors import PartFailed
from rayplat.platform import processes
from rayplat.registry.mlflow_store import guarded_uri, sql_uri
from rayplat.settings import Settings


def start(settings: Settings, mark: str, taken: set[int]) -> tuple[int, str]:
    """Start the server; returns (pid, url) without waiting. `wait` tells when it answers."""
    port = processes.free_port(settings.mlflow.port, taken)
    command = [
        *(processes.python(), "-m", "mlflow", "server", "--host=127.0.0.1", f"--port={port}", "--workers=1"),
        *("--serve-artifacts", f"--artifacts-destination={artifacts_destination(settings)}"),
    ]
    env = {
        **os.environ,
        processes.MARK: mark,
        "RAYPLAT_HOME": str(settings.home),
        **{name.upper(): value for name, value in settings.artifacts.storage_options.items()},
        "MLFLOW_BACKEND_STORE_URI": sql_uri(settings.database_url),  # not an argument: it may hold a password
        "MLFLOW_REGISTRY_STORE_URI": guarded_uri(settings.database_url),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # it would start a second set of worker processes
        "GIT_PYTHON_REFRESH": "quiet",
    }
    process = processes.spawn(command, env, settings.home / "logs" / "mlflow.log")
    return process.pid, f"http://127.0.0.1:{port}"


def artifacts_destination(settings: Settings) -> str:
    """Where the server puts what runs log: the artifact store, or the folder that an earlier release began."""
    earlier = settings.home / "mlflow"
    return earlier.as_uri() if earlier.is_dir() else locations.uri_of(settings.artifacts_root)


def is_well(url: str | None) -> bool:
    return url is not None and answers(f"{url}/health")


def answers(url: str) -> bool:
    """Whether a GET is answered with 200 within two seconds."""
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def wait(settings: Settings, pid: int, url: str, mark: str, timeout_s: float = 90) -> None:
    """Until the server answers; `PartFailed` with the end of its log when it dies or stays silent."""
    log = settings.home / "logs" / "mlflow.log"
    processes.wait_until(lambda: is_well(url) or not processes.alive(pid, mark), timeout_s)
    if not is_well(url):
        raise PartFailed("the MLflow server", f"{processes.tail(log)} (see {log})")
