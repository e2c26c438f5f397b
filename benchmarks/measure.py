"""Memory of the processes of one platform, from /proc. Linux only, standard library only."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

_PSS = re.compile(r"^Pss:\s+(\d+) kB$", re.MULTILINE)
PROC = Path("/proc")


@dataclass(frozen=True)
class Process:
    """``environment`` is the raw content of /proc/<pid>/environ: NUL-separated ``name=value``."""

    pid: int
    parent: int
    environment: bytes


@dataclass(frozen=True)
class Sample:
    """The summed proportional set size of all processes at one moment."""

    at_s: float
    pss_bytes: int
    processes: int


def parse_pss(smaps_rollup: str) -> int:
    """Proportional set size in bytes: private pages, and each shared page divided by the number of its users."""
    found = _PSS.search(smaps_rollup)
    return int(found.group(1)) * 1024 if found else 0


def parse_parent(stat: str) -> int:
    """The parent's id from /proc/<pid>/stat, whose second field may hold spaces and parentheses."""
    return int(stat.rpartition(")")[2].split()[1])


def members(processes: Iterable[Process], mark: str | None, root: int) -> set[int]:
    """Ids of ``root``, of all that carry ``RAYPLAT_MARK=<mark>``, and of all their descendants."""
    known = {process.pid: process for process in processes}
    wanted = f"RAYPLAT_MARK={mark}".encode() if mark else None
    found = {root} & known.keys()
    found |= {pid for pid, process in known.items() if wanted and wanted in process.environment.split(b"\0")}
    children: dict[int, list[int]] = {}
    for process in known.values():
        children.setdefault(process.parent, []).append(process.pid)
    waiting = list(found)
    while waiting:
        new = [child for child in children.get(waiting.pop(), []) if child not in found]
        found.update(new)
        waiting += new
    return found


def processes(proc: Path = PROC) -> list[Process]:
    """All processes that this user may look into; those that end meanwhile are left out."""
    found = []
    for entry in os.listdir(proc):
        if entry.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                stat, environment = (proc / entry / "stat").read_text(), (proc / entry / "environ").read_bytes()
                found.append(Process(int(entry), parse_parent(stat), environment))
    return found


def sample(started: float, mark: str | None, root: int, proc: Path = PROC) -> Sample:
    """What the platform with ``mark`` and the tree of ``root`` hold now. ``started``: `time.monotonic` at zero."""
    at_s = time.monotonic() - started
    sizes = []
    for pid in members(processes(proc), mark, root):
        with contextlib.suppress(OSError):
            sizes.append(parse_pss((proc / str(pid) / "smaps_rollup").read_text()))
    return Sample(round(at_s, 2), sum(sizes), len(sizes))


def machine(environ: Mapping[str, str] = os.environ) -> dict[str, object]:
    """What the figures were taken on."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpus": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory / 2**30, 1),
        "system": f"{os.uname().sysname} {os.uname().release} {os.uname().machine}",
        "ci": environ.get("CI") == "true",
    }
