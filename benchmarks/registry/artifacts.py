"""Put and get with hashing beside a plain copy plus ``sha256sum``; a second save; publishing beside collecting.

The peer is ``cp -r`` followed by ``sha256sum`` of the same files, as one copies and checks by hand. `put` also syncs
to the disk, which ``cp`` does not. Both take turns, each in a new folder, and the best of each counts; files are in
the page cache. The ratio to ``cp`` and a hash by Python's OpenSSL, which uses the processor's SHA instructions where
``sha256sum`` may not, is shown without a target.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import rows
from rayplat.artifacts.sources import walk
from rayplat.artifacts.store import ArtifactStore
from tests.artifacts import interleavings

COMMAND = "make bench-registry"
_MB = 1 << 20
_RUNS = 5


def measure(work: Path, quick: bool) -> tuple[list[rows.Row], dict[str, Any]]:
    shapes = {
        "large files": _files(work / "large", 2 if quick else 4, (16 if quick else 128) * _MB),
        "small files": _files(work / "small", 200 if quick else 3000, 16 << 10),
    }
    made: list[rows.Row] = []
    raw: dict[str, Any] = {}
    for name, folder in shapes.items():
        raw[name] = _transfers(folder, work / "scratch", 2 if quick else _RUNS)
        made += _rows(name, raw[name])
    raw["second save"] = _second_save(shapes["small files"], work / "second")
    made.append(
        rows.row("second save of the same tree, new payload bytes", raw["second save"], "bytes", "= 0", COMMAND)
    )
    raw["interleavings"] = _interleavings(work / "interleavings", 50 if quick else 1000)
    lost = len(raw["interleavings"]["lost"])
    made.append(rows.row("publish and collect, 1,000 interleavings: objects lost", lost, "objects", "= 0", COMMAND))
    return made, raw


def _files(folder: Path, count: int, size: int) -> Path:
    for n in range(count):
        path = folder / f"{n % 16:02}" / f"{n:05}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            for begin in range(0, size, _MB):
                file.write(os.urandom(min(_MB, size - begin)))
    return folder


def _transfers(folder: Path, scratch: Path, runs: int) -> dict[str, Any]:
    """Seconds of every run, by what was done."""
    files = [folder / path for path in walk(folder)[0]]
    seconds: dict[str, list[float]] = {name: [] for name in ("put", "get", "copy", "sync", "sha256sum", "openssl")}
    for n in range(runs):
        here = scratch / str(n)
        here.mkdir(parents=True)
        os.sync()  # nobody pays for what another has written
        seconds["copy"].append(_timed(lambda: _copy(folder, here / "copy")))  # noqa: B023 - called at once
        seconds["sync"].append(_timed(os.sync))
        seconds["sha256sum"].append(_timed(lambda: _sha256sum(files)))
        seconds["openssl"].append(_timed(lambda: _hash(files)))
        os.sync()
        store = ArtifactStore(here / "store")
        digests = []
        seconds["put"].append(_timed(lambda: digests.append(store.put_tree(folder, "model").digest)))  # noqa: B023
        os.sync()
        seconds["get"].append(_timed(lambda: store.checkout(digests[0], here / "out")))  # noqa: B023
    shutil.rmtree(scratch)  # not between the runs: ext4 is slow to take the place of what was just removed
    return {"files": len(files), "size_bytes": sum(f.stat().st_size for f in files), "seconds": seconds}


def _rows(name: str, raw: dict[str, Any]) -> list[rows.Row]:
    best = {what: min(seconds) for what, seconds in raw["seconds"].items()}
    peer, with_openssl = best["copy"] + best["sha256sum"], best["copy"] + best["openssl"]
    made = []
    for what in ("put", "get"):
        ratio = peer / best[what]
        peers = {"seconds": round(best[what], 4), "cp + sha256sum, seconds": round(peer, 4)}
        made.append(rows.row(f"{what}, {name}, of cp + sha256sum", ratio, "ratio", ">= 0.8", COMMAND, peers))
        ratio = with_openssl / best[what]
        made.append(rows.row(f"{what}, {name}, of cp + OpenSSL's hash", ratio, "ratio", None, COMMAND))
    durable = (peer + best["sync"]) / best["put"]
    made.append(rows.row(f"put, {name}, of cp + sync + sha256sum", durable, "ratio", None, COMMAND))
    made.append(rows.row(f"put, {name}", raw["size_bytes"] / best["put"] / _MB, "MiB/s", None, COMMAND))
    made.append(rows.row(f"get, {name}", raw["size_bytes"] / best["get"] / _MB, "MiB/s", None, COMMAND))
    return made


def _second_save(folder: Path, scratch: Path) -> int:
    ArtifactStore(scratch).put_tree(folder, "model")
    return ArtifactStore(scratch).put_tree(folder, "model").new_bytes


def _interleavings(scratch: Path, count: int) -> dict[str, Any]:
    logging.disable()
    outcome = interleavings.series(scratch, count)
    logging.disable(logging.NOTSET)
    return {**vars(outcome), "lost": sorted(outcome.lost), "interleavings": count}


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _copy(folder: Path, into: Path) -> None:
    subprocess.run(["cp", "-r", str(folder), str(into)], check=True)


def _sha256sum(files: list[Path]) -> None:
    names = b"\0".join(os.fsencode(path) for path in files)
    subprocess.run(["xargs", "-0", "sha256sum"], input=names, check=True, stdout=subprocess.DEVNULL)


def _hash(files: list[Path]) -> None:
    for path in files:
        with path.open("rb", buffering=0) as file:
            hashlib.file_digest(file, "sha256")
