from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from rayplat.errors import Conflict, InvalidInput, Unavailable
from rayplat.platform import processes, state


def spawn(mark: str, tmp_path: Path, code: str = "import time; time.sleep(600)") -> int:
    env = {**os.environ, processes.MARK: mark}
    return processes.spawn([sys.executable, "-c", code], env, tmp_path / "log").pid


def test_ends_exactly_the_marked_processes_and_their_children(tmp_path: Path) -> None:
    sleep = "import time; time.sleep(600)"
    child = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {sleep!r}]); {sleep}"
    mine = spawn("mark-a", tmp_path, child)
    other = spawn("mark-b", tmp_path)
    try:
        assert processes.wait_until(lambda: len(processes.marked("mark-a")) == 2, 20)
        assert processes.alive(mine, "mark-a")
        assert not processes.alive(other, "mark-a")
        assert processes.end_marked("mark-a") == 2
        assert processes.marked("mark-a") == []
        assert processes.alive(other, "mark-b")
    finally:
        assert processes.end_marked("mark-b") == 1


def test_a_process_that_ignores_the_signal_is_killed(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    code = f"""
import pathlib, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
pathlib.Path({str(ready)!r}).touch()
time.sleep(600)
"""
    spawn("mark-c", tmp_path, code)
    assert processes.wait_until(ready.exists, 20)
    processes.end_marked("mark-c", grace_s=0.3)
    assert processes.marked("mark-c") == []


def test_the_next_free_port_is_taken_when_the_usual_one_is_in_use() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert not processes.is_free(port)
        assert processes.free_port(port) > port


def test_state_round_trip_and_damage(tmp_path: Path) -> None:
    assert state.read(tmp_path) is None
    with pytest.raises(Unavailable, match="rayplat up"):
        state.require(tmp_path)
    kept = state.new_state().with_(ray_address="127.0.0.1:1", serve_url="http://127.0.0.1:2")
    state.write(tmp_path, kept)
    assert state.read(tmp_path) == kept == state.require(tmp_path)
    state.path(tmp_path).write_text('{"mark": 1, "unknown": 2}')
    with pytest.raises(InvalidInput, match=r"platform\.json"):
        state.read(tmp_path)


def test_one_up_at_a_time(tmp_path: Path) -> None:
    with state.locked(tmp_path, "rayplat up"):
        code = f"""
from pathlib import Path
from rayplat.platform import state
with state.locked(Path({str(tmp_path)!r}), "rayplat up"):
    pass
"""
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert "another `rayplat up`" in done.stderr
        with pytest.raises(Conflict), state.locked(tmp_path, "rayplat down"):
            pass


def test_home_that_cannot_be_written(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(InvalidInput, match="cannot be written"):
        state.prepare_home(blocked / "home")


def test_secrets_are_for_their_owner_only(tmp_path: Path) -> None:
    file = state.secret_file(tmp_path / "token", "secret\n")
    assert file.stat().st_mode & 0o777 == 0o600


def test_processes_of_a_home_are_found_without_its_mark(tmp_path: Path) -> None:
    env = {**os.environ, processes.MARK: "lost", "RAYPLAT_HOME": str(tmp_path)}
    pid = processes.spawn([sys.executable, "-c", "import time; time.sleep(600)"], env, tmp_path / "log").pid
    try:
        assert processes.wait_until(lambda: [p.pid for p in processes.of_home(tmp_path)] == [pid], 20)
        assert processes.of_home(tmp_path / "other") == []
    finally:
        assert processes.end_marked("lost") == 1
