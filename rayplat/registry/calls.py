"""How an operation of the record crosses to the process that owns the record: by its name, with its arguments.

An operation is a module-level function under `rayplat.registry.record` whose first parameter is a connection (reads)
or a `Tx` (writes). Sending names keeps the actor's surface closed: nothing else can be called through it.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import pickle
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, Protocol, TypeVar

from rayplat.errors import InvalidInput

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from rayplat.registry.record.database import Tx

P = ParamSpec("P")
R = TypeVar("R")
_PACKAGE = "rayplat.registry.record."
# What the platform notes for itself, on nobody's behalf: how far a receiver has been told, what may be forgotten.
_OWN = frozenset(_PACKAGE + name for name in ("webhooks:settle", "events:prune", "happenings:note_sent"))


CALLS = frozenset(
    {
        "read",
        "write",
        "listen",
        "listen_many",
        "listen_release",
        "ack",
        "acks",
        "heartbeat",
        "version",
        "alias",
        "authenticate",
    }
)


def packed(*args: Any) -> bytes:
    """Arguments for `actor.Registry.packed`."""
    return pickle.dumps(args)


def answer(sent: bytes) -> Any:
    """What `actor.Registry.packed` answered: the result, or our error raised."""
    went_well, found = pickle.loads(sent)
    if not went_well:
        raise found
    return found


class Registry(Protocol):
    """What callers of the registry need: operations of the record, wherever it is."""

    def read(self, query: Callable[Concatenate[Connection, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
        """What ``query(connection, *args, **kwargs)`` finds."""
        ...

    def write(self, operation: Callable[Concatenate[Tx, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
        """The result of ``operation(tx, *args, **kwargs)``: all of it is committed, or nothing, and once."""
        ...


def name_of(operation: Callable[..., Any], kind: Literal["read", "write"]) -> str:
    """``module:function`` of an operation of the record. Raises `InvalidInput` for anything else."""
    name = f"{operation.__module__}:{operation.__qualname__}"
    resolve(name, kind)
    return name


@functools.lru_cache(maxsize=1024)
def resolve(name: str, kind: Literal["read", "write"]) -> Callable[..., Any]:
    """The operation of that name: a public function of the record that begins with ``connection`` (reads) or with
    ``tx`` (writes). A write says who asks (``by``), so the steps that operations consist of cannot be called alone.

    Raises `InvalidInput`.
    """
    found = _function(name)
    if found is not None:
        parameters = list(inspect.signature(found).parameters)
        if kind == "read" and parameters[:1] == ["connection"]:
            return found
        if kind == "write" and parameters[:1] == ["tx"] and (_names_who_asks(found) or name in _OWN):
            return found
    raise InvalidInput("operation", f"{name[:200]!r} is no operation of the registry's record to {kind}")


def _names_who_asks(operation: Callable[..., Any]) -> bool:
    """Whether ``by`` is a principal, whose role is looked at; steps that only note a name have a text there."""
    return str(operation.__annotations__.get("by", "")).startswith("Principal")


def _function(name: str) -> Callable[..., Any] | None:
    module, _, function = name.partition(":")
    if not module.startswith(_PACKAGE) or function.startswith("_"):
        return None
    try:
        found = getattr(importlib.import_module(module), function, None)
    except ImportError:
        return None
    return found if inspect.isfunction(found) and found.__module__ == module else None
