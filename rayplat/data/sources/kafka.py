"""Kafka topics as a source, through Ray Data's reader: one task per partition. Knows offsets and how messages are
decoded; nothing of tables.

The watermark is the next offset of each partition. A reading ends at the offsets that were the latest when it began,
so what it holds does not change while it runs. Messages that Kafka deleted before they were read are an error that
names them, not a gap that nobody sees.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from rayplat.data.sources.source import Watermark, require_package
from rayplat.data.sources.typed import as_text, fit
from rayplat.errors import Conflict, InvalidInput, NotFound, SchemaMismatch, Unavailable

if TYPE_CHECKING:
    from ray.data import Dataset

_TIMEOUT_S = 10
_ORIGIN = pa.schema(
    [
        pa.field("kafka_topic", pa.string()),
        pa.field("kafka_partition", pa.int32()),
        pa.field("kafka_offset", pa.int64()),
        pa.field("kafka_time", pa.timestamp("us", "UTC")),
    ]
)
_RAW = pa.schema([pa.field("key", pa.binary()), pa.field("value", pa.binary())])
Offsets = dict[str, dict[int, int]]


@dataclass(frozen=True)
class KafkaSource:
    """Messages of ``topics``. ``format`` ``json``: the value is one object with the fields ``columns``; ``raw``: key
    and value as bytes. Beside them each row has ``kafka_topic``, ``kafka_partition``, ``kafka_offset`` and
    ``kafka_time``. ``consumer_config`` are options of librdkafka (security, …)."""

    name: str
    topics: tuple[str, ...]
    bootstrap_servers: str
    format: Literal["json", "raw"] = "json"
    columns: pa.Schema | None = None
    consumer_config: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if not self.topics or isinstance(self.topics, str):
            raise InvalidInput("topics", f"source {self.name}: give a tuple of topics")
        if self.format not in ("json", "raw") or (self.format == "json") != (self.columns is not None):
            raise InvalidInput("format", f"source {self.name}: 'json' with columns, or 'raw' without")
        for one in self.columns if self.columns is not None else ():
            if one.name in _ORIGIN.names:
                raise InvalidInput("columns", f"{one.name!r} is a column that every Kafka source has")

    def schema(self) -> pa.Schema:
        """The fields of the messages and where each came from."""
        return pa.schema([*(self.columns if self.columns is not None else _RAW), *_ORIGIN])

    def read(
        self,
        after: Watermark | None,
        declared: pa.Schema | None,  # noqa: ARG002 - its columns are declared
    ) -> tuple[pa.Table | Dataset, Watermark]:
        """The messages from the offsets of ``after`` (None: the earliest) to the latest now. Raises `InvalidInput`
        naming the package that is missing, `NotFound` for a topic, `Conflict` for messages that are gone,
        `SchemaMismatch` for one that cannot be decoded."""
        require_package("confluent_kafka", "confluent-kafka", f"source {self.name}")
        import ray.data

        start, end = self._ends(None if after is None else _known(after))
        mark = {"offsets": {t: {str(p): n for p, n in sorted(parts.items())} for t, parts in sorted(end.items())}}
        if start == end:
            return self.schema().empty_table(), mark
        config = dict(self.consumer_config) or None
        messages = ray.data.read_kafka(
            list(self.topics),
            bootstrap_servers=self.bootstrap_servers,
            start_offset=start,  # type: ignore[arg-type]  # invariance of dict
            end_offset=end,  # type: ignore[arg-type]
            consumer_config=config,
        )
        rows: Dataset = messages.map_batches(self._rows, batch_format="pyarrow", batch_size=10_000)
        return rows, mark

    def _ends(self, after: Offsets | None) -> tuple[Offsets, Offsets]:
        """Where to begin and where to end, by topic and partition."""
        from confluent_kafka import Consumer, KafkaException, TopicPartition

        servers = {"bootstrap.servers": self.bootstrap_servers, "group.id": f"rayplat-{self.name}"}
        consumer = Consumer({**self.consumer_config, **servers})
        start: Offsets = {}
        end: Offsets = {}
        try:
            for topic in self.topics:
                found = consumer.list_topics(topic, timeout=_TIMEOUT_S).topics[topic]
                if found.error is not None or not found.partitions:
                    raise NotFound("topic", topic, f"source {self.name} reads it from {self.bootstrap_servers}")
                for part in found.partitions:
                    low, high = consumer.get_watermark_offsets(TopicPartition(topic, part), timeout=_TIMEOUT_S)
                    first = (after or {}).get(topic, {}).get(part, low)
                    self._check(topic, part, first, (low, high))
                    start.setdefault(topic, {})[part], end.setdefault(topic, {})[part] = first, high
        except KafkaException as e:
            raise Unavailable(f"source {self.name}", f"{self.bootstrap_servers}: {e}") from e
        finally:
            consumer.close()
        return start, end

    def _check(self, topic: str, part: int, first: int, kept: tuple[int, int]) -> None:
        where = f"partition {part} of topic {topic!r}"
        if first < kept[0]:
            raise Conflict(
                f"offsets {first} to {kept[0] - 1} of {where} are gone from Kafka, unread by source {self.name}; "
                "ingest under a new source name to go on without them"
            )
        if first > kept[1]:
            raise Conflict(
                f"{where} ends at {kept[1]}, before {first}, read earlier: it was made anew; rename the source"
            )

    def _rows(self, messages: pa.Table) -> pa.Table:
        time = pc.multiply(messages["timestamp"].cast(pa.int64()), 1000).cast(pa.timestamp("us", "UTC"))
        origin = [messages["topic"], messages["partition"], messages["offset"], time]
        values = messages.select(["key", "value"]) if self.columns is None else self._decoded(messages, self.columns)
        table = pa.table([*values.columns, *origin], names=[*values.column_names, *_ORIGIN.names])
        return table.cast(self.schema())

    def _decoded(self, messages: pa.Table, columns: pa.Schema) -> pa.Table:
        """One row per message; a message without a value (a tombstone) is a row of nulls."""
        rows, known = [], as_text(columns)
        for at, value in enumerate(messages["value"].to_pylist()):
            try:
                found = {} if value is None else json.loads(value)
                rows.append({name: found.get(name) for name in columns.names})
            except (ValueError, AttributeError) as e:
                raise SchemaMismatch("value", f"{_place(messages, at)} is no JSON object: {e}") from e
        arrays = []
        for one in known:
            values = [row[one.name] for row in rows]
            try:
                arrays.append(pa.array(values, one.type))
            except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as e:
                at = next(i for i, v in enumerate(values) if not _is(v, one.type))
                raise SchemaMismatch(one.name, f"{_place(messages, at)} holds {values[at]!r}: {e}") from e
        return fit(pa.table(arrays, known), columns, f"source {self.name}")


def _place(messages: pa.Table, at: int) -> str:
    topic, part, offset = (messages[c][at].as_py() for c in ("topic", "partition", "offset"))
    return f"the message at {topic}/{part}/{offset}"


def _is(value: Any, dtype: pa.DataType) -> bool:
    try:
        pa.array([value], dtype)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        return False
    return True


def _known(mark: Watermark) -> Offsets:
    if "offsets" not in mark:
        raise Conflict(f"the watermark {dict(mark)} is not one of Kafka; another kind of source has this name")
    return {t: {int(p): int(n) for p, n in parts.items()} for t, parts in mark["offsets"].items()}
