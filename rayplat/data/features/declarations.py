"""Declarations of features: what is computed from which table, as values. They know no store, table or Ray.

A declaration is its own identity: `digest` is a sha256 over its canonical JSON and changes with anything that
changes a feature's meaning. The table of a view's rows carries the digest in its name, so a changed definition is a
new version with a table of its own, and what a model was trained on stays. Training sets, models and the online
store carry the digests and compare them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import Any

from rayplat.data.features.expressions import Expr
from rayplat.data.windows import TilePlan, Window
from rayplat.errors import InvalidInput
from rayplat.types import Column, FeatureViewInfo, check_name

DTYPES = ("int64", "double", "float", "string", "bool", "timestamp[us, tz=UTC]")
KEY_DTYPES = ("string", "int64")
EVENT_TIME, CREATED = "event_time", "created"

_TIMESTAMP = "timestamp[us, tz=UTC]"
_LONGEST_NAME = 63 - len("features_") - len("_") - 12

Default = bool | int | float | str | None


@dataclass(frozen=True, init=False)
class Entity:
    """What features describe. ``join_keys`` are the columns that together name one of them, ``dtypes`` their types
    (``string`` or ``int64``; all strings where none are given). One key may be given as a string."""

    name: str
    join_keys: tuple[str, ...]
    dtypes: tuple[str, ...]

    def __init__(self, name: str, join_keys: str | tuple[str, ...], dtypes: tuple[str, ...] = ()) -> None:
        keys = (join_keys,) if isinstance(join_keys, str) else tuple(join_keys)
        object.__setattr__(self, "name", check_name("entity", name))
        object.__setattr__(self, "join_keys", keys)
        object.__setattr__(self, "dtypes", tuple(dtypes) or ("string",) * len(keys))
        if not keys or len(set(keys)) != len(keys) or not all(keys):
            raise InvalidInput(f"entity {name}", f"join_keys must be distinct column names, got {keys}")
        if len(self.dtypes) != len(keys):
            raise InvalidInput(f"entity {name}", f"{len(self.dtypes)} dtypes for {len(keys)} join keys")
        for dtype in self.dtypes:
            _known_dtype(f"entity {name}", dtype, KEY_DTYPES)

    @property
    def join_key(self) -> str:
        """The only join key. Raises `InvalidInput` for an entity of several."""
        if len(self.join_keys) > 1:
            raise InvalidInput(f"entity {self.name}", f"is named by several columns: {', '.join(self.join_keys)}")
        return self.join_keys[0]

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "join_keys": list(self.join_keys), "dtypes": list(self.dtypes)}

    @staticmethod
    def from_dict(tree: Mapping[str, Any]) -> Entity:
        return Entity(tree["name"], tuple(tree["join_keys"]), tuple(tree["dtypes"]))


@dataclass(frozen=True)
class Field:
    """A column taken as it is. ``lookup`` marks one that only leads to other views and feeds no model. ``default``
    stands wherever the value would be missing (no row, too old, or null), in training and serving alike."""

    name: str
    dtype: str
    lookup: bool = False
    default: Default = None

    def __post_init__(self) -> None:
        _known_dtype(f"field {self.name}", self.dtype, DTYPES)
        fits = {"string": str, "bool": bool, "int64": int}.get(self.dtype, int | float)
        wrong = not isinstance(self.default, fits) or (fits is not bool and isinstance(self.default, bool))
        if self.default is not None and (wrong or self.dtype == _TIMESTAMP):
            raise InvalidInput(f"field {self.name}", f"default {self.default!r} is no {self.dtype}")

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "dtype": self.dtype, "lookup": self.lookup, "default": self.default}

    @staticmethod
    def from_dict(tree: Mapping[str, Any]) -> Field:
        return Field(tree["name"], tree["dtype"], tree["lookup"], tree["default"])


@dataclass(frozen=True)
class Derived:
    """A column computed from the row by ``expression``, then held as ``dtype``."""

    name: str
    expression: Expr
    dtype: str

    def __post_init__(self) -> None:
        _known_dtype(f"derived {self.name}", self.dtype, DTYPES)
        if not isinstance(self.expression, Expr):
            raise InvalidInput(f"derived {self.name}", f"{self.expression!r} is no expression; begin with col('…')")

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "expression": self.expression.to_dict(), "dtype": self.dtype}

    @staticmethod
    def from_dict(tree: Mapping[str, Any]) -> Derived:
        return Derived(tree["name"], Expr.from_dict(tree["expression"]), tree["dtype"])


@dataclass(frozen=True)
class FeatureView:
    """Features of one entity from one source table: plain ``fields`` or trailing ``windows``, not both.

    ``event_time`` is the source column that says since when a row was known; ``created`` one that breaks ties. Rows
    for which ``where`` is not true do not count. ``derived`` columns are computed from the source row first and may
    be used like its own by ``where``, fields, windows and each other in order. Values older than ``ttl`` at the
    moment of asking do not count (windows have their lengths instead). ``tile`` overrides the length of tiles.

    ``known_at`` maps source columns to the timestamp column that says when their value became known. A value that a
    row would use before that is the future: building the view refuses it.
    """

    name: str
    entity: Entity
    source: str
    event_time: str
    fields: tuple[Field, ...] = ()
    windows: tuple[Window, ...] = ()
    ttl: timedelta | None = None
    created: str | None = None
    where: Expr | None = None
    derived: tuple[Derived, ...] = ()
    tile: timedelta | None = None
    known_at: Mapping[str, str] | tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        check_name("feature view", self.name)
        object.__setattr__(self, "known_at", tuple(sorted(dict(self.known_at).items())))
        what = f"feature view {self.name}"
        if len(self.name) > _LONGEST_NAME:
            raise InvalidInput(
                what, f"the name is longer than {_LONGEST_NAME} characters, which its table's name needs"
            )
        if bool(self.fields) == bool(self.windows):
            raise InvalidInput(what, "declare either fields or windows")
        if self.ttl is not None and (self.windows or self.ttl < timedelta(0)):
            raise InvalidInput(what, "a ttl is not negative and belongs to fields; a window has its own length")
        if self.tile is not None and (not self.windows or self.tile <= timedelta(0)):
            raise InvalidInput(what, "a tile is a positive length and belongs to windows")
        check_distinct(what, self.feature_names, {*self.entity.join_keys, EVENT_TIME, CREATED})
        check_distinct(what, tuple(d.name for d in self.derived), set(self.entity.join_keys))
        self._refuse_wrong_columns(what)

    def _refuse_wrong_columns(self, what: str) -> None:
        """What can be seen without the source: the types of derived columns, and uses before they are computed."""
        later = {d.name: d for d in self.derived}
        for derived in self.derived:
            early = next((n for n in derived.expression.columns if n in later), None)
            if early is not None:
                raise InvalidInput(
                    what,
                    f"derived {derived.name!r} reads {early!r} before that is computed; put it later, named otherwise",
                )
            del later[derived.name]
        dtypes = {d.name: d.dtype for d in self.derived}
        for clock in (*self.clocks, *filter(None, [self.created])):
            if dtypes.get(clock, _TIMESTAMP) != _TIMESTAMP:
                raise InvalidInput(
                    what, f"{clock!r} says when something was known, so it must be a timestamp, not {dtypes[clock]}"
                )
        for window in self.windows:
            dtype = dtypes.get(window.column, "double")
            if dtype in ("string", _TIMESTAMP) and window.function in ("sum", "mean", "stddev"):
                raise InvalidInput(what, f"window {window.name!r} takes the {window.function} of a {dtype}")
        if self.windows:
            _ = self.plan

    @cached_property
    def plan(self) -> TilePlan:
        """How the windows are cut into tiles. Raises `InvalidInput` for a view of fields."""
        return TilePlan(self.keys, self.event_time, self.windows, self.tile)

    @property
    def id(self) -> str:
        """The name with a short digest: unlike the name, it never means another definition."""
        return f"{self.name}@{short(self.digest())}"

    @property
    def table(self) -> str:
        """The Delta table of the built rows (join keys, ``event_time``, ``created`` if any, features) or tiles."""
        return f"features_{self.name}_{short(self.digest())}"

    @property
    def keys(self) -> tuple[str, ...]:
        return self.entity.join_keys

    @property
    def clocks(self) -> tuple[str, ...]:
        """The columns that say when the view's values are known: ``event_time``, and those of windows."""
        own = [window.event_time or self.event_time for window in self.windows]
        return tuple(dict.fromkeys(own or [self.event_time]))

    @property
    def feature_names(self) -> tuple[str, ...]:
        return tuple(f.name for f in self.fields) + tuple(w.name for w in self.windows)

    @property
    def columns(self) -> tuple[Column, ...]:
        """The features with their types."""
        fields = tuple(Column(f.name, f.dtype) for f in self.fields)
        return fields + tuple(Column(w.name, w.result_dtype) for w in self.windows)

    @property
    def used_columns(self) -> tuple[str, ...]:
        """Columns of the source row, derived ones included, that keys, clocks, ``where`` and features read."""
        picked = [f.name for f in self.fields] + [w.column for w in self.windows]
        where = () if self.where is None else self.where.columns
        return tuple(dict.fromkeys([*self.keys, *self.clocks, *filter(None, [self.created]), *picked, *where]))

    @property
    def needed(self) -> tuple[Derived, ...]:
        """The derived columns that are used, or that such a one reads, in order."""
        wanted, found = set(self.used_columns), []
        for derived in reversed(self.derived):
            if derived.name in wanted:
                found.append(derived)
                wanted.update(derived.expression.columns)
        return tuple(reversed(found))

    @property
    def source_columns(self) -> tuple[str, ...]:
        """What has to be read from the source: its own columns behind all that is used, and when they are known."""
        own = [name for column in self.used_columns for name in self.origins(column)]
        known = dict(self.known_at)
        return tuple(dict.fromkeys([*own, *(known[name] for name in own if name in known)]))

    def origins(self, column: str) -> tuple[str, ...]:
        """The source columns that ``column`` is computed from; itself where it is one."""
        for i, derived in enumerate(self.derived):
            if derived.name == column:
                earlier = {d.name for d in self.derived[:i]}
                found = (self.origins(n) if n in earlier else (n,) for n in derived.expression.columns)
                return tuple(dict.fromkeys(name for names in found for name in names))
        return (column,)

    @property
    def defaults(self) -> dict[str, Default]:
        """Declared defaults by feature; only those there are."""
        return {f.name: f.default for f in self.fields if f.default is not None}

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "entity": self.entity.to_dict(),
            "source": self.source,
            "event_time": self.event_time,
            "fields": [field.to_dict() for field in self.fields],
            "windows": [
                {
                    "name": w.name,
                    "column": w.column,
                    "function": w.function,
                    "length_us": w.length // timedelta(microseconds=1),
                    "event_time": w.event_time,
                    "dtype": w.dtype,
                }
                for w in self.windows
            ],
            "ttl_us": _micros(self.ttl),
            "created": self.created,
            "where": None if self.where is None else self.where.to_dict(),
            "derived": [derived.to_dict() for derived in self.derived],
            "tile_us": _micros(self.tile),
            "known_at": dict(self.known_at),
        }

    @staticmethod
    def from_dict(tree: Mapping[str, Any]) -> FeatureView:
        return FeatureView(
            name=tree["name"],
            entity=Entity.from_dict(tree["entity"]),
            source=tree["source"],
            event_time=tree["event_time"],
            fields=tuple(Field.from_dict(field) for field in tree["fields"]),
            windows=tuple(_window(w) for w in tree["windows"]),
            ttl=_length(tree["ttl_us"]),
            created=tree["created"],
            where=None if tree["where"] is None else Expr.from_dict(tree["where"]),
            derived=tuple(Derived.from_dict(derived) for derived in tree["derived"]),
            tile=_length(tree["tile_us"]),
            known_at=tree["known_at"],
        )

    def digest(self) -> str:
        return digest_of(self.to_dict())

    def info(self) -> FeatureViewInfo:
        return FeatureViewInfo(
            name=self.name,
            digest=self.digest(),
            entity=self.entity.name,
            join_key=",".join(self.keys),
            features=self.columns,
            ttl_s=None if self.ttl is None else self.ttl.total_seconds(),
            source=self.source,
            table=self.table,
            join_keys=self.keys,
        )


# --- inside ---------------------------------------------------------------------------------------


def _known_dtype(what: str, dtype: str, known: tuple[str, ...]) -> None:
    if dtype not in known:
        raise InvalidInput(what, f"dtype {dtype!r} is none of {', '.join(known)}")


def check_distinct(what: str, names: tuple[str, ...], taken: set[str]) -> None:
    """Raises `InvalidInput` for a name that comes twice or is in ``taken``."""
    for name in names:
        if name in taken:
            raise InvalidInput(what, f"the name {name!r} is already taken")
        taken.add(name)


def _window(tree: Mapping[str, Any]) -> Window:
    length = timedelta(microseconds=tree["length_us"])
    return Window(tree["name"], tree["column"], tree["function"], length, tree["event_time"], tree["dtype"])


def _micros(length: timedelta | None) -> int | None:
    return None if length is None else length // timedelta(microseconds=1)


def _length(micros: int | None) -> timedelta | None:
    return None if micros is None else timedelta(microseconds=micros)


def short(digest: str) -> str:
    """The twelve digits of a digest that table names and ids carry."""
    return digest[7:19]


def digest_of(tree: Any) -> str:
    """``sha256:…`` of the canonical JSON of ``tree``."""
    text = json.dumps(tree, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()
