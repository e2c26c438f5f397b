"""Feast's online store on ours: plugged into Feast by its dotted path, loaded by Feast only.

It keeps what Feast's own stores do not: an older event never replaces a newer one (ties by created time),
microseconds of the event time stay, a row older than its view's ttl is not given out, and a key's features are one
row, on SQLite, Redis and PostgreSQL alike. A view declared here (its tags say so) shares its rows with
`rayplat.data.online`; its windows are answered as of now. Any other view of Feast keeps its values by name.
"""

from __future__ import annotations

import base64
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from feast import Entity, FeatureView, RepoConfig
from feast.infra.online_stores.online_store import OnlineStore
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.repo_config import FeastConfigBaseModel
from feast.types import PrimitiveFeastType

from rayplat.data import features, online
from rayplat.data.online import catalog
from rayplat.data.online.store import NO_CREATED, Batch, Row, RowsOf
from rayplat.data.online.values import decode, encode, key_bytes
from rayplat.errors import InvalidInput

DIGEST_TAG = "rayplat.digest"
DECLARATION_TAG = "rayplat.declaration"

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_SECOND_US = 1_000_000
_PLAIN = ("string_val", "int64_val", "int32_val", "double_val", "float_val", "bool_val")
_KINDS: dict[Any, str] = {
    PrimitiveFeastType.STRING: "string_val",
    PrimitiveFeastType.INT64: "int64_val",
    PrimitiveFeastType.INT32: "int32_val",
    PrimitiveFeastType.FLOAT64: "double_val",
    PrimitiveFeastType.FLOAT32: "float_val",
    PrimitiveFeastType.BOOL: "bool_val",
    PrimitiveFeastType.UNIX_TIMESTAMP: "unix_timestamp_val",
}

Answer = tuple[datetime | None, dict[str, Value] | None]


class NewestOnlineStoreConfig(FeastConfigBaseModel):
    """``path`` is the store: a file (relative to the repository) or a URL, ``sqlite:///``, ``redis://`` or
    ``postgresql://``."""

    type: Literal["rayplat.data.feast.online_store.NewestOnlineStore"] = (
        "rayplat.data.feast.online_store.NewestOnlineStore"
    )
    path: str = "data/online_store.db"


class NewestOnlineStore(OnlineStore):
    """Newest event wins; see the module's description."""

    _opened: online.OnlineStore | None = None

    def online_write_batch(
        self,
        config: RepoConfig,
        table: FeatureView,
        data: list[tuple[EntityKey, dict[str, Value], datetime, datetime | None]],
        progress: Callable[[int], Any] | None,
    ) -> None:
        view = _View.of(config, table)
        if view.declared is not None and view.declared.windows:
            raise InvalidInput(
                table.name, "its windows are kept as tiles: push its source events with `rayplat features push`"
            )
        self.store(config).write(view.id, Batch([view.row(*given) for given in data]))
        if progress:
            progress(len(data))

    def online_read(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKey],
        requested_features: list[str] | None = None,
    ) -> list[Answer]:
        view = _View.of(config, table)
        keys = [view.key(key) for key in entity_keys]
        now = (datetime.now(UTC) - _EPOCH) // _MICROSECOND
        fields = {field.name: field.dtype for field in table.features}
        wanted = [name for name in requested_features or fields if name in fields]
        store = self.store(config)
        if view.declared is not None and view.declared.windows:
            found = _windows(store, view.declared, keys, now)
        else:
            stored = store.read([RowsOf(view.id, list(dict.fromkeys(keys)))])[0][0]
            oldest = now - table.ttl // _MICROSECOND if table.ttl else NO_CREATED
            found = {key: (at, view.named(data)) for key, (at, data) in stored.items() if at >= oldest}
        return [_answer(found.get(key), wanted, fields) for key in keys]

    def update(
        self,
        config: RepoConfig,
        tables_to_delete: Sequence[FeatureView],
        tables_to_keep: Sequence[FeatureView],
        entities_to_delete: Sequence[Entity],  # noqa: ARG002 (Feast's signature)
        entities_to_keep: Sequence[Entity],  # noqa: ARG002
        partial: bool,  # noqa: ARG002
    ) -> None:
        store = self.store(config)
        for table in tables_to_keep:
            view = _View.of(config, table)
            if view.declared is not None:
                catalog.declare(store, catalog.Definition.of(view.declared))
        self.teardown(config, tables_to_delete, [])

    def teardown(self, config: RepoConfig, tables: Sequence[FeatureView], entities: Sequence[Entity]) -> None:  # noqa: ARG002
        store = self.store(config)
        for table in tables:
            view = _View.of(config, table)
            if view.declared is not None:
                catalog.forget(store, catalog.Definition.of(view.declared))
            else:
                store.drop(view.id)

    def store(self, config: RepoConfig) -> online.OnlineStore:
        """The store that holds the rows; opened once."""
        if self._opened is None:
            path = config.online_store.path
            if "://" not in path and config.repo_path is not None:
                path = str(Path(config.repo_path) / path)
            self._opened = online.open_store(path)
        return self._opened


