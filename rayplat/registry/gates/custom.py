"""Runs gates of one's own: each in a process of its own, with a time limit, no secrets, and no way to the record.

The function gets the evidence as a plain dict (`documents.plain`, NaN as the string ``nan``) and returns a bool, or
(bool, reason). One that raises, hangs, dies, answers anything else, or whose source is not the one the policy names,
has failed. This is the only module of the package that does something; the verdict enters the record as data.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterable

from rayplat.registry import documents
from rayplat.registry.gates import catalog
from rayplat.registry.gates.own import Custom
from rayplat.types import Evidence, GateResult, GateSpec, Verdict

log = logging.getLogger(__name__)
_CHILD = "rayplat.registry.gates.custom_child"
_START_S = 10.0  # for Python itself and the module's imports to begin; the function's own time is the policy's
_REASON_LENGTH = 1000


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
    child = subprocess.Popen(
        [sys.executable, "-m", _CHILD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )
    try:
        answer, errors = child.communicate(request, timeout=params.timeout_s + _START_S)
    except subprocess.TimeoutExpired:
        return False, f"{params.function} did not answer within {params.timeout_s:g} s"
    finally:
        _end(child)
    if child.returncode == -signal.SIGALRM:
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


def _end(child: subprocess.Popen[str]) -> None:
    """End the process and whatever it has started, also where it answered: nothing of it stays behind."""
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        log.debug("the process group %d of a gate is gone already", child.pid)
    child.wait()
    for stream in (child.stdin, child.stdout, child.stderr):
        if stream is not None:
            stream.close()
