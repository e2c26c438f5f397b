"""The process in which one gate of one's own runs: checks the source, runs the function, writes the verdict.

Reads a request from its standard input, writes ``{"ok", "reason"}`` to its standard output; whatever the function
prints goes to the standard error instead.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import signal
import sys
from typing import Any


def main() -> None:
    """Run what standard input asks for."""
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    request = json.load(sys.stdin)
    signal.setitimer(signal.ITIMER_REAL, request["timeout_s"])  # its default action ends the process
    ok, reason = _verdict(_function(request["function"], request["digest"])(request["evidence"]))
    json.dump({"ok": ok, "reason": reason}, answer)
    answer.close()


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
