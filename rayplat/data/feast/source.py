"""What names a Delta table to Feast: as a data source, as the place of a saved dataset, as the place of feature logs.

Feast keeps these three in its registry and makes them anew from there, so they hold names and numbers only. Where
the named table is and with which options it is opened is the offline store's configuration (`rows`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

from feast.credentials import TAG_PREFIX, ConnectionRef
from feast.data_source import DataSource
from feast.feature_logging import LoggingDestination
from feast.protos.feast.core.DataSource_pb2 import DataSource as DataSourceProto
from feast.protos.feast.core.FeatureService_pb2 import LoggingConfig as LoggingConfigProto
from feast.protos.feast.core.SavedDataset_pb2 import SavedDatasetStorage as SavedDatasetStorageProto
from feast.repo_config import RepoConfig
from feast.saved_dataset import _DATA_SOURCE_TO_SAVED_DATASET_STORAGE, SavedDatasetStorage
from feast.type_map import pa_to_feast_value_type
from feast.value_type import ValueType

from rayplat.errors import InvalidInput, SchemaMismatch

_CLASS = "rayplat.data.feast.source.DeltaSource"


class DeltaSource(DataSource):
    """A Delta table as a source of features.

    Name it by ``table`` (below the offline store's ``tables_uri``) or by ``uri`` (a folder, absolute or relative to
    the feature repository, or ``s3://...``). ``version`` pins it; without one each retrieval reads the version that
    is the latest when it is asked for. ``storage`` names a set of options in the offline store's ``storages``
    (endpoints and keys stay out of the registry). ``timestamp_field`` is needed for every source of a view.
    """

    def __init__(
        self,
        *,
        table: str | None = None,
        uri: str | None = None,
        version: int | None = None,
        storage: str | None = None,
        timestamp_field: str | None = None,
        created_timestamp_column: str | None = None,
        name: str | None = None,
        **described: Any,
    ) -> None:
        """``described``: ``field_mapping``, ``date_partition_column``, ``description``, ``tags``, ``owner``,
        ``connection_ref`` as in every Feast source. Raises `InvalidInput` unless one of ``table`` and ``uri`` is
        given."""
        if bool(table) == bool(uri):
            raise InvalidInput("DeltaSource", "give either table=... or uri=...")
        if version is not None and version < 0:
            raise InvalidInput("DeltaSource", f"version {version} is negative; leave it out for the latest")
        self.table, self.uri, self.version, self.storage = table, uri, version, storage
        super().__init__(
            name=name or table or str(uri),
            timestamp_field=timestamp_field,
            created_timestamp_column=created_timestamp_column,
            **described,
        )

    def source_type(self) -> Any:
        return DataSourceProto.CUSTOM_SOURCE

    def __hash__(self) -> int:
        return hash((self.name, self.timestamp_field))

    def __eq__(self, other: object) -> bool:
        same = isinstance(other, DeltaSource) and super().__eq__(other)  # type: ignore[no-untyped-call]
        return bool(same) and isinstance(other, DeltaSource) and self._place() == other._place()

    @staticmethod
    def from_proto(data_source: Any) -> DeltaSource:
        place = json.loads(data_source.custom_options.configuration)
        tags = dict(data_source.tags)
        return DeltaSource(
            **place,
            name=data_source.name,
            timestamp_field=data_source.timestamp_field,
            created_timestamp_column=data_source.created_timestamp_column,
            field_mapping=dict(data_source.field_mapping),
            date_partition_column=data_source.date_partition_column,
            description=data_source.description,
            tags={name: value for name, value in tags.items() if not name.startswith(TAG_PREFIX)},
            owner=data_source.owner,
            connection_ref=ConnectionRef.from_tags(tags),
        )

    def _to_proto_impl(self) -> Any:
        return DataSourceProto(
            name=self.name,
            type=DataSourceProto.CUSTOM_SOURCE,
            data_source_class_type=_CLASS,
            custom_options=_options(self._place()),
            timestamp_field=self.timestamp_field,
            created_timestamp_column=self.created_timestamp_column,
            field_mapping=self.field_mapping,
            date_partition_column=self.date_partition_column,
            description=self.description,
            tags=self.tags,
            owner=self.owner,
        )

    def validate(self, config: RepoConfig) -> None:
        """Raises `NotFound` for the table or version, `SchemaMismatch` for a column that is not there and
        `InvalidInput` where there is no timestamp field."""
        found = dict(self.get_table_column_names_and_types(config))
        if not self.timestamp_field:
            raise InvalidInput(f"DeltaSource {self.name}", "timestamp_field is not given")
        named = [self.timestamp_field, self.created_timestamp_column, self.date_partition_column]
        renamed = {new: old for old, new in self.field_mapping.items()}
        for column in [*(renamed.get(name, name) for name in named if name), *self.field_mapping]:
            if column not in found:
                raise SchemaMismatch(column, f"{self.name} has no such column; it has {', '.join(found)}")

    @staticmethod
    def source_datatype_to_feast_value_type() -> Callable[[str], ValueType]:
        return pa_to_feast_value_type

    def get_table_column_names_and_types(self, config: RepoConfig) -> Iterable[tuple[str, str]]:
        from rayplat.data.feast import rows

        return rows.column_types(config, self)

    def get_table_query_string(self) -> str:
        """The table's name in an entity query (`SELECT ... FROM <name>`)."""
        return f'"{self.table or self.uri}"'

    def _place(self) -> dict[str, Any]:
        return {"table": self.table, "uri": self.uri, "version": self.version, "storage": self.storage}


class SavedDatasetDeltaStorage(SavedDatasetStorage):
    """A saved dataset as a Delta table; saving again with ``allow_overwrite`` makes a new version."""

    _proto_attr_name = "custom_storage"

    def __init__(self, *, table: str | None = None, uri: str | None = None, storage: str | None = None) -> None:
        self._source = DeltaSource(table=table, uri=uri, storage=storage)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SavedDatasetDeltaStorage) and self._source._place() == other._source._place()

    def __hash__(self) -> int:
        return hash(self._source.name)

    @staticmethod
    def from_proto(storage_proto: Any) -> SavedDatasetDeltaStorage:
        place = json.loads(storage_proto.custom_storage.configuration)
        return SavedDatasetDeltaStorage(**{name: place[name] for name in ("table", "uri", "storage")})

    def to_proto(self) -> Any:
        found: SavedDatasetStorageProto = self._custom_storage_proto(_options(self._source._place()))
        return found

    def to_data_source(self) -> DeltaSource:
        return self._source

    @staticmethod
    def from_data_source(data_source: DataSource) -> SavedDatasetDeltaStorage:
        if not isinstance(data_source, DeltaSource):
            raise InvalidInput("data_source", f"a DeltaSource is needed, not {type(data_source).__name__}")
        return SavedDatasetDeltaStorage(table=data_source.table, uri=data_source.uri, storage=data_source.storage)


class DeltaLoggingDestination(LoggingDestination):
    """Feature logs as a Delta table, appended to by `write_logged_features`; made when the first log is written."""

    _proto_kind = "rayplat_delta"

    def __init__(self, *, table: str | None = None, uri: str | None = None, storage: str | None = None) -> None:
        self._source = DeltaSource(table=table, uri=uri, storage=storage)

    @classmethod
    def from_proto(cls, config_proto: Any) -> DeltaLoggingDestination:
        return cls(**dict(config_proto.custom_destination.config))

    def to_proto(self) -> Any:
        config = {name: value for name, value in self._source._place().items() if value is not None}
        custom = LoggingConfigProto.CustomDestination(kind=self._proto_kind, config=config)
        return LoggingConfigProto(custom_destination=custom)

    def to_data_source(self) -> DeltaSource:
        return self._source


def _options(place: dict[str, Any]) -> Any:
    return DataSourceProto.CustomSourceOptions(configuration=json.dumps(place).encode())


# Feast finds the storage class of a source by the source's class name, in this table and nowhere else.
_DATA_SOURCE_TO_SAVED_DATASET_STORAGE["DeltaSource"] = f"{__name__}.SavedDatasetDeltaStorage"
