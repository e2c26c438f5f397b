"""Looking features up for a request, as they were known at the request's own moment.

The lookup is a chain: views of the request's entity first, which yield the join keys of the others (a flight
leads to its origin, carrier, destination and aircraft). All views whose keys are known are read together, in one
round trip to the store. Views computed on request follow as soon as their columns are known. What a row's state
means is said in `states`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt

from rayplat.data.features import FeatureView, Field, OnRequestView, View
from rayplat.data.online import catalog
from rayplat.data.online.field_view import FieldReader
from rayplat.data.online.on_request import compute, request_columns
from rayplat.data.online.states import EXPIRED, PRESENT
from rayplat.data.online.store import open_store
from rayplat.data.online.values import Key, columns_of, key_bytes, normal_key
from rayplat.data.online.window_view import WindowReader
from rayplat.errors import InvalidInput
from rayplat.settings import Settings

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True)
class OnlineRows:
    """One entry per key. ``columns``: float64 arrays (NaN = missing; truth values 0 and 1, times in microseconds) or
    lists of strings (None = missing). ``found`` is false where no view of the entity knew the key at the moment.
    ``status`` has a state per view and key (`states`). ``values`` are the same features as plain values: whole
    numbers of 64 bits exact, NaN and null (None) apart, times in microseconds."""

    columns: dict[str, npt.NDArray[np.float64] | list[str | None]]
    found: npt.NDArray[np.bool_]
    status: dict[str, list[str]]
    values: dict[str, list[Any]] = field(default_factory=dict)


class OnlineFeatures:
    """Lookup of ``views`` (name to definition digest) for keys of ``entity`` (its join keys). Blocks for a millisecond
    or so; safe to call from several threads.

    Raises `NotFound` for a view that is not applied and `Conflict` for one of which only other definitions are:
    values of another meaning are never handed out. `Unavailable` while the store does not answer.
    """

    def __init__(self, settings: Settings, views: Mapping[str, str], entity: str | Sequence[str]) -> None:
        self._store = open_store(settings.online_store)
        self._keys = (entity,) if isinstance(entity, str) else tuple(entity)
        declared = [catalog.get(self._store, name, digest).view() for name, digest in views.items()]
        self._stages = _stages(declared, self._keys)
        self._dtypes = _dtypes(declared, self._keys)
        self._features = [column for view in declared for column in view.columns]
        self._key_dtypes = [self._dtypes[name] for name in self._keys]

    @property
    def inputs(self) -> tuple[Field, ...]:
        """The columns that a request carries besides the keys, for views computed on request."""
        views = (view for stage in self._stages for view in stage.on_request)
        return tuple({field.name: field for view in views for field in view.inputs}.values())

    @property
    def request_columns(self) -> dict[str, str]:
        """Name and type of `inputs`."""
        return {field.name: field.dtype for field in self.inputs}

    def read(
        self,
        keys: Sequence[Key],
        at: Sequence[datetime] | datetime | None = None,
        request: Mapping[str, Sequence[Any]] | None = None,
    ) -> OnlineRows:
        """Features of ``keys`` as of ``at``: one moment for all, one per key, or now.

        A key is a string or an integer, for an entity of several join keys a tuple of them; an integer may be given
        as text. ``request`` holds the columns of views computed on request, one value per key. Raises `InvalidInput`
        for a key or column of the wrong type; a key nobody knows is no error.
        """
        moments = _moments(at, len(keys))
        whole = [normal_key(key, self._keys, self._key_dtypes) or (None,) * len(self._keys) for key in keys]
        columns: dict[str, list[Any]] = dict(zip(self._keys, columns_of(whole, len(self._keys)), strict=True))
        columns |= request_columns(self.inputs, request, len(keys))
        status: dict[str, list[str]] = {}
        for stage in self._stages:
            self._read(stage, columns, moments, status)
            for view in stage.on_request:
                columns |= compute(view, columns, self._dtypes, len(keys))
                status[view.name] = [PRESENT] * len(keys)
        typed = {c.name: _typed(c.dtype, columns[c.name]) for c in self._features}
        values = {c.name: columns[c.name] for c in self._features}
        return OnlineRows(typed, self._found(status, len(keys)), status, values)

    def _read(
        self, stage: _Stage, columns: dict[str, list[Any]], moments: Sequence[int], status: dict[str, list[str]]
    ) -> None:
        encoded: dict[tuple[str, ...], list[bytes | None]] = {}
        for view in stage.stored:
            if view.keys not in encoded:
                encoded[view.keys] = _encoded([columns[name] for name in view.keys], view.entity.dtypes)
        fields = [(view, reader, encoded[view.keys]) for view, reader in stage.fields]
        windows = [(view, reader, encoded[view.keys]) for view, reader in stage.windows]
        asked = [reader.ask(keys) for _, reader, keys in fields]
        tiles = [reader.ask(keys, moments) for _, reader, keys in windows]
        found, found_tiles = self._store.read(asked, [ask for of_view in tiles for ask in of_view.tiles])
        answers = iter(found_tiles)
        for (view, reader, keys), rows in zip(fields, found, strict=True):
            status[view.name], values = reader.answer(rows, keys, moments)
            columns |= dict(zip(view.feature_names, values, strict=True))
        for (view, window_reader, _), of_view in zip(windows, tiles, strict=True):
            answered = [next(answers) for _ in of_view.tiles]
            status[view.name], values = window_reader.answer(of_view, answered)
            columns |= dict(zip(view.feature_names, values, strict=True))

    def _found(self, status: Mapping[str, list[str]], rows: int) -> npt.NDArray[np.bool_]:
        own = [v.name for stage in self._stages for v in stage.stored if v.keys == self._keys]
        known = [[state in (PRESENT, EXPIRED) for state in status[name]] for name in own]
        return np.any(known, axis=0) if known else np.ones(rows, np.bool_)


@dataclass(frozen=True)
class _Stage:
    """Views that are read together, and the on-request views that follow from them."""

    stored: tuple[FeatureView, ...]
    on_request: tuple[OnRequestView, ...]
    fields: tuple[tuple[FeatureView, FieldReader], ...]
    windows: tuple[tuple[FeatureView, WindowReader], ...]

    @staticmethod
    def of(stored: Sequence[FeatureView], on_request: Sequence[OnRequestView]) -> _Stage:
        return _Stage(
            tuple(stored),
            tuple(on_request),
            tuple((view, FieldReader(view)) for view in stored if view.fields),
            tuple((view, WindowReader(view)) for view in stored if view.windows),
        )


def _stages(views: Sequence[View], keys: tuple[str, ...]) -> list[_Stage]:
    known, inputs = set(keys), {f.name for v in views if isinstance(v, OnRequestView) for f in v.inputs}
    stages, waiting = [], list(views)
    while waiting:
        stored = [v for v in waiting if isinstance(v, FeatureView) and known.issuperset(v.keys)]
        known |= {name for view in stored for name in view.feature_names}
        computed: list[OnRequestView] = []
        for view in waiting:
            if isinstance(view, OnRequestView) and (known | inputs).issuperset(view.needs):
                computed.append(view)
                known |= set(view.feature_names)
        if not stored and not computed:
            needed = {name for v in waiting for name in (v.keys if isinstance(v, FeatureView) else v.needs)}
            missing = ", ".join(sorted(needed - known))
            raise InvalidInput("views", f"nothing leads from {', '.join(map(repr, keys))} to {missing}")
        stages.append(_Stage.of(stored, computed))
        waiting = [view for view in waiting if view not in stored and view not in computed]
    return stages


def _dtypes(views: Sequence[View], keys: tuple[str, ...]) -> dict[str, str]:
    """Types of all columns: keys are strings where no view says otherwise."""
    found = dict.fromkeys(keys, "string")
    for view in views:
        if isinstance(view, FeatureView):
            found |= dict(zip(view.keys, view.entity.dtypes, strict=True))
        else:
            found |= {field.name: field.dtype for field in view.inputs}
    return found | {column.name: column.dtype for view in views for column in view.columns}


def _encoded(columns: Sequence[Sequence[Any]], dtypes: Sequence[str]) -> list[bytes | None]:
    """Rows of key parts as the store's bytes; None where a part is missing."""
    if len(columns) == 1 and dtypes[0] == "string":
        return [None if part is None else part.encode(errors="surrogatepass") for part in columns[0]]
    return [None if None in parts else key_bytes(parts) for parts in zip(*columns, strict=True)]


def _moments(at: Sequence[datetime] | datetime | None, rows: int) -> list[int]:
    if at is None:
        at = datetime.now(UTC)
    if isinstance(at, datetime):
        return [micros_of(at)] * rows
    if len(at) != rows:
        raise InvalidInput("at", f"{len(at)} moments for {rows} keys")
    return [micros_of(moment) for moment in at]


def micros_of(moment: datetime) -> int:
    """Microseconds since the epoch; a time without a zone is UTC."""
    return ((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - _EPOCH) // _MICROSECOND


def _typed(dtype: str, values: list[Any]) -> npt.NDArray[np.float64] | list[str | None]:
    if dtype == "string":
        return values
    return np.array(values, np.float64)  # None becomes NaN
