"""Which processes are the platform's, and what /proc says of their memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import measure
from measure import Process

ROLLUP = """55d0c0000000-7ffe00000000 ---p 00000000 00:00 0                          [rollup]
Rss:              123456 kB
Pss:               65432 kB
Pss_Dirty:           100 kB
Pss_Anon:            200 kB
Pss_File:            300 kB
"""


def test_pss_is_read_from_a_rollup() -> None:
    assert measure.parse_pss(ROLLUP) == 65432 * 1024
    assert measure.parse_pss("") == 0


def test_the_parent_follows_a_name_with_parentheses() -> None:
    assert measure.parse_parent("42 (ray::a) b) (c) S 7 42 42 0 -1") == 7


def test_members_are_the_marked_the_root_and_their_descendants() -> None:
    marked = b"A=1\0RAYPLAT_MARK=abc\0B=2\0"
    processes = [
        Process(1, 0, b""),
        Process(10, 1, b"PATH=x\0"),  # the demo
        Process(11, 10, b""),  # its child
        Process(20, 1, marked),  # a daemon of the platform
        Process(21, 20, b"garbage left by a changed title"),
        Process(22, 21, b""),
        Process(30, 1, b"RAYPLAT_MARK=abcd\0"),  # another platform
        Process(31, 1, b"X_RAYPLAT_MARK=abc\0"),
    ]
    assert measure.members(processes, "abc", 10) == {10, 11, 20, 21, 22}
    assert measure.members(processes, None, 10) == {10, 11}
    assert measure.members(processes, "gone", 99) == set()


def test_a_sample_sums_a_folder_like_proc(tmp_path: Path) -> None:
    for pid, parent in ((10, 1), (11, 10), (12, 1)):
        folder = tmp_path / str(pid)
        folder.mkdir()
        (folder / "stat").write_text(f"{pid} (x) S {parent} 0 0")
        (folder / "environ").write_bytes(b"")
        if pid != 11:  # one ends between the listing and the reading
            (folder / "smaps_rollup").write_text(ROLLUP)
    found = measure.sample(0.0, None, 10, tmp_path)
    assert (found.pss_bytes, found.processes) == (65432 * 1024, 1)


def test_a_real_child_is_found_by_its_mark() -> None:
    env = {**os.environ, "RAYPLAT_MARK": "0123feed"}
    code = "import sys; print('up', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"up\n"
        found = measure.sample(0.0, "0123feed", root=-1)
        assert found.processes == 1
        assert 1e6 < found.pss_bytes < 1e9
        child.communicate()
    assert measure.members(measure.processes(), "0123feed", root=-1) == set()
