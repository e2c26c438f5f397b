"""The host's end of the inference log: never in the way, nothing lost that was not counted, nothing sent twice."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from rayplat.errors import InvalidInput
from rayplat.serve import log_schema, tap
from rayplat.serve.tap import InferenceTap
from rayplat.settings import LogSettings
from tests.serve.log_fakes import FakeSink, record


class Still(InferenceTap):
    """A tap whose threads do nothing: tests call `step`."""

    def _run(self) -> None:
        return

    def _inherit(self, root: Path) -> None:
        return


@pytest.fixture
def sink() -> FakeSink:
    return FakeSink(prompt=False)


@pytest.fixture(autouse=True)
def _no_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tap, "_BACKOFF_S", 0.0)


def ids(sent: list[tuple[str, int, bytes]]) -> list[list[str]]:
    return [log_schema.decode(batch).column("request_id").to_pylist() for _, _, batch in sent]


def test_batches_are_numbered_and_at_most_two_are_on_their_way(sink: FakeSink) -> None:
    t = Still(sink, LogSettings(), "r")
    for name in "abc":
        t.record(record(name))
        t.step()
    assert [(epoch, seq) for epoch, seq, _ in sink.sent] == [(t.epoch, 0), (t.epoch, 1)]
    t.record(record("d"))
    sink.finish()
    t.step()
    assert ids(sink.sent) == [["a"], ["b"], ["c", "d"]]
    sink.finish()
    t.step()
    assert t.stats() == {"recorded": 4, "committed": 4, "dropped": 0, "waiting": 0}


def test_what_a_dead_writer_did_not_acknowledge_is_sent_again_under_the_same_number(sink: FakeSink) -> None:
    t = Still(sink, LogSettings(), "r")
    for name in "ab":
        t.record(record(name))
        t.step()
    sink.finish(RuntimeError("the actor died"))
    t.step()
    assert [seq for _, seq, _ in sink.sent] == [0, 1, 0, 1]
    assert ids(sink.sent) == [["a"], ["b"], ["a"], ["b"]]
    sink.finish()
    t.step()
    assert t.stats()["committed"] == 2


def test_a_writer_that_cannot_be_reached_loses_nothing(sink: FakeSink) -> None:
    def away(batch: bytes, epoch: str, seq: int) -> Any:
        raise ConnectionError("no actor of that name")

    t = Still(sink, LogSettings(), "r")
    original, sink.write = sink.write, away  # type: ignore[method-assign]
    t.record(record("a"))
    t.step()
    t.step()
    sink.write = original  # type: ignore[method-assign]
    t.step()
    sink.finish()
    t.step()
    assert (ids(sink.sent), t.stats()["committed"]) == ([["a"]], 1)


def test_a_silent_writer_is_asked_again(sink: FakeSink, monkeypatch: pytest.MonkeyPatch) -> None:
    t = Still(sink, LogSettings(), "r")
    t.record(record("a"))
    t.step()
    monkeypatch.setattr(tap, "_RESEND_S", -1.0)
    t.step()
    assert [seq for _, seq, _ in sink.sent] == [0, 0]


def test_rows_that_the_writer_refuses_are_dropped_and_counted(sink: FakeSink) -> None:
    t = Still(sink, LogSettings(), "r")
    t.record(record("a", rows=3))
    t.step()
    sink.finish(InvalidInput("batch", "columns differ"))
    t.step()
    assert t.stats() == {"recorded": 3, "committed": 0, "dropped": 3, "waiting": 0}


def test_a_full_buffer_drops_the_oldest_and_counts_them(sink: FakeSink) -> None:
    t = Still(sink, LogSettings(buffer_rows=5), "r")
    for i in range(10):
        t.record(record(str(i)))
    assert t.stats() == {"recorded": 10, "committed": 0, "dropped": 5, "waiting": 5}
    t.step()
    assert ids(sink.sent) == [["5", "6", "7", "8", "9"]]


def test_a_record_that_cannot_be_encoded_costs_only_itself(sink: FakeSink) -> None:
    t = Still(sink, LogSettings(), "r")
    t.record(record("bad", outputs={"p": np.zeros(7, np.float32)}))
    t.step()
    t.record(record("good"))
    t.step()
    assert ids(sink.sent) == [["good"]]
    assert t.stats()["dropped"] == 1


def test_flush_and_close_deliver_what_was_recorded() -> None:
    sink = FakeSink()
    t = InferenceTap(sink, LogSettings(flush_s=60), "r")
    t.record(record("a"))
    assert t.flush(5)
    t.record(record("b"))
    assert t.close(5)
    assert ids(sink.sent) == [["a"], ["b"]]


def test_flush_asks_the_writer_to_commit_and_gives_up_in_time(sink: FakeSink) -> None:
    t = InferenceTap(sink, LogSettings(), "r")
    t.record(record("a"))
    assert not t.flush(0.2)
    assert sink.flushes > 0
    sink.finish()
    assert t.close(5)


def test_every_row_arrives_once_while_the_thread_takes_what_the_loop_adds() -> None:
    sink = FakeSink()
    t = InferenceTap(sink, LogSettings(flush_s=0.0001), "r")
    for i in range(20_000):
        t.record(record(str(i)))
    assert t.close(20)
    assert [name for batch in ids(sink.sent) for name in batch] == [str(i) for i in range(20_000)]
    assert t.stats() == {"recorded": 20_000, "committed": 20_000, "dropped": 0, "waiting": 0}


def test_rows_as_the_log_has_them() -> None:
    batch = log_schema.encode(
        [
            record("a", 2, inputs={"temp": np.array([1.0, np.nan]), "carrier": ["UA", None]}),
            record("b", 1, entity=None, inputs={}, event_time=datetime(2013, 1, 1, tzinfo=UTC)),
        ],
        "replica-7",
    )
    table = log_schema.decode(batch)
    assert table.schema == log_schema.SCHEMA
    first, second, third = table.to_pylist()
    assert (first["row"], second["row"], third["row"]) == (0, 1, 0)
    assert dict(second["numeric"]) == {"temp": None}
    assert dict(second["categorical"]) == {"carrier": None}
    assert (third["entity"], third["numeric"], third["categorical"]) == (None, [], [])
    assert third["event_time"] == datetime(2013, 1, 1, tzinfo=UTC)
    assert third["replica"] == "replica-7"


@pytest.mark.parametrize("batch", [b"", b"nonsense"])
def test_bytes_that_are_no_rows_of_the_log(batch: bytes) -> None:
    with pytest.raises(ValueError, match="no Arrow stream"):
        log_schema.decode(batch)


def test_rows_of_another_table_are_refused() -> None:
    sink = pa.BufferOutputStream()
    table = pa.table({"x": [1]})
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(ValueError, match="columns are not those"):
        log_schema.decode(bytes(sink.getvalue()))
