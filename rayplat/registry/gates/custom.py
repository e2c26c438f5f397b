"""Runs gates of one's own: each in a process of its own, with a time limit, no secrets, and no way to the record.

The function gets the evidence as a plain dict (`documents.plain`, NaN as the string ``nan``) and returns a bool, or
(bool, reason). One that raises, hangs, dies, answers anything else, or whose source is not the one the policy names,
has failed. This is the only module of the package that does something; the verdict enters the record as data.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from typing import IO

from rayplat.registry import documents
from rayplat.registry.gates import catalog, custom_child
from rayplat.registry.gates.own import Custom
from rayplat.types import Evidence, GateResult, GateSpec, Verdict

log = logging.getLogger(__name__)
_CHILD = "rayplat.registry.gates.custom_child"
_START_S = 10.0  # for Python itself and the module's imports to begin; the function's own time is the policy's
_REASON_LENGTH = 1000
_MOST_OUTPUT = 1 << 20  # bytes of each stream that are kept: the last ones


def run(specs: Iterable[GateSpec], evidence: Evidence) -> tuple[GateResult, ...]:
    """The result of each custom gate among ``specs``, one after the other."""
    results = []
    for label, spec in catalog.labelled(specs):
        gate, params = catalog.parse(spec)
        if gate.name == "custom":
            ok, reason = _ask(params, evidence)
            results.append(GateResult(label, Verdict.PASS if ok else Verdict.FAIL, reason[:_REASON_LENGTH], gate.stage))
    return tuple(results)


def _ask(params: Custom, evidence: Evidence) -> tuple[bool, str]:
    asked = {"function": params.function, "digest": params.digest, "timeout_s": params.timeout_s}
    request = json.dumps({**asked, "evidence": documents.plain(evidence)})
    # PYTHONPATH finds the gate's module where this process would; nothing else of the environment is handed on.
    environment = {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "PATH": os.defpath, "LANG": "C.UTF-8"}
    with tempfile.TemporaryFile() as asking:
        asking.write(request.encode())
        asking.seek(0)
        child = subprocess.Popen(
            [sys.executable, "-m", _CHILD],
            stdin=asking,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            start_new_session=True,
        )
    try:
        answer, errors = _said(child, params.timeout_s + _START_S)
    except TimeoutError:
        return False, f"{params.function} did not answer within {params.timeout_s:g} s"
    finally:
        _end(child)
    if child.returncode == custom_child.LATE:
        return False, f"{params.function} did not answer within {params.timeout_s:g} s"
    if child.returncode != 0:
        last = (errors.strip().splitlines() or ["no message"])[-1]
        return False, f"{params.function} ended with {child.returncode}: {last}"
    return _verdict(params.function, answer)


def _verdict(function: str, answer: str) -> tuple[bool, str]:
    try:
        found = json.loads(answer)
        ok, reason = found["ok"], found["reason"]
    except (ValueError, KeyError, TypeError):
        return False, f"{function} gave no verdict"
    if not isinstance(ok, bool) or not isinstance(reason, str):
        return False, f"{function} gave no verdict"
    return ok, f"{function}: {reason}" if reason else f"{function} says {'yes' if ok else 'no'}"


def _said(child: subprocess.Popen[bytes], within_s: float) -> tuple[str, str]:
    """The ends of what the child writes to its standard output and error, until both are closed and it has ended: a
    gate that writes without end takes time, and no memory. Raises `TimeoutError`."""
    ends, deadline = [b"", b""], time.monotonic() + within_s

    def read(number: int, stream: IO[bytes]) -> None:
        with contextlib.suppress(ValueError, OSError):  # closed by `_end`
            while part := os.read(stream.fileno(), 1 << 16):
                ends[number] = (ends[number] + part)[-_MOST_OUTPUT:]

    readers = [
        threading.Thread(target=read, args=(n, stream), daemon=True)
        for n, stream in enumerate((child.stdout, child.stderr))
        if stream is not None
    ]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(max(0.0, deadline - time.monotonic()))
    try:
        child.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        raise TimeoutError from None
    if any(reader.is_alive() for reader in readers):
        raise TimeoutError
    return ends[0].decode("utf-8", "replace"), ends[1].decode("utf-8", "replace")


def _end(child: subprocess.Popen[bytes]) -> None:
    """End the process and whatever it has started, also where it answered: nothing of it stays behind. It does so by
    itself; this is for one that was stopped or killed from below."""
    if child.poll() is None:
        custom_child.end_below(child.pid)
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        log.debug("the process group %d of a gate is gone already", child.pid)
    child.wait()
    for stream in (child.stdout, child.stderr):
        if stream is not None:
            stream.close()
