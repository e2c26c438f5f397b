"""Durability ``spool``: what a request was answered with is on disk, and a killed host's rows are delivered once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rayplat.errors import InvalidInput, Unavailable
from rayplat.serve.log import schema as log_schema
from rayplat.serve.log import segments, spool
from rayplat.serve.log.spool import Orphan, SpoolBuffer, orphans
from rayplat.serve.log.tap import InferenceTap
from rayplat.settings import LogSettings
from rayplat.types import Logging
from tests.serve.log.test_tap import Still, ids
from tests.serve.log_fakes import FakeSink, record

SPOOL = Logging(durability="spool")


def still(sink: FakeSink, root: Path, **settings: Any) -> InferenceTap:
    return Still(sink, LogSettings(**settings), "r", SPOOL, root)


def left(root: Path) -> list[str] | None:
    """What lies under ``root``; None while it is being removed."""
    try:
        return sorted(path.name for path in root.rglob("*"))
    except FileNotFoundError:
        return None


def salvaged(root: Path) -> list[tuple[int, list[str]]]:
    """What every orphan under ``root`` holds; nothing is taken away."""
    found = []
    for orphan in orphans(root):
        for seq in orphan.numbers():
            rows = log_schema.decode(orphan.batch(seq).stream)
            found.append((seq, rows.column("request_id").to_pylist()))
        os.close(orphan._held.descriptor)
    return found


def until(condition: Any, timeout_s: float = 5.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def die(t: InferenceTap) -> None:
    """As a killed process leaves its spool: the lock is gone, the files are not."""
    buffer = t._buffer
    assert isinstance(buffer, SpoolBuffer)
    os.close(buffer._held.descriptor)


def test_rows_are_on_disk_when_record_returns_and_gone_when_they_are_committed(tmp_path: Path) -> None:
    sink = FakeSink(prompt=False)
    t = still(sink, tmp_path)
    t.record(record("a"))
    assert b"a" in next(tmp_path.rglob("*.rows")).read_bytes()
    t.step()
    t.record(record("b", 2))
    t.step()
    assert ids(sink.sent) == [["a"], ["b", "b"]]
    assert t.stats() == {"recorded": 3, "committed": 0, "dropped": 0, "waiting": 3}
    sink.finish()
    t.step()
    assert len(list(tmp_path.rglob("*.rows"))) == 1  # the one that is written to
    assert t.stats()["committed"] == 3


def test_a_clean_stop_leaves_nothing_behind(tmp_path: Path) -> None:
    sink = FakeSink()
    t = InferenceTap(sink, LogSettings(flush_s=0.01), "r", SPOOL, tmp_path)
    for i in range(100):
        t.record(record(str(i)))
    assert t.close(5)
    assert [name for batch in ids(sink.sent) for name in batch] == [str(i) for i in range(100)]
    assert left(tmp_path) == []
    assert sink.heard[-1] == (t.epoch, {"recorded": 100, "committed": 100, "dropped": 0, "waiting": 0}, True)


def test_a_stop_without_a_writer_keeps_the_rows_for_whoever_comes_next(tmp_path: Path) -> None:
    sink = FakeSink(prompt=False)
    t = still(sink, tmp_path)
    for name in "abc":
        t.record(record(name))
        t.step()
    assert not t.close(0.05)
    assert salvaged(tmp_path) == [(0, ["a"]), (1, ["b"]), (2, ["c"])]


def test_a_living_hosts_spool_is_nobody_elses(tmp_path: Path) -> None:
    t = still(FakeSink(), tmp_path)
    t.record(record("a"))
    assert list(orphans(tmp_path)) == []
    die(t)
    assert salvaged(tmp_path) == [(0, ["a"])]


def test_an_orphan_has_one_heir(tmp_path: Path) -> None:
    t = still(FakeSink(), tmp_path)
    t.record(record("a"))
    die(t)
    first = list(orphans(tmp_path))
    assert [orphan.epoch for orphan in first] == [t.epoch]
    assert list(orphans(tmp_path)) == []
    first[0].release()  # it could not be delivered: the next one may
    (again,) = orphans(tmp_path)
    again.delivered(0)
    again.release()
    assert left(tmp_path) == []


def test_a_row_that_was_cut_off_in_the_middle_is_left_out_and_the_ones_before_it_are_not(tmp_path: Path) -> None:
    t = still(FakeSink(), tmp_path)
    for name in "ab":
        t.record(record(name))
    file = next(tmp_path.rglob("*.rows"))
    whole = file.read_bytes()
    die(t)
    after_a = len(segments.header("r")) + len(segments.frame(record("a")))
    for cut in (len(whole) - 1, after_a + 3, after_a):
        file.write_bytes(whole[:cut])
        assert salvaged(tmp_path) == [(0, ["a"])]
    file.write_bytes(whole[: after_a + 12] + b"\xff" + whole[after_a + 13 :])
    assert salvaged(tmp_path) == [(0, ["a"])]


def test_a_file_that_cannot_be_read_is_set_aside_and_its_number_is_used(tmp_path: Path) -> None:
    t = still(FakeSink(prompt=False), tmp_path)
    for name in "ab":
        t.record(record(name))
        t.step()
    die(t)
    sorted(tmp_path.rglob("*.rows"))[0].write_bytes(b"nonsense")
    sink = FakeSink()
    assert spool.deliver_orphans(tmp_path, sink) == 1
    assert [(epoch, seq) for epoch, seq, _ in sink.sent] == [(t.epoch, 0), (t.epoch, 1), (t.epoch, 2)]
    assert ids(sink.sent) == [[], ["b"], []]
    assert left(tmp_path) == [f"{t.epoch}.0.unreadable"]


def test_rows_come_back_as_they_were_given(tmp_path: Path) -> None:
    given = [
        record("a", 3, inputs={"x": np.array([1, np.nan, -2]), "n": np.arange(3, dtype="i4"), "c": ["u", None, "ü"]}),
        record("b", 20, inputs={"x": np.arange(20, dtype="f4"), "image": np.zeros((20, 8, 8))}, entity=[("k", 1)] * 20),
        record("c", outputs=None, status=503, role="shadow", variant="challenger"),
        record("d", outputs={"label": ["late"], "scores": np.array([[0.25, 0.75]])}),
        record("e", inputs={"temp": np.array([5.0]), "secret": ["s"]}, redact=frozenset({"secret", "entity"})),
        record("g", outputs={"p": np.array([0.5]), "q": np.array([0.25])}, redact=frozenset({"p"})),
        record("f", inputs={"flag": np.array([True]), "odd": [np.float64(2.0)]}),
    ]  # fmt: skip
    t = still(FakeSink(prompt=False), tmp_path)
    for one in given:
        t.record(one)
    die(t)
    (orphan,) = orphans(tmp_path)
    assert log_schema.decode(orphan.batch(0).stream).equals(log_schema.decode(log_schema.encode(given, "r")))
    assert t.stats()["dropped"] == 0


def test_redacted_values_never_touch_the_disk(tmp_path: Path) -> None:
    t = still(FakeSink(), tmp_path)
    secret = {"inputs": {"name": ["Ms Secret"]}, "outputs": {"echo": ["Ms Secret"]}, "entity": ["Ms Secret"]}
    t.record(record("a", redact=frozenset({"name", "echo", "entity"}), **secret))
    assert b"Secret" not in next(tmp_path.rglob("*.rows")).read_bytes()


def test_a_full_disk_costs_rows_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = FakeSink(prompt=False)
    t = still(sink, tmp_path)
    t.record(record("a"))
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[:5]))
    t.record(record("cut off"))
    monkeypatch.setattr(os, "write", lambda fd, data: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    t.record(record("refused", 2))
    monkeypatch.setattr(os, "write", real)
    t.record(record("b"))
    assert t.stats() == {"recorded": 5, "committed": 0, "dropped": 3, "waiting": 2}
    die(t)
    assert salvaged(tmp_path) == [(0, ["a", "b"])]


def test_a_spool_is_bounded_and_takes_rows_again_once_it_is_emptied(tmp_path: Path) -> None:
    sink = FakeSink(prompt=False)
    size = len(segments.frame(record("0")))
    t = still(sink, tmp_path, spool_bytes=3 * size)
    for i in range(5):
        t.record(record(str(i)))
    assert t.stats()["dropped"] == 2
    t.step()
    sink.finish()
    t.step()
    t.record(record("5"))
    t.step()
    assert ids(sink.sent) == [["0", "1", "2"], ["5"]]


def test_what_memory_has_no_room_for_is_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "BATCH_ROWS", 2)
    sink = FakeSink(prompt=False)
    t = still(sink, tmp_path, buffer_rows=3)
    for i in range(10):
        t.record(record(str(i)))
    for _ in range(6):
        t.step()
        sink.finish()
    t.step()
    assert [name for batch in ids(sink.sent) for name in batch] == [str(i) for i in range(10)]
    assert [seq for _, seq, _ in sink.sent] == [0, 1, 2, 3, 4]
    assert t.stats() == {"recorded": 10, "committed": 10, "dropped": 0, "waiting": 0}


def test_only_the_sample_is_spooled(tmp_path: Path) -> None:
    sink = FakeSink()
    tenth = Logging(sample=0.1, durability="spool")
    t = InferenceTap(sink, LogSettings(flush_s=0.01), "r", tenth, tmp_path)
    for i in range(2000):
        t.record(record(str(i)))
    assert t.close(5)
    memory = InferenceTap(FakeSink(), LogSettings(flush_s=0.01), "r", Logging(sample=0.1))
    for i in range(2000):
        memory.record(record(str(i)))
    assert memory.close(5)
    assert t.stats() == memory.stats()
    assert 150 < t.stats()["recorded"] < 250


def test_a_folder_that_cannot_be_written_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable, match="cannot be written"):
        InferenceTap(FakeSink(), LogSettings(), "r", SPOOL, tmp_path / "file")
    with pytest.raises(InvalidInput, match="needs a folder"):
        InferenceTap(FakeSink(), LogSettings(), "r", SPOOL)


_HOST = """
import sys
from pathlib import Path
from rayplat.serve.log.tap import InferenceTap
from rayplat.settings import LogSettings
from rayplat.types import Logging
from tests.serve.log_fakes import FakeSink, record
t = InferenceTap(FakeSink(prompt=False), LogSettings(flush_s=0.01), "r", Logging(durability="spool"), Path(sys.argv[1]))
n = 0
while True:
    t.record(record(str(n)))
    print(n, flush=True)  # the answer
    n += 1
