"""The Ray cluster: start a local head with the Serve flags and a token, or attach to a running one.

Ray only warns when a head starts without a token, and a cluster whose Serve flags were set too late serves at a
tenth of the speed: so both are set here before `ray start`, and a cluster that lacks them is refused by name.
"""

from __future__ import annotations

import getpass
import hashlib
import json
import logging
import os
import secrets
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from rayplat.actors import NAMESPACE, RESOURCE
from rayplat.errors import PartFailed
from rayplat.platform import processes
from rayplat.platform.state import secret_file
from rayplat.serve.deployment import flags
from rayplat.settings import Settings


def token_file(home: Path) -> Path:
    return home / "ray_token"


def auth_env(home: Path) -> dict[str, str]:
    """What a process needs in its environment to talk to this cluster."""
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token_file(home))}


def node_env(home: Path, mark: str) -> dict[str, str]:
    """The environment of the head, inherited by every worker, actor and replica."""
    own = {
        processes.MARK: mark,
        "RAYPLAT_HOME": str(home),  # so that a job finds the platform it runs on
        **flags.SERVE_ENV,
        **_serve_ports(),
        **auth_env(home),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_DEDUP_LOGS": "0",
        "WHYLOGS_NO_ANALYTICS": "1",
        "FEAST_USAGE": "False",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "GIT_PYTHON_REFRESH": "quiet",
        "OMP_NUM_THREADS": "1",
        # By default workers give way to every other process, HAProxy and model hosts too: half as many requests per
        # second beside anything else that computes. What should give way says so (`actors.give_way`).
        "RAY_worker_niceness": "0",
        # Actors that reserve a fraction of a CPU are many on purpose; the default warns from 4 per CPU on.
        "RAY_worker_maximum_startup_concurrency": "8",
    }
    path = os.pathsep.join([str(Path(processes.python()).parent), os.environ.get("PATH", os.defpath)])
    return {**{k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}, **own, "PATH": path}


def _serve_ports() -> dict[str, str]:
    """Free ports for what HAProxy binds besides the HTTP port. They are bound only when Serve starts, which may be
    much later: so they are drawn at random, lest the next platform on this machine chooses the same."""
    first = 20_000 + 10 * secrets.randbelow(900)
    taken: set[int] = set()
    for _ in flags.PORTS:
        taken.add(processes.free_port(first, taken))
    return {name: str(port) for name, port in zip(flags.PORTS, sorted(taken), strict=True)}


def temp_dir(home: Path) -> Path:
    """Ray's session folder: short, because Unix socket paths end at 107 characters, and one for each home."""
    digest = hashlib.sha256(str(home).encode()).hexdigest()[:10]
    return Path(tempfile.gettempdir()) / f"rayplat-{getpass.getuser()}-{digest}"


def start_head(settings: Settings, mark: str) -> tuple[str, str]:
    """Start a head on this machine. Returns (GCS address, dashboard URL); raises `PartFailed`."""
    home = settings.home
    if not token_file(home).exists():
        secret_file(token_file(home), secrets.token_hex(32))
    gcs = processes.free_port(settings.ray.gcs_port)
    dashboard = processes.free_port(settings.ray.dashboard_port, {gcs})
    client = processes.free_port(10001, {gcs, dashboard})
    command = [
        *(processes.python(), "-m", "ray.scripts.scripts", "start", "--head", "--disable-usage-stats"),
        *("--node-ip-address=127.0.0.1", f"--port={gcs}"),
        *("--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", "--include-dashboard=true"),
        *(f"--object-store-memory={settings.ray.object_store_bytes}", f"--temp-dir={temp_dir(home)}"),
        f"--resources={json.dumps({RESOURCE: 1})}",
        # Ports that nobody is told about are the system's choice, so that two platforms share a machine.
        *("--min-worker-port=0", "--max-worker-port=0", f"--ray-client-server-port={client}"),
        *("--dashboard-agent-listen-port=0", "--dashboard-agent-grpc-port=0", "--metrics-export-port=0"),
    ]
    if settings.ray.num_cpus is not None:
        command.append(f"--num-cpus={settings.ray.num_cpus}")
    log = home / "logs" / "ray_start.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as out:
        try:
            done = subprocess.run(
                command,
                env=node_env(home, mark),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                timeout=120,
            )
        except subprocess.TimeoutExpired as e:
            raise PartFailed("the Ray head", f"it gave no answer for 120 s; see {log}") from e
    if done.returncode != 0:
        raise PartFailed("the Ray head", f"{processes.tail(log, 1)} (see {log})")
    return f"127.0.0.1:{gcs}", f"http://127.0.0.1:{dashboard}"


def connect(home: Path, address: str, own: bool = True) -> None:
    """Make this process a driver of the cluster (again and again is fine); `PartFailed` with the reason.

    ``own`` false is a cluster that was attached to: the caller's environment says how it is entered. Ray reads its
    token when it is imported, so a process that has imported it before enters no second cluster.
    """
    if own and token_file(home).exists():
        os.environ.update(auth_env(home))
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    if ray.is_initialized():
        if ray.get_runtime_context().gcs_address == address:
            return
        ray.shutdown()
    try:
        ray.init(address=address, namespace=NAMESPACE, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as e:
        raise PartFailed("the connection to Ray", f"{address} did not admit this process: {_first_line(e)}") from e


def check_cluster() -> None:
    """Refuse a cluster without the platform's resource or without the Serve flags on the nodes that carry it."""
    import ray

    if ray.cluster_resources().get(RESOURCE, 0) <= 0:
        raise PartFailed(
            "the Ray cluster",
            f"no node declares the resource {RESOURCE!r}: start a node with --resources '{{\"{RESOURCE}\": 1}}'",
        )
    probe: Any = ray.remote(num_cpus=0, resources={RESOURCE: 0.001})(_environment)
    try:
        seen: dict[str, str] = ray.get(probe.remote(list(flags.REQUIRED)), timeout=60)
    except Exception as e:
        raise PartFailed(
            "the Ray cluster", f"a task did not run on the node with {RESOURCE!r}: {_first_line(e)}"
        ) from e
    wrong = flags.missing(seen)
    if wrong:
        raise PartFailed(
            "the Ray cluster", f"its nodes run without {', '.join(wrong)}: set the Serve flags before `ray start`"
        )


def _environment(names: list[str]) -> dict[str, str]:
    return {n: os.environ.get(n, "") for n in names}


def _first_line(e: BaseException) -> str:
    text = str(e).strip().splitlines()
    return text[0][:300] if text else type(e).__name__
