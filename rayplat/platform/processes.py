"""Processes that the platform starts, found again by a mark in their environment.

Everything that `up` starts inherits ``RAYPLAT_MARK=<random>``, through Ray's raylet down to the last worker
and HAProxy. `down` ends exactly the processes that carry the mark: no name is matched, no id can be mistaken
for one that the system has given to another program since.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import psutil

MARK = "RAYPLAT_MARK"


def marked(mark: str) -> list[psutil.Process]:
    """Living processes whose environment carries ``mark``, this one excluded."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if (
                process.pid != os.getpid()
                and process.environ().get(MARK) == mark
                and process.status() != psutil.STATUS_ZOMBIE
            ):
                found.append(process)
    return found


def of_home(home: Path) -> list[psutil.Process]:
    """Living processes that a platform with this home has started, whatever its mark was."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            environ = process.environ()
            if process.pid != os.getpid() and MARK in environ and environ.get("RAYPLAT_HOME") == str(home):
                found.append(process)
    return found


def has_raylet(mark: str) -> bool:
    """Whether a raylet of ours is alive."""
    for process in marked(mark):
        with contextlib.suppress(psutil.Error):
            if "raylet" in process.name():
                return True
    return False


def end(processes: Collection[psutil.Process], grace_s: float = 5.0) -> None:
    """Terminate, wait ``grace_s``, kill what is left. Children of this process are reaped."""
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.terminate()
    _, alive = psutil.wait_procs(list(processes), timeout=grace_s)
    for process in alive:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(alive, timeout=grace_s)


def end_marked(mark: str, grace_s: float = 5.0) -> int:
    """End every marked process; again until none is left, since a dying raylet may still start one."""
    ended = 0
    for _ in range(5):
        processes = marked(mark)
        if not processes:
            break
        ended += len(processes)
        end(processes, grace_s)
    return ended


def spawn(command: Sequence[str], env: Mapping[str, str], log: Path) -> psutil.Process:
    """Start ``command`` in a session of its own, its output appended to ``log``."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as out:
        child = subprocess.Popen(
            command,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return psutil.Process(child.pid)


def alive(pid: int | None, mark: str) -> bool:
    """Whether ``pid`` is running and is ours."""
    if pid is None:
        return False
    with contextlib.suppress(psutil.Error, OSError):
        process = psutil.Process(pid)
        return bool(process.status() != psutil.STATUS_ZOMBIE and process.environ().get(MARK) == mark)
    return False


def is_free(port: int, host: str = "0.0.0.0") -> bool:
    """Whether a server could listen on ``port`` now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind((host, port))
            s.listen(1)
        except OSError:
            return False
        return True


def free_port(wanted: int, taken: Collection[int] = ()) -> int:
    """``wanted``, or the next port that nobody listens on and that is not in ``taken``."""
    for port in range(wanted, min(wanted + 500, 65_536)):
        if port not in taken and is_free(port):
            return port
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def wait_until(condition: Callable[[], bool], timeout_s: float, every_s: float = 0.1) -> bool:
    """Poll ``condition`` until it holds (True) or ``timeout_s`` has passed (False)."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(every_s)
    return condition()


def tail(log: Path, lines: int = 5) -> str:
    """The last non-empty lines of a log, for an error message."""
    if not log.exists():
        return "it left no log"
    text = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return " | ".join(text[-lines:])[-800:] or "its log is empty"


def python() -> str:
    return sys.executable
