"""The peers, each started as its own documentation says for production, on a port of its own, and ended again."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.serve import tiny

HERE = Path(__file__).resolve().parent
_START_S = 180.0


@dataclass(frozen=True)
class Target:
    """Where to send which request, and how to recognise its answer."""

    url: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=lambda: {"Content-Type": "application/json"})


def ask(target: Target) -> bytes:
    """One request; the body of its answer."""
    request = urllib.request.Request(target.url, data=target.body, headers=dict(target.headers))
    with urllib.request.urlopen(request, timeout=20) as answer:
        found: bytes = answer.read()
        return found


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@contextlib.contextmanager
def fastapi(model: Path, workers: int = 1) -> Iterator[Target]:
    """FastAPI and uvicorn: validated by pydantic, computed in the handler, access log off."""
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "benchmarks.serve.plain_fastapi:app", f"--port={port}"]
    command += [f"--workers={workers}", "--no-access-log", "--log-level=warning"]
    with _process(command, {"BENCH_MODEL": str(model)}):
        yield _ready(Target(f"http://127.0.0.1:{port}/predict", tiny.ROWS))


@contextlib.contextmanager
def ray_serve(model: Path) -> Iterator[Target]:
    """Ray Serve as it comes: its Python proxy, its default flags, one replica."""
    port = free_port()
    clean = {name: "" for name in os.environ if name.startswith("RAY_SERVE_")}
    with _process(
        [sys.executable, "-m", "benchmarks.serve.plain_serve", str(port)], {"BENCH_MODEL": str(model)} | clean
    ):
        yield _ready(Target(f"http://127.0.0.1:{port}/predict", tiny.ROWS))


@contextlib.contextmanager
def mlflow_serve(model: Path) -> Iterator[Target]:
    """``mlflow models serve`` with its default of one worker."""
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", str(model), "-p", str(port)]
    command += ["--env-manager", "local", "--workers", "1"]
    with _process(command, {}):
        yield _ready(Target(f"http://127.0.0.1:{port}/invocations", tiny.INVOCATIONS))


@contextlib.contextmanager
def mlserver(python: Path, work: Path) -> Iterator[Target]:
    """MLServer with its scikit-learn runtime, in an environment of its own, its default of one inference worker."""
    import joblib

    folder = work / "mlserver"
    folder.mkdir()
    port, grpc, metrics = free_port(), free_port(), free_port()
    joblib.dump(tiny.fitted(), folder / "model.joblib")
    implementation = "mlserver_sklearn.SKLearnModel"
    (folder / "model-settings.json").write_text(
        json.dumps({"name": "tiny", "implementation": implementation, "parameters": {"uri": "./model.joblib"}})
    )
    (folder / "settings.json").write_text(
        json.dumps({"http_port": port, "grpc_port": grpc, "metrics_port": metrics, "debug": False})
    )
    body = json.loads(tiny.OPEN_INFERENCE) | {"outputs": [{"name": "predict_proba"}]}
    with _process([str(python.parent / "mlserver"), "start", str(folder)], {}):
        yield _ready(Target(f"http://127.0.0.1:{port}/v2/models/tiny/infer", json.dumps(body).encode()))


def mlserver_python(folder: Path) -> Path:
    """The interpreter of MLServer's own environment, made on the first call."""
    python = folder / "bin" / "python"
    if not (folder / "bin" / "mlserver").exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        install = [
            str(python),
            "-m",
            "pip",
            "install",
            "--quiet",
            "mlserver==1.7.1",
            "mlserver-sklearn==1.7.1",
            "uvloop==0.21.0",
        ]
        subprocess.run(install, check=True, stdout=sys.stderr)
    return python


@contextlib.contextmanager
def _process(command: list[str], environment: Mapping[str, str]) -> Iterator[None]:
    """A peer in a session of its own, so that all of it can be ended."""
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # mlflow starts uvicorn by its name
    env = os.environ | {"PATH": programs} | dict(environment)
    with subprocess.Popen(command, env=env, stdout=sys.stderr, cwd=HERE.parents[1], start_new_session=True) as process:
        try:
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


def _ready(target: Target) -> Target:
    """``target`` once it answers."""
    deadline = time.monotonic() + _START_S
    while True:
        try:
            ask(target)
            return target
        except (urllib.error.URLError, OSError) as e:
            if time.monotonic() > deadline:
                raise SystemExit(f"{target.url} did not answer: {e}") from e
            time.sleep(0.2)
