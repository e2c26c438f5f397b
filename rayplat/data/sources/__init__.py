"""Where the rows of tables come from: files, SQL databases, warehouses, Kafka; each incremental by a watermark."""

from rayplat.data.sources.declared import declared
from rayplat.data.sources.files import FileSource
from rayplat.data.sources.kafka import KafkaSource
from rayplat.data.sources.source import Source, ingest, watermark
from rayplat.data.sources.sql import SqlSource
from rayplat.data.sources.warehouses import BigQuerySource, SnowflakeSource

__all__ = [
    "BigQuerySource",
    "FileSource",
    "KafkaSource",
    "SnowflakeSource",
    "Source",
    "SqlSource",
    "declared",
    "ingest",
    "watermark",
]
