"""The process in which one gate of one's own runs, and the one above it that ends it.

The outer process reads a request from its standard input, lets the function run in a process below it, and writes
``{"ok", "reason"}`` to its standard output. Everything that the function starts stays below the outer process, whatever
sessions it opens (``PR_SET_CHILD_SUBREAPER``, see prctl(2)), and is killed when the function has answered or its time
is up. The inner process has no descriptor of the outer's answer: what it writes counts only with a word that is handed
to it in memory, once, and if it then ends well. That keeps out what writes or exits by mistake; a module that goes
looking for the word finds it.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import json
import os
import secrets
import signal
import sys
import time
from typing import Any

LATE = 100
"""What the outer process exits with when the time is up."""
_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
_REASON_LENGTH = 1000
_MOST_ANSWER = 1 << 16  # what a pipe holds: more cannot have been written by a process that has ended
_KILLING_S = 5.0


def main() -> None:
    """Run what standard input asks for."""
    answer = os.dup(1)
    os.dup2(2, 1)
    request = json.load(sys.stdin)
    if ctypes.CDLL(None, use_errno=True).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise SystemExit(f"what the gate starts cannot be kept together: {os.strerror(ctypes.get_errno())}")
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    word, (reading, writing) = secrets.token_hex(16), os.pipe()
    inner = os.fork()
    if inner == 0:
        os.close(answer)
        os.close(reading)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
        _run(request, writing, word)
        return
    os.close(writing)
    code = _waited(inner, request["timeout_s"])
    end_below(os.getpid())
    _collect()
    if code == 0:
        os.write(answer, _answered(reading, word))
    os._exit(code)


def end_below(pid: int) -> None:
    """Kill every descendant of a process, until none is left."""
    until = time.monotonic() + _KILLING_S
    while (found := _below(pid)) and time.monotonic() < until:
        for one in found:
            try:
                os.kill(one, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.005)


def _below(pid: int) -> list[int]:
    """Descendants that still run, by the parents that ``/proc`` names."""
    children: dict[int, list[int]] = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                state, parent = file.read().rpartition(b")")[2].split()[:2]
        except OSError:  # it has ended
            continue
        if state not in (b"Z", b"X"):
            children.setdefault(int(parent), []).append(int(name))
    found, new = [], [pid]
    while new:
        new = [child for one in new for child in children.get(one, [])]
        found += new
    return found


def _waited(inner: int, within_s: float) -> int:
    """The inner process's exit code, 128 and its signal, or `LATE`. Collects whatever else has ended below."""
    until = time.monotonic() + within_s
    while True:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == inner:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code
        if pid == 0:
            left = until - time.monotonic()
            if left <= 0:
                return LATE
            signal.sigtimedwait({signal.SIGCHLD}, left)


def _collect() -> None:
    """Take note of all that has ended below, so that nothing of it is left in the table of processes."""
    try:
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass
    except ChildProcessError:
        return


def _run(request: dict[str, Any], writing: int, word: str) -> None:
    """In the inner process: call the function, and only then write."""
    me = os.getpid()
    ok, reason = _verdict(_function(request["function"], request["digest"])(request["evidence"]))
    if os.getpid() != me:
        os._exit(1)  # a copy that the function has forked
    os.write(writing, json.dumps({"word": word, "ok": ok, "reason": reason[:_REASON_LENGTH]}).encode())


def _answered(reading: int, word: str) -> bytes:
    os.set_blocking(reading, False)
    try:
        found = json.loads(os.read(reading, _MOST_ANSWER))
        if found.pop("word") == word:
            return json.dumps(found).encode()
    except (ValueError, KeyError, TypeError, AttributeError, BlockingIOError):
        return b""
    return b""


def _function(name: str, digest: str) -> Any:
    """The function, made from exactly the bytes that were hashed."""
    module_name, _, function = name.partition(":")
    spec = importlib.util.find_spec(module_name)
    if spec is None or not spec.origin or not spec.origin.endswith(".py"):
        raise SystemExit(f"no module {module_name!r} with a source file")
    with open(spec.origin, "rb") as file:
        source = file.read()
    found = "sha256:" + hashlib.sha256(source).hexdigest()
    if found != digest:
        raise SystemExit(f"the source of {module_name} is {found}, the policy names {digest}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    exec(compile(source, spec.origin, "exec"), module.__dict__)
    return getattr(module, function)


def _verdict(answer: Any) -> tuple[bool, str]:
    ok, reason = answer if isinstance(answer, tuple) and len(answer) == 2 else (answer, "")
    if not isinstance(ok, bool) or not isinstance(reason, str):
        raise SystemExit(f"the function answered {str(answer)[:100]!r}; a bool or (bool, reason) is needed")
    return ok, reason


if __name__ == "__main__":
    main()