"""


def test_a_killed_host_loses_no_row_that_it_answered(tmp_path: Path) -> None:
    host = subprocess.Popen([sys.executable, "-c", _HOST, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert host.stdout is not None
    answered = [host.stdout.readline() for _ in range(2000)]
    host.send_signal(signal.SIGKILL)
    answered += host.stdout.readlines()
    host.wait()
    complete = [int(line) for line in answered if line.endswith("\n")]
    found = [int(name) for _, names in salvaged(tmp_path) for name in names]
    assert len(set(found)) == len(found)
    assert set(complete) <= set(found)
    assert len(found) - len(complete) <= 1  # the one that was being answered


def test_an_orphan_that_the_writer_does_not_take_waits_for_the_next_heir(tmp_path: Path) -> None:
    class Away(FakeSink):
        def write(self, batch: bytes, epoch: str, seq: int) -> Any:
            raise ConnectionError("no actor of that name")

    t = still(FakeSink(prompt=False), tmp_path)
    t.record(record("a"))
    die(t)
    assert spool.deliver_orphans(tmp_path, Away()) == 0
    sink = FakeSink()
    heir = InferenceTap(sink, LogSettings(flush_s=0.01), "r2", Logging(), tmp_path)
    until(lambda: left(tmp_path) == [])
    assert heir.close(5)
    assert ids(sink.sent) == [["a"]]
    assert sink.sent[0][0] == t.epoch


def test_orphans_of_a_folder_that_is_not_there(tmp_path: Path) -> None:
    found: list[Orphan] = list(orphans(tmp_path / "absent"))
    assert found == []
