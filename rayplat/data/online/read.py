"""Looking features up for a request, as they were known at the request's own moment.

The lookup is a chain: views of the request's entity first, which yield the join keys of the others (a flight
leads to its origin, carrier, destination and aircraft). For each row and view there is a status:

``present``  the row was known at the moment and is not older than the view's ttl
``missing``  there is no row for the key, or no key
``expired``  the row is older than the ttl: its values are not used
``future``   the row's event is after the moment asked for: it was not known then and is not used
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt

from rayplat.data.features import FeatureView
from rayplat.data.online.sqlite import OnlineDatabase
from rayplat.errors import Conflict, InvalidInput
from rayplat.settings import Settings

PRESENT, MISSING, EXPIRED, FUTURE = "present", "missing", "expired", "future"

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True)
class OnlineRows:
    """One entry per key. ``columns``: float64 arrays (NaN = missing; truth values 0 and 1, times in microseconds) or
    lists of strings (None = missing). ``found`` is false where no view of the entity knew the key at the moment."""

    columns: dict[str, npt.NDArray[np.float64] | list[str | None]]
    found: npt.NDArray[np.bool_]
    status: dict[str, list[str]]


class OnlineFeatures:
    """Lookup of ``views`` (name to definition digest) for keys of ``entity`` (a join key). Blocks for a millisecond
    or so; safe to call from several threads.

    Raises `NotFound` for a view that is not applied and `Conflict` for one applied with another definition, on
    making and on reading: values of another meaning are never handed out.
    """

    def __init__(self, settings: Settings, views: Mapping[str, str], entity: str) -> None:
        self._database = OnlineDatabase(settings.online_store)
        self._digests = dict(views)
        self._entity = entity
        self._views = _in_lookup_order([self._declaration(name) for name in views], entity)

    def read(self, keys: Sequence[str], at: Sequence[datetime] | datetime | None = None) -> OnlineRows:
        """Features of ``keys`` as of ``at``: one moment for all, one per key, or now."""
        moments = _moments(at, len(keys))
        columns: dict[str, list[Any]] = {self._entity: list(keys)}
        status: dict[str, list[str]] = {}
        found = np.zeros(len(keys), np.bool_)
        for view in self._views:
            self._check(view.name)
            states, values = self._read(view, columns[view.entity.join_key], moments)
            status[view.name] = states
            columns |= dict(zip(view.feature_names, values, strict=True))
            if view.entity.join_key == self._entity:
                found |= np.array([state in (PRESENT, EXPIRED) for state in states], np.bool_)
        typed = {c.name: _typed(c.dtype, columns[c.name]) for view in self._views for c in view.columns}
        return OnlineRows(typed, found, status)

    def _read(
        self, view: FeatureView, keys: Sequence[str | None], moments: Sequence[int]
    ) -> tuple[list[str], list[list[Any]]]:
        rows = self._database.read(view.name, list({key for key in keys if key is not None}))
        ttl_us = None if view.ttl is None else view.ttl // _MICROSECOND
        nothing = [None] * len(view.feature_names)
        states, found = [], []
        for key, at in zip(keys, moments, strict=True):
            row = rows.get(key) if key is not None else None
            state = MISSING if row is None else _state(row[0], at, ttl_us)
            states.append(state)
            found.append(row[1] if row is not None and state == PRESENT else nothing)
        return states, [list(column) for column in zip(*found, strict=True)] if found else [[] for _ in nothing]

    def _declaration(self, name: str) -> FeatureView:
        self._check(name)
        text = self._database.get(name).declaration
        if text is None:
            raise Conflict(f"feature view {name!r} was not declared here")
        return FeatureView.from_dict(json.loads(text))

    def _check(self, name: str) -> None:
        stored, wanted = self._database.get(name).digest, self._digests[name]
        if stored != wanted:
            raise Conflict(
                f"feature view {name!r} online has the definition {stored[:19]}, the model was made with {wanted[:19]}"
            )


def _state(event_us: int, at_us: int, ttl_us: int | None) -> str:
    if event_us > at_us:
        return FUTURE
    return PRESENT if ttl_us is None or at_us - event_us <= ttl_us else EXPIRED


def _in_lookup_order(views: list[FeatureView], entity: str) -> list[FeatureView]:
    known, order, waiting = {entity}, [], views
    while waiting:
        ready = [view for view in waiting if view.entity.join_key in known]
        if not ready:
            missing = ", ".join(sorted({view.entity.join_key for view in waiting}))
            raise InvalidInput("views", f"nothing leads from {entity!r} to {missing}")
        order += ready
        known |= {name for view in ready for name in view.feature_names}
        waiting = [view for view in waiting if view not in ready]
    return order


def _moments(at: Sequence[datetime] | datetime | None, rows: int) -> list[int]:
    if at is None:
        at = datetime.now(UTC)
    if isinstance(at, datetime):
        return [_micros(at)] * rows
    if len(at) != rows:
        raise InvalidInput("at", f"{len(at)} moments for {rows} keys")
    return [_micros(moment) for moment in at]


def _micros(moment: datetime) -> int:
    return ((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - _EPOCH) // _MICROSECOND


def _typed(dtype: str, values: list[Any]) -> npt.NDArray[np.float64] | list[str | None]:
    if dtype == "string":
        return values
    return np.array([np.nan if value is None else value for value in values], np.float64)
