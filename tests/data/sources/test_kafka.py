"""Kafka on a recorded client: offsets, decoding, and messages that are gone."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from ray.data._internal.datasource.kafka_datasource import KAFKA_MSG_SCHEMA

from rayplat.data.sources import KafkaSource
from rayplat.errors import Conflict, InvalidInput, NotFound, SchemaMismatch, Unavailable
from tests.data.sources.readers import Rows, install, replace_reader

COLUMNS = pa.schema([("n", pa.int64()), ("at", pa.timestamp("us", "UTC"))])
MILLISECOND = 1_714_557_600_123


class Broker:
    """Topics of partitions of messages; the first ``gone`` of a partition were deleted."""

    def __init__(self) -> None:
        self.topics: dict[str, dict[int, list[bytes | None]]] = {"a": {0: [], 1: []}}
        self.gone: dict[tuple[str, int], int] = {}
        self.configs: list[dict[str, Any]] = []

    def messages(self, given: dict[str, Any]) -> pa.Table:
        rows = []
        for topic, starts in given["start_offset"].items():
            for part, start in starts.items():
                for offset in range(start, given["end_offset"][topic][part]):
                    value = self.topics[topic][part][offset]
                    rows.append((offset, b"k", value, topic, part, MILLISECOND, 1, []))
        columns = zip(*rows, strict=True) if rows else [[]] * len(KAFKA_MSG_SCHEMA)
        return pa.table([pa.array(c, f.type) for c, f in zip(columns, KAFKA_MSG_SCHEMA, strict=True)], KAFKA_MSG_SCHEMA)


class KafkaException(Exception):
    pass


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Broker:
    found = Broker()

    class Consumer:
        def __init__(self, config: dict[str, Any]) -> None:
            found.configs.append(config)

        def list_topics(self, topic: str, timeout: float) -> Any:
            if not found.topics:
                raise KafkaException("no broker")
            known = found.topics.get(topic)
            about = SimpleNamespace(error=None if known else "unknown", partitions=dict.fromkeys(known or ()))
            return SimpleNamespace(topics={topic: about})

        def get_watermark_offsets(self, part: tuple[str, int], timeout: float) -> tuple[int, int]:
            return found.gone.get(part, 0), len(found.topics[part[0]][part[1]])

        def close(self) -> None:
            found.configs.append({"closed": True})

    def partition(topic: str, part: int) -> tuple[str, int]:
        return topic, part

    install(monkeypatch, "confluent_kafka", Consumer=Consumer, TopicPartition=partition, KafkaException=KafkaException)
    replace_reader(monkeypatch, "read_kafka", found.messages)
    return found


def read(source: KafkaSource, after: Any = None) -> tuple[list[dict[str, Any]], Any]:
    rows, mark = source.read(after, None)
    table = rows.table if isinstance(rows, Rows) else rows
    assert table.schema == source.schema()
    return table.to_pylist(), json.loads(json.dumps(mark))


def test_offsets_go_on_where_they_ended(broker: Broker) -> None:
    source = KafkaSource("k", ("a",), "host:9092", columns=COLUMNS, consumer_config={"security.protocol": "ssl"})
    broker.topics["a"][0] += [b'{"n": 1, "at": "2024-05-01T10:00:00Z", "more": 1}', None]
    rows, mark = read(source)
    origin = {"kafka_topic": "a", "kafka_partition": 0}
    time = datetime(2024, 5, 1, 10, 0, 0, 123000, tzinfo=UTC)
    assert rows == [
        {"n": 1, "at": datetime(2024, 5, 1, 10, tzinfo=UTC), **origin, "kafka_offset": 0, "kafka_time": time},
        {"n": None, "at": None, **origin, "kafka_offset": 1, "kafka_time": time},
    ]
    assert mark == {"offsets": {"a": {"0": 2, "1": 0}}}
    assert read(source, mark) == ([], mark)
    broker.topics["a"][1].append(b'{"n": 2}')
    broker.topics["a"][2] = [b'{"n": 3}']  # a new partition begins at its start
    rows, mark = read(source, mark)
    assert sorted(row["n"] for row in rows) == [2, 3]
    assert mark == {"offsets": {"a": {"0": 2, "1": 1, "2": 1}}}
    assert broker.configs[0]["bootstrap.servers"] == "host:9092"
    assert broker.configs[0]["security.protocol"] == "ssl"
    assert {"closed": True} in broker.configs


def test_raw_messages(broker: Broker) -> None:
    broker.topics["a"][0].append(b"\xff")
    rows, _ = read(KafkaSource("k", ("a",), "host:9092", format="raw"))
    assert (rows[0]["key"], rows[0]["value"]) == (b"k", b"\xff")


def test_what_is_gone_or_anew_is_named(broker: Broker) -> None:
    source = KafkaSource("k", ("a",), "host:9092", columns=COLUMNS)
    broker.topics["a"][0] += [b"{}"] * 9
    broker.gone["a", 0] = 5
    assert len(read(source)[0]) == 4  # the first reading takes what there is
    with pytest.raises(Conflict, match="offsets 2 to 4 of partition 0 of topic 'a' are gone"):
        source.read({"offsets": {"a": {"0": 2}}}, None)
    with pytest.raises(Conflict, match="ends at 9, before 12, read earlier: it was made anew"):
        source.read({"offsets": {"a": {"0": 12}}}, None)


def test_messages_that_cannot_be_decoded_are_named(broker: Broker) -> None:
    source = KafkaSource("k", ("a",), "host:9092", columns=COLUMNS)
    broker.topics["a"][0] += [b'{"n": 1}', b"oops"]
    with pytest.raises(SchemaMismatch, match="value: the message at a/0/1 is no JSON object"):
        source.read(None, None)
    broker.topics["a"][0][1] = b'{"n": "two"}'
    with pytest.raises(SchemaMismatch, match="n: the message at a/0/1 holds 'two'"):
        source.read(None, None)


def test_refusals(broker: Broker) -> None:
    with pytest.raises(NotFound, match="topic 'b'"):
        KafkaSource("k", ("b",), "host:9092", format="raw").read(None, None)
    with pytest.raises(Conflict, match="another kind of source"):
        KafkaSource("k", ("a",), "host:9092", format="raw").read({"value": 1}, None)
    with pytest.raises(InvalidInput, match="tuple of topics"):
        KafkaSource("k", (), "host:9092", format="raw")
    with pytest.raises(InvalidInput, match="'json' with columns, or 'raw' without"):
        KafkaSource("k", ("a",), "host:9092")
    with pytest.raises(InvalidInput, match="kafka_offset"):
        KafkaSource("k", ("a",), "host:9092", columns=pa.schema([("kafka_offset", pa.int64())]))
    broker.topics.clear()
    with pytest.raises(Unavailable, match="host:9092: no broker"):
        KafkaSource("k", ("a",), "host:9092", format="raw").read(None, None)


def test_what_to_install() -> None:
    with pytest.raises(InvalidInput, match="pip install confluent-kafka"):
        KafkaSource("k", ("a",), "host:9092", format="raw").read(None, None)