class _View:
    """How the rows of one of Feast's views lie in the store."""

    def __init__(self, name: str, declared: features.FeatureView | None) -> None:
        self.declared = declared
        self.id = name if declared is None else declared.id
        self._columns = None if declared is None else declared.feature_names

    @staticmethod
    def of(config: RepoConfig, table: FeatureView) -> _View:
        declaration = (table.tags or {}).get(DECLARATION_TAG)
        return _View(f"{config.project}/{table.name}@feast", None if declaration is None else _declared(declaration))

    def key(self, key: EntityKey) -> bytes:
        values = dict(zip(key.join_keys, (_plain(value) for value in key.entity_values), strict=True))
        names = sorted(values) if self.declared is None else self.declared.keys
        return key_bytes(tuple(values.get(name) for name in names))

    def row(self, key: EntityKey, values: Mapping[str, Value], event_time: datetime, created: datetime | None) -> Row:
        created_us = NO_CREATED if created is None else _micros(created)
        if self._columns is None:
            data = json.dumps({name: _plain(value) for name, value in values.items()}).encode()
        else:
            data = encode([_plain(values.get(column)) for column in self._columns])
        return self.key(key), _micros(event_time), created_us, data

    def named(self, data: bytes) -> Mapping[str, Any]:
        if self._columns is None:
            found: dict[str, Any] = json.loads(data)
            return found
        assert self.declared is not None
        named: dict[str, Any] = dict(zip(self._columns, decode(data), strict=True))
        return named | {name: d for name, d in self.declared.defaults.items() if named[name] is None}


@functools.lru_cache(maxsize=1024)
def _declared(declaration: str) -> features.FeatureView | None:
    view = features.view_from_dict(json.loads(declaration))
    return view if isinstance(view, features.FeatureView) else None


def _windows(
    store: online.OnlineStore, view: features.FeatureView, keys: Sequence[bytes], now: int
) -> dict[bytes, tuple[int, Mapping[str, Any]]]:
    """The windows of each key as of now, as in training: without events an empty window's values (a count of 0)."""
    from rayplat.data.online.window_view import read_windows

    states, columns = read_windows(store, view, keys, [now] * len(keys))
    rows = zip(keys, states, zip(*columns, strict=True), strict=True)
    return {
        key: (now, dict(zip(view.feature_names, values, strict=True)))
        for key, state, values in rows
        if state != online.UNKEPT
    }


def _answer(found: tuple[int, Mapping[str, Any]] | None, wanted: Sequence[str], dtypes: Mapping[str, Any]) -> Answer:
    if found is None:
        return None, None
    event_us, values = found
    given = {name: _value(_KINDS.get(dtypes[name]), values[name]) for name in wanted if name in values}
    return _EPOCH + event_us * _MICROSECOND, given


def _plain(value: Value | None) -> Any:
    """A value as JSON holds it: times in microseconds, lists and bytes as Feast's own message."""
    kind = value.WhichOneof("val") if value is not None else None
    if value is None or kind is None:
        return None
    if kind == "unix_timestamp_val":
        return value.unix_timestamp_val * _SECOND_US
    if kind in _PLAIN:
        return getattr(value, kind)
    return {"message": base64.b64encode(value.SerializeToString()).decode()}


def _value(kind: str | None, plain: Any) -> Value:
    if plain is None:
        return Value()
    if isinstance(plain, dict):
        found: Value = Value.FromString(base64.b64decode(plain["message"]))
        return found
    if kind == "unix_timestamp_val":
        return Value(unix_timestamp_val=plain // _SECOND_US)
    natural = {bool: "bool_val", int: "int64_val", float: "double_val"}.get(type(plain), "string_val")
    try:
        return Value(**{kind or natural: plain})
    except (TypeError, ValueError):  # the feature's type was changed after the row was written
        return Value(**{natural: plain})


def _micros(moment: datetime) -> int:
    return ((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - _EPOCH) // _MICROSECOND
