"""The host's end of the inference log: never in the way, nothing lost that was not counted, nothing sent twice."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from rayplat.errors import InvalidInput
from rayplat.serve.log import schema as log_schema
from rayplat.serve.log import tap
from rayplat.serve.log.sampling import Sample
from rayplat.serve.log.schema import Record
from rayplat.serve.log.tap import InferenceTap
from rayplat.settings import LogSettings
from rayplat.types import Logging
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


def rows_of(*records: Record) -> list[dict[str, Any]]:
    return log_schema.decode(log_schema.encode(records, "r")).to_pylist()


def test_values_go_where_their_kind_is_logged() -> None:
    inputs = {
        "f": np.array([1.5, 2.5], np.float32),
        "i": np.array([[1], [2]], np.int64),
        "b": np.array([True, False]),
        "t": ["x", None],
        "when": np.array(["2026-01-02", "NaT"], "datetime64[D]"),
        "raw": [b"\x00", b"\x01"],
        "image": np.zeros((2, 4, 4)),
    }
    first, second = rows_of(record("a", 2, inputs=inputs))
    assert dict(first["numeric"]) == {"f": 1.5, "i": 1.0, "b": 1.0}
    assert dict(first["categorical"]) == {"t": "x", "when": "2026-01-02", "raw": None}
    assert dict(second["categorical"])["t"] is None


def test_answers_that_are_no_single_number() -> None:
    label = {"label": ["late", "early"], "scores": np.array([[0.75, np.nan], [0.5, 0.5]])}
    first, second = rows_of(record("a", 2, outputs=label))
    assert (first["prediction"], first["answer"]) == (None, '{"label":"late","scores":[0.75,null]}')
    assert second["answer"] == '{"label":"early","scores":[0.5,0.5]}'
    (both,) = rows_of(record("a", outputs={"p": np.array([[0.5]]), "q": np.array([2])}))
    assert (both["prediction"], both["answer"]) == (0.5, '{"q":2}')
    (large,) = rows_of(record("a", outputs={"embedding": np.zeros((1, 768))}))
    assert large["answer"] == '{"embedding":{"shape":[768]}}'
    (odd,) = rows_of(record("a", outputs={"found": [{"at": (1, float("inf")), "of": b"xy"}]}))
    assert odd["answer"] == '{"found":{"at":[1,null],"of":{"bytes":2}}}'


@pytest.mark.parametrize(
    "values",
    [
        [np.array([1, 2], np.uint8), np.array([2**63], np.uint64)],
        [np.array([1.5, np.nan, -np.inf]), np.array([0.1], np.float32)],
        [np.array([True, False])],
        [np.array([[0.1, 0.2], [np.nan, -1e-9]]), np.array([[3, 4]])],
        [np.zeros((2, 0)), np.zeros((1, 0))],
        [np.array([[1], [2]])],
        [np.array([[1, 2]]), np.array([[1, 2, 3]])],  # of different width, as models with free shapes answer
        [np.array([1.0]), np.array([[1.0, 2.0]])],
        [np.zeros((1, 2, 2)), np.ones((1, 2, 2))],
        [np.zeros((1, 500)), np.zeros((1, 2))],
    ],
)
def test_numbers_are_told_by_row_however_many_records_share_a_table(values: list[Any]) -> None:
    records = [
        record(str(i), len(part), outputs={"first": np.zeros((len(part), 2)), "ü": part, "n": np.arange(len(part))})
        for i, part in enumerate(values)
    ]
    apart = [json.loads(row["answer"]) for one in records for row in rows_of(one)]
    assert [json.loads(row["answer"]) for row in rows_of(*records)] == apart
    rows = [row for part in values for row in part]
    for found, row in zip(apart, rows, strict=True):
        if row.size <= 64:
            told = np.array(found["ü"], dtype=np.float64)
            assert np.array_equal(told, np.where(np.isfinite(row), row, np.nan), equal_nan=True)
        else:
            assert found["ü"] == {"shape": [500]}


def test_a_request_that_failed_has_its_status_and_no_answer() -> None:
    (row,) = rows_of(record("a", outputs=None, status=503, role="canary", variant="v7"))
    assert (row["prediction"], row["answer"], row["status"]) == (None, None, 503)
    assert (row["role"], row["variant"]) == ("canary", "v7")


def test_redacted_fields_say_so_and_hold_nothing() -> None:
    hidden = frozenset({"temp", "carrier", "p", "entity"})
    (row,) = rows_of(record("a", redact=hidden))
    assert dict(row["categorical"]) == {"temp": log_schema.REDACTED, "carrier": log_schema.REDACTED}
    assert (row["numeric"], row["prediction"], row["answer"], row["entity"]) == ([], None, None, None)
    (some,) = rows_of(record("a", redact=frozenset({"p"}), outputs={"p": np.array([1.0]), "q": ["x"]}))
    assert (some["prediction"], some["answer"]) == (None, '{"q":"x"}')


def test_one_bad_record_does_not_cost_the_others_theirs(sink: FakeSink) -> None:
    t = Still(sink, LogSettings(), "r")
    for name, outputs in (("a", [0.5]), ("bad", [0.5] * 7), ("b", [0.5])):
        t.record(record(name, outputs={"p": np.array(outputs)}))
    t.step()
    assert ids(sink.sent) == [["a", "b"]]
    assert t.stats() == {"recorded": 3, "committed": 0, "dropped": 1, "waiting": 2}


def test_a_key_of_several_columns_is_one_text() -> None:
    (row,) = rows_of(record("a", entity=[("EWR", 7)]))
    assert row["entity"] == '["EWR", "7"]'


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_sample_that_is_no_share_is_refused(share: float) -> None:
    with pytest.raises(InvalidInput, match=r"log\.sample"):
        InferenceTap(FakeSink(), LogSettings(), "r", Logging(sample=share))


def test_a_sample_is_the_same_everywhere_and_a_larger_one_holds_it() -> None:
    names = [f"request-{i}" for i in range(5000)]
    tenth, half = ({n for n in names if Sample(share).holds(n)} for share in (0.1, 0.5))
    assert tenth < half
    assert abs(len(tenth) - 500) < 5 * (5000 * 0.1 * 0.9) ** 0.5
    assert Sample(0.0).holds("request-1") is False
    assert next(n for n in names if n in tenth) == "request-2"  # for ever: a change would part shadows from primaries


def test_the_writer_hears_how_a_host_stands_and_when_it_ends(sink: FakeSink, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tap, "_REPORT_S", -1.0)
    t = Still(sink, LogSettings(), "r")
    t.record(record("a"))
    t.step()
    assert sink.heard == [(t.epoch, {"recorded": 1, "committed": 0, "dropped": 0, "waiting": 1}, False)]


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
