from __future__ import annotations

import hashlib
import resource
import sys
import time
from pathlib import Path

import pytest

from rayplat.registry.gates import custom
from rayplat.types import GateSpec, Verdict
from tests.registry.gates.cases import GOOD

pytestmark = pytest.mark.services  # each gate runs in processes of its own

SOURCE = """
import json, os, signal, subprocess, sys, time

def fine(evidence):
    print("noise on standard output")
    return evidence["candidate"]["auc"] > 0.7, f"{evidence['rows']} rows"

def no(evidence):
    return False

def raises(evidence):
    raise ValueError("no such column")

def hangs(evidence):
    time.sleep(600)

def nonsense(evidence):
    return "yes"

def one(evidence):
    return 1

def dies(evidence):
    os._exit(3)

def floods(evidence):
    for _ in range(200):
        os.write(2, b"x" * (1 << 20))
    return False


def quits(evidence):
    os._exit(0)

def forges(evidence):
    os.write(1, b'{"ok": true, "reason": ""}')
    os._exit(0)

def forges_all(evidence):
    for fd in os.listdir("/proc/self/fd"):
        try:
            os.write(int(fd), b'{"ok": true, "reason": "", "word": ""}')
        except OSError:
            pass
    os._exit(0)

def forks(evidence):
    return True if os.fork() == 0 else (os.wait(), False)[1]

def deaf(evidence):
    for one in (signal.SIGALRM, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(one, signal.SIG_IGN)
    while True:
        time.sleep(1)

def leaves(evidence):
    note = os.environ["PYTHONPATH"].split(os.pathsep)[0] + "/left"
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            for fd in (0, 1, 2):
                os.close(fd)
            open(note, "w").write(str(os.getpid()))
            time.sleep(600)
        os._exit(0)
    os.wait()
    while not os.path.exists(note) or not open(note).read():
        time.sleep(0.01)
    return True

def leaves_and_hangs(evidence):
    leaves(evidence)
    time.sleep(600)

def peeks(evidence):
    return "SECRET" in os.environ
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "own_gates.py"
    file.write_text(SOURCE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("SECRET", "postgresql://")
    return file


def ask(module: Path, function: str, timeout_s: float = 20.0, digest: str = "") -> tuple[bool, str]:
    found = digest or "sha256:" + hashlib.sha256(module.read_bytes()).hexdigest()
    params = {"function": f"own_gates:{function}", "digest": found, "timeout_s": timeout_s}
    (result,) = custom.run((GateSpec("metric_floor"), GateSpec("custom", params)), GOOD)
    assert (result.gate, result.stage) == ("custom", "evaluate")
    return result.verdict is Verdict.PASS, result.reason


def test_a_function_of_ones_own_decides_on_the_evidence(module: Path) -> None:
    assert ask(module, "fine") == (True, "own_gates:fine: 50000 rows")
    assert ask(module, "no") == (False, "own_gates:no says no")


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("raises", "ValueError: no such column"),
        ("nonsense", "the function answered 'yes'"),
        ("one", "the function answered '1'"),
        ("dies", "ended with 3"),
        ("quits", "gave no verdict"),
        ("forges", "gave no verdict"),
        ("forges_all", "gave no verdict"),
        ("forks", "says no"),
        ("absent", "has no attribute 'absent'"),
        ("peeks", "says no"),
    ],
)
def test_one_that_raises_dies_or_talks_nonsense_has_failed(module: Path, function: str, said: str) -> None:
    ok, reason = ask(module, function)
    assert not ok
    assert said in reason


def test_one_that_writes_without_end_takes_no_memory(module: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert ask(module, "floods") == (False, "own_gates:floods says no")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10  # KiB, of 200 MiB written


def test_one_that_hangs_is_ended(module: Path) -> None:
    began = time.monotonic()
    assert ask(module, "hangs", timeout_s=0.3) == (False, "own_gates:hangs did not answer within 0.3 s")
    assert time.monotonic() - began < 10


def test_one_that_hears_no_signal_is_ended_in_time(module: Path) -> None:
    ask(module, "no")
    began = time.monotonic()
    ask(module, "no")
    start_s = time.monotonic() - began
    began = time.monotonic()
    assert ask(module, "deaf", timeout_s=0.5) == (False, "own_gates:deaf did not answer within 0.5 s")
    assert time.monotonic() - began < start_s + 1.5


@pytest.mark.parametrize(("function", "ok"), [("leaves", True), ("leaves_and_hangs", False)])
def test_nothing_that_it_started_stays_whatever_session_it_is_in(module: Path, function: str, ok: bool) -> None:
    assert ask(module, function, timeout_s=20.0 if ok else 2.5)[0] is ok
    left = Path(sys.path[0]) / "left"
    assert left.parent == module.parent
    assert not Path(f"/proc/{left.read_text()}").exists()


def test_one_whose_source_was_changed_has_failed(module: Path) -> None:
    before = "sha256:" + hashlib.sha256(module.read_bytes()).hexdigest()
    module.write_text(SOURCE.replace("> 0.7", "> 0.0"))
    ok, reason = ask(module, "fine", digest=before)
    assert not ok
    assert f"the policy names {before}" in reason
    module.unlink()
    sys.modules.pop("own_gates", None)
    assert "no module 'own_gates'" in ask(module.parent / ".." / __file__, "fine", digest=before)[1]
