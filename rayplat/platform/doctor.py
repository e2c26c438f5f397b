"""`rayplat doctor`: is this machine, and this installation, fit to run the platform; and what to do if not."""

from __future__ import annotations

import importlib.metadata
import os
import platform as machine
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil

from rayplat.artifacts import keys
from rayplat.errors import RayplatError
from rayplat.platform import processes, state
from rayplat.serve.deployment import flags
from rayplat.settings import Settings

# What was tested: major.minor of the libraries whose behaviour the platform relies on.
TESTED = {
    "ray": "2.60",
    "mlflow": "3.17",
    "feast": "0.67",
    "deltalake": "1.",
    "whylogs": "1.6.4",
    "torch": "2.13",
    "numpy": "2.",
}
MIN_DISK_BYTES = 5 << 30
MIN_MEMORY_BYTES = 8 << 30
MIN_SHM_BYTES = 1 << 30


@dataclass(frozen=True)
class Finding:
    """``level`` is ``ok``, ``warning`` or ``error``; ``advice`` says what to do, empty when all is well."""

    check: str
    level: str
    detail: str
    advice: str = ""


def examine(settings: Settings) -> list[Finding]:
    """All findings, in the order of the checks. It changes nothing on the machine."""
    return [
        *_versions(),
        *_machine(settings),
        *_ports(settings),
        _home(settings),
        _signing_key(settings),
        *_serve_flags(),
    ]


def _versions() -> list[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    right = (3, 11) <= sys.version_info[:2] < (3, 13)
    found = [
        Finding("python", "ok", version)
        if right
        else Finding("python", "error", version, "use Python 3.11 or 3.12: whylogs has no later wheels")
    ]
    for name, tested in TESTED.items():
        try:
            installed = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found.append(
                Finding(
                    name, "error", "not installed", "install the platform with pip: `pip install -c constraints.txt .`"
                )
            )
            continue
        well = installed.startswith(tested)
        advice = "" if well else f"{tested}* was tested; reinstall with the constraints file"
        found.append(Finding(name, "ok" if well else "warning", installed, advice))
    return found


def _machine(settings: Settings) -> list[Finding]:
    where = _nearest(settings.home)
    disk = shutil.disk_usage(where).free
    memory = psutil.virtual_memory().available
    cpus = settings.ray.num_cpus or os.cpu_count() or 1
    findings = [
        _enough("disk", disk, MIN_DISK_BYTES, f"free space in {where}, or choose another --home"),
        _enough("memory", memory, MIN_MEMORY_BYTES, "stop other programs, or lower RAYPLAT_RAY__OBJECT_STORE_BYTES"),
    ]
    if os.path.isdir("/dev/shm"):
        shm = shutil.disk_usage("/dev/shm").free
        findings.append(_enough("shared memory", shm, MIN_SHM_BYTES, "enlarge /dev/shm: Ray's object store lies there"))
    if cpus < 2:
        findings.append(
            Finding("cpus", "warning", f"{cpus}", "two-worker training needs 2: set RAYPLAT_RAY__NUM_CPUS=2")
        )
    else:
        findings.append(Finding("cpus", "ok", f"{cpus}"))
    if machine.system() != "Linux":
        findings.append(
            Finding(
                "ingress",
                "warning",
                machine.system(),
                "HAProxy is shipped for Linux only; serving falls back to Ray's proxy",
            )
        )
    return findings


def _enough(check: str, free: int, needed: int, advice: str) -> Finding:
    detail = f"{free / 2**30:.1f} GiB free"
    if free >= needed:
        return Finding(check, "ok", detail)
    return Finding(check, "warning", f"{detail}, {needed / 2**30:.0f} GiB wanted", advice)


def _ports(settings: Settings) -> list[Finding]:
    wanted = {
        "port of the ingress": settings.serve.http_port,
        "port of the MLflow page": settings.mlflow.port,
        "port of the Ray dashboard": settings.ray.dashboard_port,
        "port of Ray's control store": settings.ray.gcs_port,
    }
    if _running(settings):
        return [Finding(name, "ok", "the platform is up; `rayplat status` has its addresses") for name in wanted]
    return [
        Finding(name, "ok", str(port))
        if processes.is_free(port)
        else Finding(name, "warning", f"{port} is in use", "the next free port will be taken; `rayplat up` prints it")
        for name, port in wanted.items()
    ]


def _running(settings: Settings) -> bool:
    try:
        return state.read(settings.home) is not None
    except (RayplatError, OSError):  # the check of the home says which
        return False


def _home(settings: Settings) -> Finding:
    existing = _nearest(settings.home)
    if existing.is_dir() and os.access(existing, os.W_OK | os.X_OK):
        return Finding("home", "ok", str(settings.home))
    return Finding(
        "home", "error", f"{existing} cannot be written", "choose another folder with --home or RAYPLAT_HOME"
    )


def _signing_key(settings: Settings) -> Finding:
    """The key that signs models: without it nothing can be registered."""
    file = settings.signing_key or settings.keys_folder / keys.PRIVATE
    if settings.signing_key is None and not os.path.exists(file):
        return Finding("signing key", "ok", "none yet; `rayplat up` makes it")
    try:
        return Finding("signing key", "ok", f"{file}, id {keys.load(file).public.key_id[:16]}")
    except RayplatError as e:
        return Finding("signing key", "error", str(e), "put a P-256 private key with mode 600 there")


def _nearest(path: Path) -> Path:
    """``path`` or its nearest parent that is there. `Path.exists` raises below a folder that may not be searched."""
    while not os.path.exists(path):
        path = path.parent
    return path


def _serve_flags() -> list[Finding]:
    """Flags that someone has set to another value would travel into the cluster's nodes."""
    other = [f"{n}={os.environ[n]}" for n, v in flags.SERVE_ENV.items() if os.environ.get(n, v) != v]
    if not other:
        return [Finding("serve flags", "ok", f"{len(flags.SERVE_ENV)} are set for the nodes that `up` starts")]
    return [Finding("serve flags", "warning", ", ".join(other), "unset them: `rayplat up` sets what it needs")]
