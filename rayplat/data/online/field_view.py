"""Reading a view of plain fields: what to ask the store for, and what its rows say at the moments asked for."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from rayplat.data.features import FeatureView
from rayplat.data.online.states import EXPIRED, FUTURE, MISSING, PRESENT
from rayplat.data.online.store import Found, RowsOf
from rayplat.data.online.values import columns_of, decode

_MICROSECOND = timedelta(microseconds=1)


class FieldReader:
    """One version of a view of fields."""

    def __init__(self, view: FeatureView) -> None:
        self._id = view.id
        self._width = len(view.fields)
        self._ttl_us = None if view.ttl is None else view.ttl // _MICROSECOND
        self._nothing = [field.default for field in view.fields]
        self._defaults = [(i, field.default) for i, field in enumerate(view.fields) if field.default is not None]

    def ask(self, keys: Sequence[bytes | None]) -> RowsOf:
        return RowsOf(self._id, list(dict.fromkeys(key for key in keys if key is not None)))

    def answer(
        self, found: Found, keys: Sequence[bytes | None], moments: Sequence[int]
    ) -> tuple[list[str], list[list[Any]]]:
        """The state of each key at its moment (microseconds), and the values by column."""
        states, rows = [], []
        decoded: dict[bytes, list[Any]] = {}
        for key, at in zip(keys, moments, strict=True):
            row = found.get(key) if key is not None else None
            state = MISSING if row is None or key is None else self._state(row[0], at)
            states.append(state)
            if state != PRESENT or row is None or key is None:
                rows.append(self._nothing)
                continue
            values = decoded.get(key)
            if values is None:
                values = decoded[key] = self._values(row[1])
            rows.append(values)
        return states, columns_of(rows, self._width)

    def _values(self, data: bytes) -> list[Any]:
        values = decode(data)
        for i, default in self._defaults:
            if values[i] is None:
                values[i] = default
        return values

    def _state(self, event_us: int, at_us: int) -> str:
        if event_us > at_us:
            return FUTURE
        return PRESENT if self._ttl_us is None or at_us - event_us <= self._ttl_us else EXPIRED
